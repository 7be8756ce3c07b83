//! `calls list`: which calls, in which order, in which form; and where the journal is.

use crate::EXO_INGEST;
use crate::calls::{calls, frame, good, json, text};
use exo_ingest::archive::image::{self, Image};
use exo_ingest_harness::{NodeProcess, eventually, wire};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const MINUTE: u64 = 60_000_000;

/// Starts at 08:16:40. `acme/a-1`: 3 frames, stopped, and 20 minutes later again 1 frame, reset.
/// `acme/b-1`: 5 frames, cut. `other/a-2`: 2 frames, stopped.
fn journal() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(image::run(1), 0, 64 * 1024).unwrap();
    for (tenant, interaction, frames, ending, pause) in [
        ("acme", "a-1", 3, Some(1), MINUTE),
        ("acme", "b-1", 5, None, MINUTE),
        ("other", "a-2", 2, Some(1), 18 * MINUTE),
        ("acme", "a-1", 1, Some(4), 0),
    ] {
        let call = image.start(tenant, interaction, 8_000);
        for value in 1..=frames {
            image.pass(100_000);
            image.frame(call, &frame(value));
        }
        if let Some(ending) = ending {
            image.end(call, ending);
        }
        image.pass(pause);
    }
    image.seal();
    image.store(dir.path()).unwrap();
    dir
}

