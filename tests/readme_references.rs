//! The README's tables of settings and metrics are those of the code. `EXO_INGEST_BLESS=1 cargo test --test readme_references`
//! writes them anew.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

/// What stands between the marks of `name` has to be what `arg` prints.
fn check(name: &str, arg: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_exo-ingest")).args(["config", arg]).env_clear().output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.lines().count() > 20, "{printed}");

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- begin {name}: exo-ingest config {arg} -->\n"), format!("<!-- end {name} -->\n"));
    let (before, rest) = readme.split_once(&begin).unwrap_or_else(|| panic!("README.md has no {begin}"));
    let (written, after) = rest.split_once(&end).unwrap_or_else(|| panic!("README.md has no {end}"));
    if std::env::var_os("EXO_INGEST_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{begin}{printed}{end}{after}")).unwrap();
        return;
    }
    let changed = printed.lines().find(|line| !written.lines().any(|other| other == *line));
    assert!(
        written == printed,
        "README.md is not what `exo-ingest config {arg}` prints (first: {changed:?}): run EXO_INGEST_BLESS=1 cargo test --test \
         readme_references"
    );
}

/// One test, so that two do not write the file at the same time.
#[test]
fn the_readme_has_every_setting_and_every_metric_as_the_code_has_them() {
    check("settings", "--reference");
    check("metrics", "--reference=metrics");
}
