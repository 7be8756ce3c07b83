//! `--reconnect-all-at` and `--churn`: calls that lose their connections at one moment and come
//! back, and calls that are replaced by others, while the rest goes on.

use std::fs;

use serde_json::Value;

use crate::certificates::Authority;
use crate::faulty::{Fault, Node, command, exo_load, result, result_at};
use crate::secure;
use crate::tls_front::Way;

/// Ten calls; after a second eight of them lose their connections.
const STORM: [&str; 10] = [
    "--calls",
    "10",
    "--duration",
    "3s",
    "--reconnect-all-at",
    "1s",
    "--reconnect-share",
    "80%",
    "--reconnect-interval",
    "50ms",
];

fn storm(node: &Node, more: &[&str]) -> (i32, Value) {
    result(node, &[&STORM[..], more].concat())
}

#[test]
fn calls_that_are_reset_come_back() {
    let node = Node::start(Fault::None);
    let (code, json) = storm(&node, &[]);
    assert_eq!((code, &json["verdict"]), (0, &"pass".into()), "{json:#}");
    let told = &json["storm"];
    for (name, count) in [
        ("calls_left", 8),
        ("calls_back", 8),
        ("calls_stayed", 2),
        ("calls_lost", 0),
        ("retries", 0),
    ] {
        assert_eq!(told[name], count, "{name}: {told:#}");
    }
    assert!(told["all_back_ns"].as_u64() > Some(0), "{told:#}");
    assert_eq!((&told["how"], &told["at_s"]), (&"rst".into(), &1.0.into()), "{told:#}");
    let latencies = &json["latency_ns"];
    for (name, count) in [("setup", 10), ("storm_setup", 8), ("storm_back", 8)] {
        assert_eq!(latencies[name]["count"], count, "{name}: {latencies:#}");
    }
    // Of the two that stayed, an ack each 200 ms.
    let count = |name: &str| latencies[name]["count"].as_u64().unwrap_or(0);
    assert!(count("ack_before") >= 4 && count("ack_after") >= 4, "{latencies:#}");
    assert!(
        count("ack_before") + count("ack_during") + count("ack_after") <= 2 * 15,
        "{latencies:#}"
    );
    assert_eq!(
        (&json["counts"]["calls_completed"], &json["counts"]["reconnects"]),
        (&10.into(), &0.into())
    );
    assert_eq!((node.resets(), node.upgrades()), (8, 18), "the node sees a RST, not a FIN");
}

#[test]
fn calls_that_close_come_back_too() {
    let node = Node::start(Fault::None);
    let (code, json) = storm(&node, &["--reconnect-how", "close"]);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!(
        (&json["storm"]["calls_back"], &json["storm"]["how"]),
        (&8.into(), &"close".into()),
        "{json:#}"
    );
    assert_eq!((node.resets(), node.upgrades()), (0, 18));
    // Eight Closes in the storm, ten ends at the end.
    assert_eq!(
        (node.hung_up.lock().unwrap().len(), &json["counts"]["calls_completed"]),
        (18, &10.into()),
        "{json:#}"
    );
}

#[test]
fn all_take_part_unless_told_otherwise_and_wait_as_told() {
    let node = Node::start(Fault::None);
    let flags = [
        "--calls",
        "4",
        "--duration",
        "3s",
        "--reconnect-all-at",
        "1s",
        "--reconnect-jitter",
        "500ms",
    ];
    let (code, json) = result(&node, &flags);
    assert_eq!(
        (code, &json["storm"]["calls_left"], &json["storm"]["calls_stayed"]),
        (0, &4.into(), &0.into()),
        "{json:#}"
    );
    assert_eq!(
        (&json["storm"]["jitter_s"], &json["latency_ns"]["ack_before"]),
        (&0.5.into(), &Value::Null),
        "{json:#}"
    );
}

#[test]
fn refused_attempts_are_counted_and_made_again() {
    let node = Node::start(Fault::RefuseLater { status: 503, after: 10, count: 3 });
    let (code, json) = storm(&node, &[]);
    assert_eq!(code, 0, "{json:#}");
    let told = &json["storm"];
    assert_eq!(
        (&told["retries"], &told["refusals"]),
        (&3.into(), &serde_json::json!({"refused_503": 3})),
        "{told:#}"
    );
    assert_eq!(
        (&told["calls_back"], &json["counts"]["reconnects"]),
        (&8.into(), &0.into()),
        "{json:#}"
    );
    assert_eq!(json["latency_ns"]["storm_setup"]["count"], 8, "{json:#}");
}

