//! Each alert fires once while its condition holds, and resolves afterwards: `promtool test rules`, with
//! the thresholds and times of the program.

use crate::rules::names;
use crate::{EXO_INGEST, has_prometheus, run};
use std::collections::BTreeSet;
use std::process::Command;

/// An alert with series that make it fire and resolve. The series have a value each 15 s: 10
/// minutes of a good node, 20 of a bad one, and good ones afterwards.
struct Case {
    alert: &'static str,
    /// Alerts that fire too, because the condition is worse than theirs.
    also: &'static [&'static str],
    /// Names with their labels besides `instance`, and values.
    series: &'static [(&'static str, &'static str)],
    /// When all is well after it, in minutes.
    resolved: u32,
}

/// Minutes.
const QUIET: u32 = 9;
const FIRING: u32 = 29;
const RESOLVED: u32 = 59;

const LATER: u32 = 119;

const fn case(alert: &'static str, series: &'static [(&'static str, &'static str)]) -> Case {
    Case { alert, also: &[], series, resolved: RESOLVED }
}

const RISES: &str = "0x40 0+1x80 80x400";
const FROM_0_TO_1: &str = "0x40 1x80 0x400";

const CASES: &[Case] = &[
    case("ExoIngestDown", &[(r#"up{job="exo-ingest""#, "1x40 0x80 1x400")]),
    Case {
        resolved: LATER,
        ..case(
            "ExoIngestRestarts",
            &[(r#"process_start_time_seconds{job="exo-ingest""#, "1x40 2x40 3x20 4x20 4x400")],
        )
    },
    case("ExoIngestNotReady", &[(r#"exo_ingest_not_ready{reason="at_capacity""#, FROM_0_TO_1)]),
    case("ExoIngestDrainsLong", &[(r#"exo_ingest_not_ready{reason="draining""#, FROM_0_TO_1)]),
    case(
        "ExoIngestNearCapacity",
        &[("exo_ingest_calls_live{", "89x40 91x80 89x400"), ("exo_ingest_calls_max{", "100x600")],
    ),
    case(
        "ExoIngestRefusesRequests",
        &[
            (r#"exo_ingest_refusals_total{reason="capacity""#, "0x40 0+1x80 80x400"),
            (r#"exo_ingest_refusals_total{reason="quota""#, "0x40 0+1x80 80x400"),
            (r#"exo_ingest_upgrades_total{shard="0""#, "0+30x600"),
        ],
    ),
    case(
        "ExoIngestBadTokens",
        &[(r#"exo_ingest_token_failures_total{reason="expired""#, "0+1x40 41+2x80 201+1x400")],
    ),
    case(
        "ExoIngestTlsFails",
        &[
            (r#"exo_ingest_tls_failures_total{reason="hung_up""#, RISES),
            (r#"exo_ingest_tls_handshakes_full_total{shard="0""#, "0+1x600"),
            (r#"exo_ingest_tls_handshakes_resumed_total{shard="0""#, "0+2x600"),
        ],
    ),
    case(
        "ExoIngestAckSlow",
        &[
            (r#"exo_ingest_ack_seconds_bucket{le="0.1""#, "0+10x40 400x80 400+10x400"),
            (r#"exo_ingest_ack_seconds_bucket{le="0.25""#, "0+10x600"),
            (r#"exo_ingest_ack_seconds_bucket{le="+Inf""#, "0+10x600"),
        ],
    ),
    case(
        "ExoIngestRingFills",
        &[
            (r#"exo_ingest_ring_used_bytes{shard="1""#, "40x40 60x80 40x400"),
            (r#"exo_ingest_ring_size_bytes{shard="1""#, "100x600"),
        ],
    ),
    case(
        "ExoIngestJournalStalled",
        &[(r#"exo_ingest_journal_stalled_seconds{shard="0""#, "1.5x40 3x80 0x400")],
    ),
    case(
        "ExoIngestJournalFailed",
        &[(r#"exo_ingest_journal_fences_total{shard="0""#, "2x110 3x400")],
    ),
    case("ExoIngestCallsCutByDisk", &[(r#"exo_ingest_closes_total{reason="storage""#, RISES)]),
    case(
        "ExoIngestDiskLow",
        &[
            ("exo_ingest_disk_free_bytes{", "11x40 9x80 11x400"),
            ("exo_ingest_disk_size_bytes{", "100x600"),
        ],
    ),
    Case {
        resolved: LATER,
        ..case(
            "ExoIngestDiskFills",
            &[
                ("exo_ingest_disk_free_bytes{", "100x40 100-1x80 20x400"),
                ("exo_ingest_disk_reserve_bytes{", "5x600"),
            ],
        )
    },
    case(
        "ExoIngestJournalOverLimit",
        &[
            ("exo_ingest_journal_stored_bytes{", "100x40 120x80 100x400"),
            ("exo_ingest_journal_retain_bytes{", "100x600"),
        ],
    ),
    case("ExoIngestSegmentsHeld", &[("exo_ingest_journal_segments_held{", FROM_0_TO_1)]),
    case("ExoIngestSinkFails", &[(r#"exo_ingest_sink_failing{sink="archive""#, FROM_0_TO_1)]),
    case(
        "ExoIngestSinkLags",
        &[(r#"exo_ingest_sink_lag_seconds{sink="archive""#, "600x40 1300x80 600x400")],
    ),
    case("ExoIngestSinkFillsDisk", &[("exo_ingest_disk_full_seconds{", "9000x40 900x80 _x400")]),
    case(
        "ExoIngestSinkBehindBudget",
        &[(r#"exo_ingest_sink_dropped_bytes_total{sink="archive""#, RISES)],
    ),
    case("ExoIngestAcksDegraded", &[(r#"exo_ingest_acks_degraded_total{shard="0""#, RISES)]),
    case(
        "ExoIngestReloadRefused",
        &[
            (r#"exo_ingest_reload_success_timestamp_seconds{what="keys""#, "9x120 11x400"),
            (r#"exo_ingest_reload_failure_timestamp_seconds{what="keys""#, "_x40 10x500"),
        ],
    ),
    // Time starts at 0, and the certificate is renewed after 30 minutes.
    case(
        "ExoIngestCertificateExpires",
        &[(
            r#"exo_ingest_tls_certificate_expiry_timestamp_seconds{file="a.pem""#,
            "1300000x40 1000000x80 9000000x400",
        )],
    ),
    Case {
        also: &["ExoIngestCertificateExpires"],
        ..case(
            "ExoIngestCertificateExpired",
            &[(
                r#"exo_ingest_tls_certificate_expiry_timestamp_seconds{file="a.pem""#,
                "1300000x40 80000x80 9000000x400",
            )],
        )
    },
    case(
        "ExoIngestCpuBusy",
        &[
            (r#"process_cpu_seconds_total{job="exo-ingest""#, "0+2x40 80+28x80 2320+2x400"),
            (r#"exo_ingest_turns_total{job="exo-ingest", shard="0""#, "0+100x600"),
            (r#"exo_ingest_turns_total{job="exo-ingest", shard="1""#, "0+100x600"),
        ],
    ),
    case("ExoIngestStandsStill", &[(r#"exo_ingest_standstills_total{shard="0""#, RISES)]),
    case(
        "ExoIngestFilesLow",
        &[
            (r#"process_open_fds{job="exo-ingest""#, "70x40 90x80 70x400"),
            (r#"process_max_fds{job="exo-ingest""#, "100x600"),
        ],
    ),
    case("ExoIngestAcceptsFail", &[(r#"exo_ingest_accept_failures_total{shard="0""#, RISES)]),
    case("ExoIngestLogDropped", &[("exo_ingest_log_lines_dropped_total{", RISES)]),
];

/// What must not fire although it looks like it.
const HARMLESS: &[&[(&str, &str)]] = &[
    // A disk that fills up, and retention that makes room.
    &[
        ("exo_ingest_disk_free_bytes{", "100x40 100-1x80 20x400"),
        ("exo_ingest_disk_reserve_bytes{", "5x600"),
        ("exo_ingest_journal_retain_bytes{", "100x600"),
    ],
    // A drain at a deploy, and a scrape that failed once.
    &[
        (r#"exo_ingest_not_ready{reason="draining""#, "0x100 1x16 0x400"),
        (r#"up{job="exo-ingest""#, "1x115 0 1x400"),
    ],
    // The process of another job.
    &[
        (r#"up{job="other""#, "0x600"),
        (r#"process_open_fds{job="other""#, "100x600"),
        (r#"process_max_fds{job="other""#, "100x600"),
    ],
];

/// The alerts that fire at a time, in the language of `promtool test rules`.
fn expect(minutes: u32, alerts: &[&str]) -> String {
    let mut text = format!(
        "      - expr: count by (alertname) (ALERTS{{alertstate=\"firing\"}})\n        \
            eval_time: {minutes}m\n        exp_samples:\n"
    );
    for alert in alerts {
        text += &format!("          - {{labels: '{{alertname=\"{alert}\"}}', value: 1}}\n");
    }
    if alerts.is_empty() {
        text = text.trim_end().to_owned() + " []\n";
    }
    text
}

/// The alert has fired once until then: no sample is missing between its first and its last one.
fn expect_once(minutes: u32, alert: &str) -> String {
    let firing = format!("ALERTS{{alertstate=\"firing\", alertname=\"{alert}\"}}");
    let over = format!("[{minutes}m:15s]");
    let gaps = format!(
        "sum by (alertname) ((max_over_time(timestamp({firing}){over}) - \
            min_over_time(timestamp({firing}){over})) / 15 + 1 - count_over_time({firing}{over}))"
    );
    format!(
        "      - expr: {gaps}\n        eval_time: {minutes}m\n        exp_samples:\n          \
            - {{labels: '{{alertname=\"{alert}\"}}', value: 0}}\n"
    )
}

fn test(series: &[(&str, &str)], expectations: &[String]) -> String {
    let mut text = String::from("  - interval: 15s\n    input_series:\n");
    for (name, values) in series {
        let comma = if name.ends_with('{') { "" } else { ", " };
        text += &format!("      - series: '{name}{comma}instance=\"a\"}}'\n");
        text += &format!("        values: '{values}'\n");
    }
    text + "    promql_expr_test:\n" + &expectations.concat()
}

#[test]
fn each_alert_fires_once_and_resolves() {
    if !has_prometheus() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let rules = directory.path().join("rules.yml");
    run(Command::new(EXO_INGEST).env_clear().args(["alerts", "-o"]).arg(&rules));
    let text = std::fs::read_to_string(&rules).expect("the rules");
    let tested: BTreeSet<_> = CASES.iter().map(|case| case.alert).collect();
    assert_eq!(tested, names(&text).into_iter().collect(), "each alert has a case");

    let mut file = String::from("rule_files: [rules.yml]\nevaluation_interval: 15s\ntests:\n");
    for case in CASES {
        let firing = [&[case.alert], case.also].concat();
        let expectations = [
            expect(QUIET, &[]),
            expect(FIRING, &firing),
            expect(case.resolved, &[]),
            expect_once(case.resolved, case.alert),
        ];
        file += &test(case.series, &expectations);
    }
    for series in HARMLESS {
        file += &test(series, &[QUIET, FIRING, RESOLVED].map(|minutes| expect(minutes, &[])));
    }
    let path = directory.path().join("test.yml");
    std::fs::write(&path, &file).expect("a file");
    let said = run(Command::new("promtool").args(["test", "rules"]).arg(&path));
    assert!(said.contains("SUCCESS"), "{said}");
}
