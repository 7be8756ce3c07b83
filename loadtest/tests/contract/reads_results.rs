//! What earlier runs left is read again: `--baseline`, `compare`, `merge`, `report`, `plan`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::faulty::{Fault, Node, exo_load, result};

fn command(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_exo-load")).args(args).output().expect("exo-load starts")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("a file")).expect("JSON")
}

/// A run in a directory, and a way to change what it says.
struct Earlier {
    node: Node,
    _directory: tempfile::TempDir,
    out: PathBuf,
}

impl Earlier {
    fn play(flags: &[&str]) -> Self {
        Self::play_at(Node::start(Fault::None), flags)
    }

    fn play_at(node: Node, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let (code, json) = result(&node, &[&["--out", text(&out)], flags].concat());
        assert_eq!(code, 0, "{json:#}");
        Self { node, _directory: directory, out }
    }

    fn edit(&self, edit: impl FnOnce(&mut Value)) {
        let path = self.out.join("result.json");
        let mut result = read(&path);
        edit(&mut result);
        fs::write(path, result.to_string()).unwrap();
    }

    /// A second run that is held against this one.
    fn again(&self, flags: &[&str]) -> Output {
        exo_load(&self.node.url, &[&["--baseline", text(&self.out)], flags].concat())
    }
}

/// As many samples as every figure takes to be judged.
fn set_counts(result: &mut Value) {
    for metric in ["ack", "setup", "sendlag"] {
        result["latency_ns"][metric]["count"] = 10_000.into();
    }
}

/// Sets the figures that are compared.
fn set_figures(result: &mut Value, ns: u64) {
    for percentile in ["p50", "p99", "p99.9"] {
        result["latency_ns"]["ack"][percentile] = ns.into();
        result["latency_ns"]["setup"][percentile] = ns.into();
    }
}

