//! Programs of `examples/`, built with the profile of the test that runs them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds an example and returns its path. `target` is the target directory. `cargo test` builds
/// examples, but `cargo test --test NAME` does not, and no variable says where they are.
pub fn build_example(target: &Path, name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test has a path");
    let directory = own.ancestors().nth(2).expect("target/PROFILE/deps/TEST-…");
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // For the whole workspace, as the tests are built: else dependencies get other features, and are
    // built once more.
    command
        .args([
            "build",
            "--quiet",
            "--workspace",
            "--example",
            name,
            "--profile",
            profile,
            "--target-dir",
        ])
        .arg(target);
    // `cargo test` sets these variables. For build scripts that read them (ring's) they would be a
    // change, and everything would be built again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| {
            name == "OUT_DIR"
                || name.starts_with("CARGO_PKG_")
                || name.starts_with("CARGO_MANIFEST_")
        }) {
            command.env_remove(name);
        }
    }
    let status = command.current_dir(root).status().expect("cargo");
    assert!(status.success(), "the example {name} does not build");
    directory.join("examples").join(name)
}
