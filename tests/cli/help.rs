//! Help, version, and how a wrong command line ends.

use crate::EXO_INGEST;
use std::process::{Command, Output};

fn exo_ingest(args: &[&str]) -> Output {
    Command::new(EXO_INGEST).args(args).env_clear().output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn every_command_has_help_with_an_example_of_itself() {
    for command in [
        "",
        "serve",
        "dev",
        "config",
        "doctor",
        "doctor explain",
        "keygen",
        "token",
        "token mint",
        "token verify",
        "calls",
        "calls list",
        "calls show",
        "calls export",
        "calls verify",
        "calls follow",
        "calls delete",
        "calls seal",
        "completions",
        "man",
        "top",
        "ship",
        "read",
        "archive list",
        "archive show",
        "archive export",
        "archive verify",
        "archive compact",
        "archive delete",
    ] {
        let mut args: Vec<&str> = command.split_whitespace().collect();
        args.push("--help");
        let output = exo_ingest(&args);
        let help = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{command}");
        let (_, examples) = help
            .split_once("\nExample")
            .unwrap_or_else(|| panic!("{command} has no example:\n{help}"));
        assert!(examples.contains(&format!("exo-ingest {command}")), "{command}:\n{examples}");
        assert!(stderr(&output).is_empty());
    }
}

#[test]
fn serve_has_the_stable_flags_and_none_that_do_nothing_yet() {
    let help = stdout(&exo_ingest(&["serve", "--help"]));
    let flags = "listen admin jwt-key jwt-issuer jwt-audience jwt-leeway tls-cert tls-key \
        claim-match cpus shards no-journal data-dir ack retain-bytes retain-age max-calls \
        max-ahead allowed-origins message-size-max drain log config set kernel-features \
        allow-unregistered ready-fd check";
    for flag in flags.split_whitespace() {
        assert!(
            help.contains(&format!("--{flag} "))
                || help.contains(&format!("--{flag}["))
                || help.contains(&format!("--{flag}\n")),
            "--{flag} is missing:\n{help}"
        );
    }
}

#[test]
fn help_shows_the_defaults_of_the_command_that_it_is_about() {
    let [serve, dev] = ["serve", "dev"].map(|command| stdout(&exo_ingest(&[command, "--help"])));
    assert!(
        serve.contains("[default: 0.0.0.0:8443]") && !serve.contains("[default: 127.0.0.1:8443]"),
        "{serve}"
    );
    assert!(
        dev.contains("[default: 127.0.0.1:8443]") && !dev.contains("[default: 0.0.0.0:8443]"),
        "{dev}"
    );
    assert!(dev.contains("[default: tenant]") && dev.contains("[default: 2s]"), "{dev}");
}

#[test]
fn version_names_the_program_its_version_and_its_commit() {
    let git = |args: &[&str]| {
        let output =
            Command::new("git").args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        let text =
            output.ok().filter(|output| output.status.success()).map(|output| stdout(&output));
        text.map(|text| text.trim().to_owned())
    };
    let is_own =
        git(&["rev-parse", "--show-toplevel"]).is_some_and(|top| top == env!("CARGO_MANIFEST_DIR"));
    let commit =
        git(&["rev-parse", "--short=12", "HEAD"]).filter(|_| is_own).unwrap_or("unknown".into());
    let output = exo_ingest(&["--version"]);
    assert_eq!(stdout(&output), format!("exo-ingest {} ({commit})\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn output_that_cannot_be_written_is_a_failure_and_a_reader_that_has_gone_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    let keys = keys.to_str().unwrap();
    assert!(exo_ingest(&["keygen", "--out", keys]).status.success());
    let (private, public) = (format!("{keys}/private.pem"), format!("{keys}/public.pem"));
    let mint = ["token", "mint", "--key", &private, "--tenant", "a", "--interaction", "b"];
    let token = stdout(&exo_ingest(&mint));
    let other = format!("{keys}-2");
    for args in [
        &["--help"][..],
        &["--version"],
        &["serve", "--help"],
        &["calls", "export", "--help"],
        &["help", "token"],
        &["config"],
        &["keygen", "--out", &other],
        &mint,
        &["token", "verify", "--jwt-key", &public, token.trim()],
    ] {
        let run = |out: std::process::Stdio| {
            let mut command = Command::new(EXO_INGEST);
            let output = command.args(args).env_clear().stdout(out).output().unwrap();
            (output.status.code(), stderr(&output))
        };
        let (code, errors) =
            run(std::fs::File::options().write(true).open("/dev/full").unwrap().into());
        assert_eq!(code, Some(1), "{args:?}: {errors}");
        assert!(errors.contains("No space left on device"), "{args:?}: {errors}");
        let _ = std::fs::remove_dir_all(&other);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (code, errors) = run(writer.into());
        assert_eq!((code, errors.contains("error")), (Some(0), false), "{args:?}: {errors}");
    }
}

#[test]
fn a_wrong_command_line_exits_with_2_and_says_what_was_meant() {
    for (args, words) in [
        (&["serve", "--listn", "x"][..], "--listen"),
        (&["serv"], "serve"),
        (&[], "Usage"),
        (
            &["serve", "--no-journal", "--jwt-key", "k", "--max-calls", "many"],
            "bad value \"many\" for limits.calls_max",
        ),
        (&["serve", "--listen", "here"], "--listen"),
        (&["serve", "--set", "listen"], "key=value"),
        (&["serve", "--no-journal"], "exo-ingest keygen"),
        (&["serve", "--jwt-key", "k"], "--data-dir DIR"),
        (&["serve", "--jwt-key", "k", "--no-journal", "--ack", "durable"], "--ack received"),
        (
            &["serve", "--jwt-key", "k", "--no-journal", "--cpus", "1", "--shards", "1"],
            "give one of them",
        ),
        (&["serve", "--jwt-key", "k", "--no-journal", "--ready-fd", "1"], "--ready-fd 1"),
        (&["config", "--config", "/nonexistent.toml"], "/nonexistent.toml"),
    ] {
        let output = exo_ingest(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{args:?}: {}", stderr(&output));
        assert!(stdout(&output).is_empty(), "{args:?}: {}", stdout(&output));
    }
}

#[test]
fn a_key_file_that_cannot_be_read_is_2_and_names_the_file() {
    let output = exo_ingest(&["serve", "--no-journal", "--jwt-key", "/nonexistent/key.pem"]);
    assert_eq!(output.status.code(), Some(2));
    let errors = stderr(&output);
    let errors: Vec<&str> = errors.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].contains("/nonexistent/key.pem") && errors[0].contains("exo-ingest keygen"),
        "{errors:?}"
    );
}
