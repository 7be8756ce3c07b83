//! The node's own loader loads the sample configuration, so that it stays right. It names every
//! common setting, and each line that is commented out shows the default.

use crate::EXO_INGEST;
use std::path::Path;
use std::process::Command;

#[test]
fn the_sample_is_loaded_as_it_is_and_with_every_line_in_force() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/exo-ingest.toml");
    let settings = configuration(&sample);
    let given = settings.iter().filter(|setting| setting.source.contains("exo-ingest.toml"));
    let names: Vec<&str> = given.map(|setting| setting.name.as_str()).collect();
    assert_eq!(names, ["jwt.key", "data_dir"]);

    // A line such as `# max_calls = 16000` is a setting. A sentence is not.
    let text = std::fs::read_to_string(&sample).unwrap();
    let is_setting = |line: &str| {
        let name =
            line.strip_prefix("# ").and_then(|line| line.split_once(" = ")).map(|(name, _)| name);
        name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
    };
    let everything: String = text
        .lines()
        .map(
            |line| if is_setting(line) { format!("{}\n", &line[2..]) } else { format!("{line}\n") },
        )
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("everything.toml");
    std::fs::write(&path, everything).unwrap();
    let settings = configuration(&path);
    let given: Vec<_> =
        settings.iter().filter(|setting| setting.source.contains("everything.toml")).collect();
    assert!(given.len() > 30, "only {} settings were found", given.len());
    for setting in &given {
        let is_default = setting.default.is_none() || setting.value == setting.default;
        assert!(
            is_default,
            "{} is {:?} in the sample, and not the default",
            setting.name, setting.value
        );
    }
    // Every common setting is there: those with a flag. `shards` stands for `cpus`.
    for setting in settings.iter().filter(|setting| setting.has_flag && setting.name != "shards") {
        assert!(
            setting.source.contains("everything.toml"),
            "examples/exo-ingest.toml lacks {}",
            setting.name
        );
    }
}

/// A row of `exo-ingest config --json`.
struct Setting {
    name: String,
    value: Option<String>,
    default: Option<String>,
    source: String,
    has_flag: bool,
}

/// The effective configuration of a file, by the node's loader.
fn configuration(file: &Path) -> Vec<Setting> {
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().args(["config", "--json", "--config"]).arg(file);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = document["settings"].as_array().expect("a list");
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    rows.iter()
        .map(|row| Setting {
            name: text(&row["name"]).unwrap(),
            value: text(&row["value"]),
            default: text(&row["default"]),
            source: text(&row["source"]).unwrap(),
            has_flag: row["flag"].is_string(),
        })
        .collect()
}