/// The calls and epochs of a listing, in order.
fn listed(dir: &Path, args: &[&str]) -> Vec<String> {
    let output = good(dir, &[&["list"], args].concat());
    let rows = text(&output).lines().skip(1);
    rows.map(|row| row.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn filters_choose_whole_recordings() {
    let journal = journal();
    for (args, expected) in [
        (&[][..], &["acme/a-1 1", "acme/a-1 2", "acme/b-1 1", "other/a-2 1"][..]),
        (&["--tenant", "acme"], &["acme/a-1 1", "acme/a-1 2", "acme/b-1 1"]),
        (&["--tenant", "acm"], &[]),
        (&["--prefix", "a-"], &["acme/a-1 1", "acme/a-1 2", "other/a-2 1"]),
        (&["--prefix", "a-", "--tenant", "other"], &["other/a-2 1"]),
        (&["--since", "2027-01-15T08:17:30Z"], &["acme/a-1 2", "acme/b-1 1", "other/a-2 1"]),
        (
            &["--since", "2027-01-15T09:17:30+01:00", "--until", "2027-01-15 08:20"],
            &["acme/b-1 1", "other/a-2 1"],
        ),
        (&["--until", "2027-01-15"], &[]),
        (&["--ended", "stopped"], &["acme/a-1 1", "other/a-2 1"]),
        (&["--ended", "reset"], &["acme/a-1 2"]),
        (&["--ended", "cut"], &["acme/b-1 1"]),
        (&["--live"], &[]),
    ] {
        assert_eq!(listed(journal.path(), args), expected, "{args:?}");
    }
    // 1970, whenever this runs.
    assert_eq!(listed(journal.path(), &["--since", "100 years ago"]).len(), 4);
    assert_eq!(listed(journal.path(), &["--until", "100years"]).len(), 0);
}

#[test]
fn a_listing_has_the_order_that_was_asked_for_and_no_more_calls() {
    let journal = journal();
    let calls = |args: &[&str]| {
        let mut calls = listed(journal.path(), args);
        calls.dedup_by_key(|row| row.split(' ').next().map(str::to_owned));
        calls
            .iter()
            .map(|row| row[row.find('/').unwrap() + 1..][..3].to_owned())
            .collect::<Vec<_>>()
    };
    for (key, order) in [
        ("start", ["a-1", "b-1", "a-2"]),
        ("end", ["b-1", "a-2", "a-1"]),
        ("seconds", ["a-2", "a-1", "b-1"]),
        ("frames", ["a-2", "a-1", "b-1"]),
        ("gaps", ["a-1", "b-1", "a-2"]),
        ("call", ["a-1", "b-1", "a-2"]),
    ] {
        let reversed: Vec<&str> = order.iter().rev().copied().collect();
        assert_eq!(calls(&["--sort", key]), order, "{key}");
        assert_eq!(calls(&["--sort", key, "--reverse"]), reversed, "{key}");
        for limit in 0..4 {
            let (kept, limit) = (limit.min(3), limit.to_string());
            assert_eq!(calls(&["--sort", key, "--limit", &limit]), order[..kept], "{key}");
            assert_eq!(calls(&["--sort", key, "--limit", &limit, "-r"]), reversed[..kept], "{key}");
        }
    }
}

#[test]
fn more_calls_than_fit_into_memory_are_sorted_in_a_file() {
    const CALLS: u64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(image::run(1), 0, 4 << 20).unwrap();
    for number in 0..CALLS {
        // In another order than they begin.
        let name = format!("call-{:05}", number * 7_919 % CALLS);
        let call = image.start("acme", &name, 8_000);
        image.end(call, 1);
        image.forget(call);
        if number % 1_000 == 0 {
            image.seal();
        }
    }
    image.seal();
    image.store(dir.path()).unwrap();
    let list = |args: &[&str]| good(dir.path(), &[&["list", "--json-lines"], args].concat());
    for (order, first) in
        [(&["--sort", "call"][..], "call-00000"), (&["--sort", "call", "-r"], "call-19999")]
    {
        let sorted = list(order);
        let line: Value =
            serde_json::from_slice(sorted.split(|b| *b == b'\n').next().unwrap()).unwrap();
        assert_eq!(line["interaction"], first);
        // With a limit they are sorted in memory.
        assert!(sorted == list(&[order, &["--limit", "1000000"]].concat()));
    }
    let mut command = Command::new(EXO_INGEST);
    command.args(["calls", "list", "--sort", "end", "--data-dir"]).arg(dir.path());
    let output = command.env_clear().env("TMPDIR", "/nonexistent").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("cannot sort the calls in /nonexistent") && error.contains("TMPDIR"));
}

#[test]
fn times_are_utc_or_those_of_this_machine_with_their_offset() {
    let journal = journal();
    let times = |zone: &str, args: &[&str]| {
        let mut command = Command::new(EXO_INGEST);
        command.arg("calls").args(args).arg("--data-dir").arg(journal.path());
        let output = command.env_clear().env("TZ", zone).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let central = "CET-1CEST,M3.5.0,M10.5.0/3";
    for (zone, started) in [
        ("UTC", "2027-01-15T08:16:40.000+00:00"),
        ("IST-5:30", "2027-01-15T13:46:40.000+05:30"),
        ("CST6CDT", "2027-01-15T02:16:40.000-06:00"),
        ("PST+8", "2027-01-15T00:16:40.000-08:00"),
        ("FAR+8:30", "2027-01-14T23:46:40.000-08:30"),
        (central, "2027-01-15T09:16:40.000+01:00"),
        // As if winter were summer.
        ("CET-1CEST,M10.5.0,M3.5.0/3", "2027-01-15T10:16:40.000+02:00"),
    ] {
        for args in [&["list", "--local"][..], &["show", "acme/a-1", "--local"]] {
            let shown = times(zone, args);
            assert!(shown.contains(started), "{zone}: {shown}");
        }
        let utc = times(zone, &["list"]);
        assert!(utc.contains("2027-01-15T08:16:40.000Z"), "{zone}: {utc}");
    }
}

#[test]
fn json_is_one_document_or_one_line_for_each_call() {
    let journal = journal();
    let document = json(journal.path(), &["list", "--since", "2027-01-15T08:17:30Z"]);
    assert_eq!(document["epochs_nameless"], 0);
    let calls = document["calls"].as_array().unwrap();
    assert_eq!((calls.len(), &calls[0]["call"]), (3, &"acme/a-1".into()));
    let epochs = calls[0]["epochs"].as_array().unwrap();
    assert_eq!(
        (epochs.len(), &epochs[0]["epoch"], &epochs[0]["peer"]),
        (1, &2.into(), &Value::Null)
    );
    assert_eq!(epochs[0]["ended_at"], "2027-01-15T08:36:41.100Z");
    assert_eq!(epochs[0]["started_at"], "2027-01-15T08:36:41.000Z");

    let output = good(journal.path(), &["list", "--json-lines", "--since", "2027-01-15T08:17:30Z"]);
    let lines: Vec<Value> =
        text(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(Value::from(lines), document["calls"]);
    let document = json(journal.path(), &["list", "--tenant", "nobody"]);
    assert_eq!(document, serde_json::json!({ "calls": [], "epochs_nameless": 0 }));
}

#[test]
fn a_wrong_value_says_what_to_write() {
    let journal = journal();
    for (args, words) in [
        (&["--since", "yesterday"][..], "30d"),
        (&["--until", "2026-13-01"], "2026-11-30"),
        (&["--since", "2027-01-02", "--until", "2027-01-01"], "earlier"),
        (&["--ended", "stoped"], "stopped"),
        (&["--ended", "live"], "--help"),
        (&["--sort", "star"], "start"),
        (&["--limit", "many"], "--limit"),
        (&["--live", "--ended", "cut"], "--ended"),
        (&["--tenant", ""], "1 to 256 bytes"),
        (&["--tennant", "acme"], "--tenant"),
        (&["--json", "--json-lines"], "--json-lines"),
    ] {
        let output = calls(journal.path(), &[&["list"], args].concat());
        let error = text(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}: {error}");
        assert!(error.contains(words), "{args:?}: {error}");
    }
}

#[test]
fn the_directory_may_come_from_the_configuration_of_the_node() {
    let (journal, other) = (journal(), tempfile::tempdir().unwrap());
    let file = other.path().join("exo.toml");
    let run = |args: &[&str], variables: &[(&str, &Path)]| {
        let mut command = Command::new(EXO_INGEST);
        command.args(["calls", "list"]).args(args).env_clear();
        command.envs(variables.iter().copied()).output().unwrap()
    };
    let rows = |args: &[&str], variables: &[(&str, &Path)]| {
        let output = run(args, variables);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).lines().count()
    };
    let config = ["--config", file.to_str().unwrap()];
    std::fs::write(&file, format!("data_dir = {:?}\nshards = 2\n", journal.path())).unwrap();
    assert_eq!(rows(&config, &[]), 5);
    assert_eq!(rows(&[], &[("EXO_INGEST_CONFIG", &file)]), 5);

    // Flag over variable over file.
    std::fs::write(&file, "data_dir = \"/nonexistent/from-the-file\"\n").unwrap();
    let output = run(&config, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nonexistent/from-the-file"));
    assert_eq!(rows(&config, &[("EXO_INGEST_DATA_DIR", journal.path())]), 5);
    let flag = ["--data-dir", journal.path().to_str().unwrap()];
    let variable = Path::new("/nonexistent/from-the-variable");
    assert_eq!(rows(&[config, flag].concat(), &[("EXO_INGEST_DATA_DIR", variable)]), 5);

    for (toml, words) in [
        (Some("shards = 2\n"), "sets no data_dir"),
        (Some("data_dri = \"/x\"\n"), "did you mean `data_dir`?"),
        (None, "--data-dir"),
    ] {
        let output = match toml {
            Some(toml) => {
                std::fs::write(&file, toml).unwrap();
                run(&config, &[])
            }
            None => run(&[], &[]),
        };
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
}

#[test]
fn a_call_shows_the_address_it_came_from_while_it_is_live_and_after() {
    let dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(EXO_INGEST, dir.path(), &[]);
    let mut call = node.call_as("acme", "one");
    call.send_frames(10, 320);
    call.expect_ack(10);
    let address = call.socket().local_addr().unwrap().to_string();
    let live = json(dir.path(), &["list", "--live"]);
    let epoch = &live["calls"][0]["epochs"][0];
    assert_eq!((&epoch["peer"], &epoch["ended"]), (&address.as_str().into(), &"live".into()));
    assert_eq!(epoch["ended_at"], Value::Null);
    call.send(&wire::text(r#"{"event":"stop"}"#));
    call.receive();
    call.expect_close(1000, "");
    eventually("the end is in the journal", || {
        json(dir.path(), &["list", "--ended", "stopped"])["calls"].as_array().unwrap().len() == 1
    });
    drop(node);

    let output = good(dir.path(), &["list", "--ended", "stopped"]);
    assert!(text(&output).contains(&format!("  {address}  stopped")), "{}", text(&output));
    let output = good(dir.path(), &["show", "acme/one"]);
    assert!(text(&output).contains(&format!("peer     {address}")), "{}", text(&output));
}