#[test]
fn a_call_that_cannot_come_back_fails_the_run() {
    let node = Node::start(Fault::RefuseLater { status: 401, after: 10, count: 2 });
    let (code, json) = storm(&node, &[]);
    let told = &json["storm"];
    assert_eq!((code, &json["failures"]["refused_401"]["count"]), (2, &2.into()), "{json:#}");
    assert_eq!((&told["calls_back"], &told["calls_lost"]), (&6.into(), &2.into()), "{told:#}");
    assert_eq!((&told["all_back_ns"], &told["retries"]), (&Value::Null, &0.into()), "{told:#}");
}

#[test]
fn a_call_that_is_not_up_has_nothing_to_lose() {
    // One call is lost before the storm, and stays so.
    let flags = ["--calls", "10", "--duration", "3s", "--reconnect-all-at", "1s"];
    let (code, json) = result(&Node::start(Fault::DropFirst), &flags);
    assert_eq!((code, &json["failures"]["dropped"]["count"]), (2, &1.into()), "{json:#}");
    assert_eq!(
        (&json["storm"]["calls_left"], &json["storm"]["calls_back"]),
        (&9.into(), &9.into()),
        "{json:#}"
    );
    assert!(json["storm"]["all_back_ns"].is_u64(), "{json:#}");
}

#[test]
fn tickets_carry_the_calls_back() {
    let (authority, node) = (Authority::new(), Node::start(Fault::None));
    let front = secure::front(&authority, &node, Way::Right);
    let ca = authority.path();
    for (resume, full, resumed) in [(true, 10, 8), (false, 18, 0)] {
        let flags = if resume { &["--ca", &ca, "--tls-resume"][..] } else { &["--ca", &ca] };
        let (code, json) = result_at(&front.url, &[&STORM[..], flags].concat());
        assert_eq!(code, 0, "{json:#}");
        let tls = &json["tls"];
        let counted = (&tls["handshakes_full"], &tls["handshakes_resumed"]);
        assert_eq!(counted, (&full.into(), &resumed.into()), "{tls:#}");
        assert_eq!(
            (&json["storm"]["calls_back"], tls["own_cpu_ns_resumed"].is_u64()),
            (&8.into(), resume),
            "{json:#}"
        );
    }
}

#[test]
fn what_was_promised_before_a_reset_is_in_a_real_nodes_journal() {
    let (authority, data) = (Authority::new(), tempfile::tempdir().unwrap());
    let node = crate::journal::node(data.path(), &[]);
    let front = secure::before(&authority, node.address());
    let (ca, data_dir) = (authority.path(), data.path().to_str().unwrap());
    let plain = format!("ws://{}/v1/ingest", node.address());
    for (url, flags) in [(&plain, &[][..]), (&front.url, &["--ca", &ca, "--tls-resume"])] {
        let more = ["--ramp", "0s", "--frame-ms", "20", "--verify", data_dir];
        let (code, json) = crate::journal::run_at(url, &[&STORM[..], flags, &more].concat());
        assert_eq!((code, &json["storm"]["calls_back"]), (0, &8.into()), "{json:#}");
        assert!(json["verify"]["frames_equal"].as_u64() > Some(500), "{json:#}");
    }
}

#[test]
fn calls_are_replaced_by_new_ones() {
    let node = Node::start(Fault::None);
    let (code, json) = result(&node, &["--calls", "4", "--churn", "4", "--duration", "2s"]);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!(
        (&json["churn"]["calls_replaced"], &json["churn"]["calls_per_s"]),
        (&7.into(), &4.0.into()),
        "{json:#}"
    );
    assert_eq!(json["counts"]["calls_completed"], 11, "{json:#}");
    let latencies = &json["latency_ns"];
    assert_eq!(
        (&latencies["setup"]["count"], &latencies["churn_setup"]["count"]),
        (&4.into(), &7.into())
    );
    let heard = node.heard.lock().unwrap();
    for number in 0..11 {
        let name = format!("load-{number}");
        let frames = heard.iter().filter(|(call, _)| *call == name).count();
        // A call lives for a second, and the last ones are cut by the end.
        assert!((1..=51).contains(&frames), "{name}: {frames}");
    }
}