#[test]
fn a_run_that_is_worse_than_its_baseline_says_so() {
    let earlier = Earlier::play(&[]);
    earlier.edit(|result| set_figures(result, 600_000_000_000));
    let better = earlier.again(&["--json"]);
    let json: Value = serde_json::from_slice(&better.stdout).unwrap();
    assert_eq!(
        (better.status.code(), json["baseline"]["is_worse"].as_bool()),
        (Some(0), Some(false)),
        "{json:#}"
    );
    assert_eq!(json["baseline"]["rows"].as_array().unwrap().len(), 4, "{json:#}");

    // Three calls of a second bring enough ACKs for a p50, and for no p99.
    earlier.edit(|result| set_figures(result, 1));
    let flags = ["--duration", "3s"];
    earlier.edit(set_counts);
    let worse = earlier.again(&[&flags[..], &["--json"]].concat());
    let json: Value = serde_json::from_slice(&worse.stdout).unwrap();
    assert_eq!(
        (worse.status.code(), &json["verdict"], &json["exit_code"]),
        (Some(4), &"worse".into(), &4.into()),
        "{json:#}"
    );
    crate::schema::check(&json);
    let judged: Vec<&str> = json["baseline"]["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["is_judged"] == true)
        .filter_map(|row| row["figure"].as_str())
        .collect();
    assert_eq!(judged, ["ack p50"], "{json:#}");
    let table = String::from_utf8(earlier.again(&flags).stdout).unwrap();
    assert!(
        table.contains("WORSE")
            && table.contains("ack p99.9")
            && table.trim_end().ends_with("WORSE"),
        "{table}"
    );
    assert!(table.contains("samples are too few"), "{table}");

    // A failure stays one: its figures are nothing to compare.
    let failed = earlier.again(&["--slo", "ack.p50<1ns"]);
    assert_eq!(failed.status.code(), Some(2));
}

#[test]
fn a_margin_is_what_one_asks_for() {
    let earlier = Earlier::play(&[]);
    earlier.edit(set_counts);
    let compared = |margin: &str, code: i32| {
        let other = earlier.out.with_file_name("other");
        fs::create_dir_all(&other).unwrap();
        let mut grown = read(&earlier.out.join("result.json"));
        let p99 = grown["latency_ns"]["ack"]["p99"].as_u64().unwrap();
        grown["latency_ns"]["ack"]["p99"] = (p99 + p99 / 5).into();
        fs::write(other.join("result.json"), grown.to_string()).unwrap();
        let output =
            command(&["compare", text(&earlier.out), text(&other), "--margin", margin, "--json"]);
        assert_eq!(output.status.code(), Some(code));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let worse = |json: &Value| -> Vec<String> {
        let rows = json["rows"].as_array().unwrap().iter();
        rows.filter(|row| row["is_worse"] == true)
            .map(|row| row["figure"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(worse(&compared("19%", 4)), ["ack p99"]);
    assert_eq!(worse(&compared("21%", 0)), Vec::<String>::new());
}

/// Two runs that were played, not figures that were edited: the same calls at a node, and at one
/// whose ACKs take 300 ms more.
#[test]
fn a_node_that_has_become_slower_is_caught() {
    // An ACK each half second: 36 in all, enough for a p50.
    let flags = ["--frame-ms", "50", "--duration", "6s"];
    let before = Earlier::play_at(Node::start(Fault::None), &flags);
    let after = Earlier::play_at(Node::start(Fault::AckSlow), &flags);
    let compared = |before: &Earlier, after: &Earlier| {
        let output = command(&["compare", text(&before.out), text(&after.out)]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, table) = compared(&before, &after);
    assert_eq!(code, Some(4), "{table}");
    let line = table.lines().find(|line| line.starts_with("ack p50")).unwrap();
    assert!(line.ends_with("WORSE"), "{table}");
    // The other way round it is better, and with itself it is equal.
    assert_eq!(compared(&after, &before).0, Some(0));
    let (code, table) = compared(&before, &before);
    assert!(code == Some(0) && !table.contains("WORSE"), "{table}");
}

#[test]
fn what_proves_nothing_is_not_compared() {
    let earlier = Earlier::play(&[]);
    let other = earlier.out.with_file_name("other");
    fs::create_dir_all(&other).unwrap();
    let result = read(&earlier.out.join("result.json"));
    let compared = |edit: fn(&mut Value)| {
        let mut changed = result.clone();
        edit(&mut changed);
        fs::write(other.join("result.json"), changed.to_string()).unwrap();
        let output = command(&["compare", text(&earlier.out), text(&other)]);
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    // A few ACKs, however much later they came, are no p99.
    let (code, table, _) = compared(|result| set_figures(result, 600_000_000_000));
    assert_eq!(code, Some(0), "{table}");
    assert!(table.contains("samples are too few") && table.contains("play longer"), "{table}");
    let (code, _, errors) = compared(|result| result["verdict"] = "fail".into());
    assert!(code == Some(1) && errors.contains("did not pass"), "{errors}");
    let (code, _, errors) = compared(|result| result["interrupted"] = true.into());
    assert!(code == Some(1) && errors.contains("was interrupted"), "{errors}");
    let (_, table, _) =
        compared(|result| result["latency_ns"]["ack"] = serde_json::json!({"count": 0, "p50": 0}));
    assert!(table.contains("not measured in both") && !table.contains(" 0 ns"), "{table}");
}

#[test]
fn a_baseline_of_another_kind_is_refused_before_the_run() {
    let earlier = Earlier::play(&["--ack-level", "written"]);
    let refused = |flags: &[&str], part: &str| {
        let output = earlier.again(flags);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(part) && output.stdout.is_empty(), "'{part}' is not in: {errors}");
    };
    let heard = earlier.node.heard.lock().unwrap().len();
    refused(&["--ack-level", "durable"], "ack level: \"written\" before, \"durable\" now");
    refused(&[], "ack level: \"written\" before, not given now");
    refused(&["--ack-level", "written", "--calls", "4"], "calls: 3 before, 4 now");
    refused(
        &["--ack-level", "written", "--sample-rate", "8000"],
        "frame bytes: 960 before, 320 now",
    );
    refused(&["--ack-level", "written", "--baseline-margin=-1%"], "margin");
    earlier.edit(|result| result["verdict"] = "invalid".into());
    refused(&["--ack-level", "written"], "did not pass");
    earlier.edit(|result| result["schema"]["version"] = 99.into());
    refused(&["--ack-level", "written"], "no result of this version");
    fs::remove_file(earlier.out.join("result.json")).unwrap();
    refused(&["--ack-level", "written"], "cannot read");
    assert_eq!(earlier.node.heard.lock().unwrap().len(), heard, "nothing was played");
}

#[test]
fn two_runs_stand_side_by_side() {
    let (one, two) = (Earlier::play(&[]), Earlier::play(&["--calls", "2"]));
    let output = command(&["compare", text(&one.out), text(&two.out)]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        table.contains("ack p99.9") && table.contains("not alike: calls: 3 before, 2 now"),
        "{table}"
    );
    assert_eq!(command(&["compare", text(&one.out), "/no/such"]).status.code(), Some(1));
}

#[test]
fn two_generators_at_one_node_are_one_run() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(Fault::None);
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3;
    let (a, b, both) =
        (directory.path().join("a"), directory.path().join("b"), directory.path().join("both"));
    let play = |first: &str, out: &Path| {
        let flags = [
            "--first-call",
            first,
            "--start-at",
            &at.to_string(),
            "--out",
            text(out),
            "--slo",
            "ack.p50<1h",
        ];
        let (code, json) = result(&node, &flags);
        assert_eq!(code, 0, "{json:#}");
        json
    };
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| play("0", &a));
        let two = play("3", &b);
        (one.join().unwrap(), two)
    });
    assert!(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() > at);
    let output = command(&["merge", text(&a), text(&b), "--out", text(&both), "--json"]);
    let merged: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &merged), (Some(0), &read(&both.join("result.json"))));
    crate::schema::check(&merged);
    let table =
        String::from_utf8(command(&["merge", text(&a), text(&b), "--out", text(&both)]).stdout)
            .unwrap();
    assert!(
        table.contains("calls      6 completed, 0 failed") && table.ends_with("\nPASS\n"),
        "{table}"
    );
    assert!(!table.contains(['{', '"']), "a table and no JSON: {table}");
    for (out, part) in
        [(&a, "is one of the runs"), (&directory.path().to_owned(), "something else (a)")]
    {
        let errors = command(&["merge", text(&a), text(&b), "--out", text(out)]).stderr;
        let errors = String::from_utf8(errors).unwrap();
        assert!(errors.contains(part), "'{part}' is not in: {errors}");
    }
    let sum = |pointer: &str| {
        let number = |result: &Value| {
            result.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer}"))
        };
        assert_eq!(number(&merged), number(&one) + number(&two), "{pointer}");
        assert!(number(&merged) > 0, "{pointer}");
    };
    for pointer in [
        "/run/calls",
        "/counts/frames",
        "/counts/calls_completed",
        "/latency_ns/ack/count",
        "/latency_ns/sendlag/count",
    ] {
        sum(pointer);
    }
    let max = |result: &Value| result["latency_ns"]["setup"]["max"].as_u64().unwrap();
    assert_eq!(max(&merged), max(&one).max(max(&two)));
    let cost = |result: &Value| result["generator"]["cpu_ns_per_frame"].as_u64().unwrap();
    let costs = [cost(&one), cost(&two)];
    assert!(
        (costs[0].min(costs[1])..=costs[0].max(costs[1])).contains(&cost(&merged)),
        "{costs:?} {merged:#}"
    );
    assert_eq!(merged["slos"][0]["held"], true);
    assert_eq!(merged["slos"].as_array().unwrap().len(), 1);
    // A sum reads like a run: it can be summed up and shown again.
    assert_eq!(command(&["report", text(&both)]).status.code(), Some(0));
    assert!(fs::read_to_string(both.join("report.html")).unwrap().contains("6 calls"));

    // The worst verdict counts, and SLOs are those of the sum.
    let mut failed = one.clone();
    failed["verdict"] = "fail".into();
    fs::write(a.join("result.json"), failed.to_string()).unwrap();
    let merge = || command(&["merge", text(&a), text(&b), "--out", text(&both), "--json"]);
    assert_eq!(merge().status.code(), Some(2));
    let mut strict = one.clone();
    strict["slos"][0]["slo"] = "ack.p50<1ns".into();
    fs::write(a.join("result.json"), strict.to_string()).unwrap();
    let output = merge();
    let merged: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), merged["slos"].as_array().unwrap().len()),
        (Some(2), 2),
        "{merged:#}"
    );

    // Runs that are not parts of one, or not whole, are refused.
    let mut other = one.clone();
    other["run"]["frame_ms"] = 200.into();
    fs::write(a.join("result.json"), other.to_string()).unwrap();
    let errors = String::from_utf8(merge().stderr).unwrap();
    assert!(errors.contains("frame_ms is 200 and 20"), "{errors}");
    let mut other = one;
    other["latency_ns"]["ack"]["count"] = 1.into();
    fs::write(a.join("result.json"), other.to_string()).unwrap();
    let output = merge();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("latency.hlog"), "{errors}");
}

