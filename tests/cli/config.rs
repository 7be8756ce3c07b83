//! `exo-ingest config`: the effective configuration, with the source of each value.

use crate::EXO_INGEST;
use std::path::Path;
use std::process::{Command, Output};

fn config(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(EXO_INGEST);
    command.arg("config").args(args).env_clear().envs(variables.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The value and source of a setting in the table.
fn row(output: &Output, key: &str) -> (String, String) {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let line =
        text(&output.stdout).lines().find(|line| line.split_whitespace().next() == Some(key));
    let cells: Vec<&str> = line
        .unwrap_or_else(|| panic!("no {key}"))
        .split("  ")
        .map(str::trim)
        .filter(|c| !c.is_empty())
        .collect();
    (cells[1].into(), cells[2].into())
}

fn file(directory: &Path, contents: &str) -> String {
    let path = directory.join("exo.toml");
    std::fs::write(&path, contents).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn each_value_shows_its_source() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(
        directory.path(),
        "max_calls = 7\n[limits]\nring_size = \"64MiB\"\n[jwt]\nissuer = \"us\"\n",
    );
    let variables = [("EXO_INGEST_JWT_ISSUER", "them"), ("EXO_INGEST_LIMITS_FRAGMENTS_MAX", "8")];
    let args =
        ["--config", &path, "--listen", "[::1]:9", "--set", "timeouts.head=1s", "--no-journal"];
    let output = config(&args, &variables);
    let pair = |value: &str, source: &str| (value.to_owned(), source.to_owned());
    assert_eq!(row(&output, "listen"), pair("[::1]:9", "--listen"));
    assert_eq!(row(&output, "timeouts.head"), pair("1s", "--set timeouts.head"));
    assert_eq!(row(&output, "no_journal"), pair("true", "--no-journal"));
    assert_eq!(row(&output, "ack"), pair("received", "default"));
    assert_eq!(row(&output, "jwt.issuer"), pair("them", "EXO_INGEST_JWT_ISSUER"));
    assert_eq!(row(&output, "limits.fragments_max"), pair("8", "EXO_INGEST_LIMITS_FRAGMENTS_MAX"));
    assert_eq!(row(&output, "limits.calls_max"), pair("7", &format!("{path}:1")));
    assert_eq!(row(&output, "limits.ring_size"), pair("64MiB", &format!("{path}:3")));
    assert_eq!(row(&output, "limits.message_size_max"), pair("256KiB", "default"));
    assert_eq!(row(&output, "jwt.key"), pair("-", "default"));
}

#[test]
fn the_file_may_be_named_by_a_variable_and_the_flag_wins() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "drain = \"7s\"\n");
    let output = config(&[], &[("EXO_INGEST_CONFIG", &path)]);
    assert_eq!(row(&output, "drain").0, "7s");
    let other_directory = tempfile::tempdir().unwrap();
    let other = file(other_directory.path(), "drain = \"8s\"\n");
    let output = config(&["--config", &other], &[("EXO_INGEST_CONFIG", &path)]);
    assert_eq!(row(&output, "drain").0, "8s");
}

#[test]
fn json_carries_the_same() {
    let output = config(
        &["--json", "--max-ahead", "off", "--no-journal=false"],
        &[("EXO_INGEST_LOG", "json")],
    );
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let find = |name: &str| {
        document["settings"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["name"] == name)
            .unwrap()
            .clone()
    };
    let ahead = find("limits.max_ahead");
    assert_eq!(
        (&ahead["value"], &ahead["source"], &ahead["default"]),
        (&"off".into(), &"--max-ahead".into(), &"30s".into())
    );
    assert_eq!(ahead["flag"], "--max-ahead");
    assert_eq!(find("log")["source"], "EXO_INGEST_LOG");
    assert_eq!(find("no_journal")["value"], "false");
    assert_eq!(find("jwt.key")["value"], serde_json::Value::Null);
    assert_eq!(find("timeouts.wait")["variable"], "EXO_INGEST_TIMEOUTS_WAIT");
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn mistakes_are_named_with_where_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "\n[limits]\nring_size = \"lots\"\n");
    for (args, variables, words) in [
        (
            &["--config", &path][..],
            &[][..],
            format!("bad value \"lots\" for limits.ring_size ({path}:3)"),
        ),
        (&[], &[("EXO_INGEST_RING_SIZE", "1MiB")], "did you mean `EXO_INGEST_".into()),
        (&[], &[("EXO_INGEST_DRAIN", "30")], "for drain (EXO_INGEST_DRAIN): write a time".into()),
        (&["--set", "limit.ring_size=64MiB"], &[], "did you mean `limits.ring_size`?".into()),
        (
            &["--max-calls", "5", "--set", "limits.calls_max=6"],
            &[],
            "by --max-calls and by --set limits.calls_max".into(),
        ),
        (&["--set", "timeouts.ping=1m"], &[], "shorter than timeouts.idle (30s, default)".into()),
    ] {
        let output = config(args, variables);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let errors = text(&output.stderr);
        assert!(errors.starts_with("error: ") && errors.lines().count() == 1, "{errors}");
        assert!(errors.contains(&words), "{errors}");
    }
}

#[test]
fn the_reference_lists_every_setting_of_the_configuration() {
    let output = config(&["--reference"], &[]);
    let reference = text(&output.stdout).to_owned();
    let output = config(&[], &[]);
    for line in text(&output.stdout).lines().skip(1) {
        let key = line.split_whitespace().next().unwrap();
        assert!(reference.contains(&format!("- **`{key}`**: ")), "{key}");
    }
    for line in reference.lines() {
        assert!(line.chars().count() <= 100 && line.starts_with(['-', ' ']), "{line}");
    }
}

#[test]
fn an_unwise_setting_gets_a_warning_beside_the_output() {
    let output = config(&["--json", "--set", "limits.ring_size=16MiB"], &[]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(document["warnings"][0].as_str().unwrap().contains("limits.ring_size"));
    let output = config(&["--set", "limits.ring_size=16MiB"], &[]);
    assert!(text(&output.stderr).starts_with("warning: limits.ring_size"));
}

#[test]
fn secrets_are_not_printed() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(
        directory.path(),
        "[archive]\nurl = \"s3://recordings/exo\"\n\
         options = [\"endpoint=http://s:hush@h:1\", \"secret_access_key=hush=hush\", \
         \"session_token=hush\", \"access_key_id=AKIA\", \"allow_http=true\"]\n",
    );
    let args = ["--config", &path, "--set", "archive2.options=sas_key=hush"];
    let output = config(&args, &[]);
    let (options, source) = row(&output, "archive.options");
    assert_eq!(
        options,
        "endpoint=http://s:***@h:1,secret_access_key=***,session_token=***,\
         access_key_id=AKIA,allow_http=true"
    );
    assert!(source.starts_with(&path), "{source}");
    assert_eq!(row(&output, "archive2.options").0, "sas_key=***");
    let json = config(&[&args[..], &["--json"]].concat(), &[]);
    assert!(text(&json.stdout).contains("secret_access_key=***"), "{}", text(&json.stdout));
    // Twice the same, and an item that is none.
    let twice = config(&[&args[..], &["--set", "archive2.options=sas_key=hush"]].concat(), &[]);
    let bad = config(
        &[&args[..], &["--archive", "s3://a:hush@b/c", "--set", "archive2.options=hush,,"]]
            .concat(),
        &[],
    );
    for output in [output, json, twice, bad] {
        for stream in [&output.stdout, &output.stderr] {
            assert!(!text(stream).contains("hush"), "{}", text(stream));
        }
    }
}