#[test]
fn replaced_calls_are_in_a_real_nodes_journal() {
    let data = tempfile::tempdir().unwrap();
    let node = crate::journal::node(data.path(), &[]);
    let url = format!("ws://{}/v1/ingest", node.address());
    let data_dir = data.path().to_str().unwrap();
    let flags =
        ["--calls", "4", "--churn", "4", "--duration", "2s", "--ramp", "0s", "--frame-ms", "20"];
    let (code, json) =
        crate::journal::run_at(&url, &[&flags[..], &["--verify", data_dir]].concat());
    assert_eq!((code, &json["counts"]["calls_completed"]), (0, &11.into()), "{json:#}");
    assert!(json["verify"]["frames_equal"].as_u64() > Some(100), "{json:#}");
}

#[test]
fn a_storm_is_in_every_file_and_in_the_table() {
    let (node, directory) = (Node::start(Fault::None), tempfile::tempdir().unwrap());
    let out = directory.path().join("out");
    let flags = [
        &STORM[..],
        &["--slo", "storm_back.max<1h", "--slo", "ack_before.p99<1000000*ack_after.max"],
    ]
    .concat();
    let output = exo_load(&node.url, &[&flags[..], &["--out", out.to_str().unwrap()]].concat());
    let table = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}");
    assert!(
        table.contains("8 calls left at 1 s by rst, all back after") && table.contains("2 stayed"),
        "{table}"
    );
    assert!(
        table.contains("ack p99 of calls that stayed") && table.contains("storm_back.max<1h"),
        "{table}"
    );
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert!(
        read("report.html").contains("<h2>Storm</h2>")
            && read("report.html").contains("Latency in the storm")
    );
    assert!(
        read("latency.hlog").contains("Tag=storm_back,")
            && read("storm_setup.hgrm").contains("Total count")
    );
    let csv = read("intervals.csv");
    assert!(csv.lines().next().unwrap().contains(",handshakes_resumed"), "{csv}");
    // A run without a storm is another one.
    let refused = exo_load(
        &node.url,
        &["--calls", "10", "--duration", "3s", "--baseline", out.to_str().unwrap()],
    );
    assert!(String::from_utf8_lossy(&refused.stderr).contains("all reconnect at"), "{refused:?}");
}

#[test]
fn storms_of_two_generators_are_one() {
    let (node, directory) = (Node::start(Fault::None), tempfile::tempdir().unwrap());
    let at =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 3;
    let at = at.to_string();
    let parts = ["0", "10"].map(|first| directory.path().join(first).to_str().unwrap().to_owned());
    let run = |out: &str, first: &str| {
        let flags =
            [&STORM[..], &["--start-at", &at, "--first-call", first, "--out", out]].concat();
        command(&node.url, &flags).stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let children = [run(&parts[0], "0"), run(&parts[1], "10")];
    for mut child in children {
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    let out = directory.path().join("sum");
    let mut merge = std::process::Command::new(env!("CARGO_BIN_EXE_exo-load"));
    merge.args(["merge", &parts[0], &parts[1], "--json", "--out"]).arg(&out);
    let output = merge.output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    crate::schema::check(&json);
    let told = &json["storm"];
    assert_eq!(
        (&told["calls_left"], &told["calls_back"], &told["calls_stayed"]),
        (&16.into(), &16.into(), &4.into())
    );
    assert_eq!(
        (&json["latency_ns"]["storm_back"]["count"], told["all_back_ns"].is_u64()),
        (&16.into(), true),
        "{json:#}"
    );
}

#[test]
fn flags_that_make_no_storm_are_refused() {
    let node = Node::start(Fault::None);
    for (flags, part) in [
        (&["--reconnect-all-at", "5s", "--duration", "3s"][..], "--reconnect-all-at"),
        (&["--reconnect-all-at", "1s", "--ramp", "2s"], "--reconnect-all-at"),
        (&["--reconnect-share", "0.5"], "--reconnect-all-at"),
        (&["--reconnect-all-at", "500ms", "--reconnect-share", "0"], "share"),
        (&["--reconnect-all-at", "500ms", "--churn", "1"], "cannot be used with"),
        (&["--churn", "0"], "above zero"),
        (&["--churn", "1000", "--duration", "3s"], "--churn"),
    ] {
        let output = exo_load(&node.url, flags);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && errors.contains(part), "{flags:?}: {errors}");
    }
}