#[test]
fn runs_one_after_the_other_are_not_one() {
    let (one, two) = (Earlier::play(&[]), Earlier::play(&["--first-call", "3"]));
    let both = one.out.with_file_name("both");
    let output = command(&["merge", text(&one.out), text(&two.out), "--out", text(&both)]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("--start-at") && !both.exists(), "{errors}");
}

#[test]
fn a_report_is_one_page_for_itself() {
    let earlier = Earlier::play(&[]);
    let path = earlier.out.join("report.html");
    let page = fs::read_to_string(&path).unwrap();
    assert!(
        page.contains("PASS") && page.contains("<polyline") && page.contains("kernel"),
        "{page}"
    );
    fs::remove_file(&path).unwrap();
    assert_eq!(command(&["report", text(&earlier.out)]).status.code(), Some(0));
    assert_eq!(fs::read_to_string(&path).unwrap(), page, "the same files make the same page");
    assert_eq!(command(&["report", "/no/such"]).status.code(), Some(1));
}

#[test]
fn a_start_that_has_passed_is_refused() {
    let output = exo_load(&Node::start(Fault::None).url, &["--start-at", "1000"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("has passed"), "{errors}");
}

#[test]
fn two_runs_that_measured_the_node_say_how_many_boxes() {
    let (small, large) = (Earlier::play(&[]), Earlier::play(&["--calls", "6"]));
    for (run, calls, cpu) in [(&small, 1_000, 12.0), (&large, 4_000, 42.0)] {
        measured(run, calls, cpu);
    }
    let flags = ["plan", text(&small.out), text(&large.out), "--calls", "16000", "--cores", "2"];
    let table = String::from_utf8(command(&flags).stdout).unwrap();
    // 2 % without calls, 1 % a hundred calls: two cores at 70 % carry 13,800.
    assert!(
        table.contains("13,800 calls") && table.contains("2 boxes") && table.contains("assumes"),
        "{table}"
    );
    let json: Value =
        serde_json::from_slice(&command(&[&flags[..], &["--json"]].concat()).stdout).unwrap();
    assert_eq!((&json["calls_per_box"], &json["boxes"]), (&13_800.into(), &2.into()), "{json:#}");
    assert_eq!(json["calls_per_box_range"].as_array().unwrap().len(), 2, "{json:#}");
    // A single run has an answer, and no range.
    let one = String::from_utf8(command(&flags[..2]).stdout).unwrap();
    assert!(one.contains("no range: a single run has no spread"), "{one}");
}

#[test]
fn a_plan_takes_a_report_of_the_host_and_the_attempts_of_the_busy_hour() {
    let run = Earlier::play(&[]);
    measured(&run, 1_000, 10.0);
    let report = run.out.with_file_name("host.json");
    let facts = r#"{"facts": {"cpus": 8, "memory_bytes": null, "network_bits_per_second": null,
        "disk_write_bytes_per_second": 5e7}}"#;
    fs::write(&report, facts).unwrap();
    let flags = ["plan", text(&run.out), "--host-report", text(&report), "--json"];
    let plan = |more: &[&str]| -> Value {
        let output = command(&[&flags[..], more].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let busy = ["--busy-hour-attempts", "2000", "--hold-time", "3m", "--blocking", "1%"];
    let json = plan(&busy);
    assert_eq!((&json["cores"], &json["limited_by"]), (&7.into(), &"disk".into()), "{json:#}");
    assert_eq!((&json["traffic"]["erlangs"], &json["calls"]), (&100.0.into(), &117.into()));
    assert_eq!((&json["boxes"], &json["boxes_with_spare"]), (&1.into(), &2.into()), "{json:#}");
    // A flag comes before the report.
    let json = plan(&["--disk", "1GB/s", "--cores", "2"]);
    assert_eq!((&json["cores"], &json["limited_by"]), (&2.into(), &"cpu".into()), "{json:#}");
    fs::write(&report, "{}").unwrap();
    let output = command(&flags);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("exo-ingest doctor --json"), "{errors}");
    for wrong in [&["--hold-time", "3m"][..], &[&busy[..], &["--calls", "9"]].concat()] {
        assert_eq!(command(&[&flags[..2], wrong].concat()).status.code(), Some(1), "{wrong:?}");
    }
}

