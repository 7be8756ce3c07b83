//! The Debian package as `Cargo.toml` describes it. `tuning/package.sh` builds it with cargo-deb,
//! which takes minutes to install. So this checks without it that every part is there.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use toml::{Table, Value};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).expect(name)
}

fn package() -> Table {
    let manifest: Table = read("Cargo.toml").parse().expect("Cargo.toml");
    manifest["package"]["metadata"]["deb"].as_table().expect("a table").clone()
}

/// Source, destination and mode of each asset.
fn assets() -> Vec<[String; 3]> {
    let package = package();
    let assets = package["assets"].as_array().expect("a list");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let row = |asset: &Value| {
        let fields = asset.as_array().expect("a list");
        [text(&fields[0]), text(&fields[1]), text(&fields[2])]
    };
    assets.iter().map(row).collect()
}

#[test]
fn every_asset_is_there_or_made_by_the_script() {
    let script = read("tuning/package.sh");
    for [source, ..] in assets() {
        if let Some(program) = source.strip_prefix("target/release/") {
            assert!(script.contains(&format!(" -p {program} ")), "{program} is not built");
        } else if let Some(made) = source.strip_prefix("target/package/") {
            // Such as completions.bash, which a loop writes as "completions.$shell".
            let (stem, _) = made.split_once(['.', '/']).unwrap_or((made, ""));
            assert!(script.contains(&format!("$made/{stem}")), "{made} is not made");
        } else if let Some((directory, pattern)) = source.split_once("/*") {
            let files = std::fs::read_dir(root().join(directory)).expect("a directory");
            let found = files.filter(|file| {
                file.as_ref().is_ok_and(|it| it.path().to_string_lossy().ends_with(pattern))
            });
            assert!(found.count() > 0, "{source}");
        } else {
            assert!(root().join(&source).is_file(), "{source}");
        }
    }
}

#[test]
fn a_configuration_file_is_an_asset_and_stays_at_an_upgrade() {
    let installed: BTreeSet<String> = assets()
        .into_iter()
        .filter(|[_, to, _]| to.starts_with("etc/"))
        .map(|[from, to, _]| format!("/{to}{}", from.rsplit('/').next().expect("a name")))
        .collect();
    let package = package();
    let kept = package["conf-files"].as_array().expect("a list").iter();
    assert_eq!(installed, kept.map(|it| it.as_str().expect("a path").to_owned()).collect());
}

#[test]
fn the_scripts_of_the_package_are_programs() {
    for name in ["postinst", "prerm", "postrm"] {
        let path = root().join("tuning/debian").join(name);
        let mode = std::fs::metadata(&path).expect(name);
        let is_program = std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o111 != 0;
        assert!(is_program, "{name}");
        let checked = Command::new("sh").arg("-n").arg(&path).status().expect("sh");
        assert!(checked.success(), "{name}");
    }
    let postrm = read("tuning/debian/postrm");
    let erases = postrm.find("rm -rf /var/lib/exo-ingest").expect("it can erase recordings");
    let asked = postrm.find("\"${EXO_INGEST_PURGE:-}\" = recordings").expect("it asks first");
    assert!(asked < erases);
}

/// The lines of the unit that the package changes. Without one of them the package would start a
/// program that is not there, or make a second user.
#[test]
fn the_script_changes_lines_that_the_unit_has() {
    let unit = read("tuning/exo-ingest.service");
    for line in [
        "ExecStart=/usr/local/bin/exo-ingest serve --config /etc/exo-ingest/exo-ingest.toml",
        "# systemd makes a user for it.",
        "DynamicUser=yes",
    ] {
        assert!(unit.lines().any(|it| it == line), "{line}");
    }
    assert!(unit.starts_with("# systemd unit"));
    assert!(read("tuning/exo-ingest.socket").starts_with("# systemd socket"));
}

/// A stop takes drain_grace, drain, and what the last call may take: docs/operations.md, "Drain".
#[test]
fn systemd_waits_for_the_whole_drain() {
    let reference = read("docs/configuration.md");
    let default = |setting: &str| -> u32 {
        let (_, rest) = reference.split_once(&format!("- **`{setting}`**")).expect(setting);
        let (_, rest) = rest.split_once("default `").expect("it has a default");
        let (value, _) = rest.split_once("s`").expect("in seconds");
        value.parse().expect("a number")
    };
    let unit = read("tuning/exo-ingest.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec="));
    let timeout: u32 = line.expect("a time-out").trim_end_matches('s').parse().expect("seconds");
    assert!(timeout > default("drain") + default("drain_grace") + 12, "{timeout}");
}
