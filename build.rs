//! Tells node and generator which commit they were built from: `BUILT_FROM_COMMIT`, `unknown`
//! outside of the repository. Nothing else: a build depends on its sources and on nothing of its
//! time or place.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

/// Digits of a commit. Fixed, where git by itself takes as many as a clone needs.
const SHORT: &str = "--short=12";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let commit = commit().unwrap_or_else(|| "unknown".to_owned());
    // Not EXO_INGEST_…: cargo hands it to what it runs, and there that is a setting.
    println!("cargo::rustc-env=BUILT_FROM_COMMIT={commit}");
}

fn commit() -> Option<String> {
    // A copy without a history may lie in somebody else's repository.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let own = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR")?).canonicalize().ok()?;
    // The node's package is the top of its repository, the generator's a directory in it.
    let place = own.strip_prefix(Path::new(&top).canonicalize().ok()?).ok()?;
    if place != Path::new("") && place != Path::new("loadtest") {
        return None;
    }
    // What changes with the commit: another branch, and another commit of this one. A path that is
    // not there would have every build begin anew.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]).unwrap_or_default();
    for name in ["HEAD", "logs/HEAD", "packed-refs", &branch] {
        let path = if name.is_empty() { None } else { git(&["rev-parse", "--git-path", name]) };
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", SHORT, "HEAD"])
}

/// The output of a git command in the package's directory, where cargo runs this.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