/// Makes a run one of so many calls that took so much of the node's CPU.
fn measured(run: &Earlier, calls: u64, cpu: f64) {
    run.edit(|result| {
        result["run"]["calls"] = calls.into();
        result["server"] = serde_json::json!({"cpu_percent": cpu});
    });
}

#[test]
fn a_plan_far_beyond_what_was_measured_says_so_and_names_the_limit() {
    let (small, large) = (Earlier::play(&[]), Earlier::play(&["--calls", "6"]));
    measured(&small, 500, 3.2);
    measured(&large, 1_500, 9.6);
    let flags = ["plan", text(&small.out), text(&large.out), "--calls", "50000", "--cores", "8"];
    let plan = |more: &[&str]| {
        let output = command(&[&flags[..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let json = |more: &[&str]| {
        serde_json::from_str::<Value>(&plan(&[more, &["--json"]].concat())).unwrap()
    };
    let table = plan(&[]);
    assert!(
        table.contains("EXTRAPOLATED: 87,500 calls a box is 58.3 times the largest load"),
        "{table}"
    );
    assert!(
        table.contains("1 box  EXTRAPOLATED") && table.contains("not given: --max-calls"),
        "{table}"
    );
    assert_eq!(json(&[])["is_extrapolated"], true);
    for (more, bound_by, calls) in [
        (&["--max-calls", "2000"][..], "max-calls", 2_000),
        (&["--disk", "100MB/s"], "disk", 1_988),
        (&["--network", "1Gbit/s"], "network", 2_434),
        (&["--network", "1Gbit/s", "--max-calls", "2000", "--disk", "100MB/s"], "disk", 1_988),
    ] {
        let json = json(more);
        // Frames of 960 bytes every 20 ms: heads weigh more than with the usual ones.
        assert_eq!(json["limited_by"], bound_by, "{json:#}");
        assert!(json["calls_per_box"].as_u64().unwrap() <= calls, "{json:#}");
        assert!(
            json["calls_per_core"].as_u64().unwrap()
                <= json["max_calls"].as_u64().unwrap_or(u64::MAX),
            "{json:#}"
        );
    }
    // What was measured with its node's limit known is held to it without a flag.
    large.edit(|result| result["server"]["calls_max"] = 1_600.into());
    let table = plan(&[]);
    assert!(
        table.contains("1,600 calls")
            && table.contains("--max-calls")
            && table.contains("32 boxes"),
        "{table}"
    );
    assert!(!table.contains("EXTRAPOLATED: 1,600"), "{table}");
    for flags in [&["--disk", "0"][..], &["--network=10GB/s"], &["--max-calls", "0"]] {
        let output = command(&[&["plan", text(&small.out), text(&large.out)], flags].concat());
        assert_eq!(output.status.code(), Some(1), "{flags:?}");
    }
}
