#![forbid(unsafe_code)]
//! Panels of where the journal is sent to.

use super::Drawing::{Lines, Stack};
use super::{BYTES, BYTES_PER_SECOND, COUNT, PER_SECOND, Panel, Query, SECONDS, panel, query};

/// When the queries of a sink return series.
const HAS_SINK: &str = "the journal is sent somewhere";

const fn of_sink(expr: &'static str, legend: &'static str) -> Query {
    query(expr, legend).when(HAS_SINK)
}

pub(super) const SINKS: &[Panel] = &[
    panel(
        "Oldest audio that a sink lacks",
        (Lines, SECONDS),
        "Its age. An object is sent when it is full, or its \
         segment ends.",
        &[of_sink("exo_ingest_sink_lag_seconds{$node}", "{{sink}}, {{instance}}")],
    ),
    panel(
        "Not taken yet",
        (Lines, BYTES),
        "Journal that a sink lacks, and finished segments that retention keeps for it.",
        &[
            of_sink("exo_ingest_sink_lag_bytes{$node}", "{{sink}}, {{instance}}"),
            query("exo_ingest_journal_pinned_bytes{$node}", "kept, {{instance}}"),
        ],
    ),
    panel(
        "Taken",
        (Stack, BYTES_PER_SECOND),
        "Acknowledged by the sink.",
        &[of_sink(
            "sum by (sink) (rate(exo_ingest_sink_acknowledged_bytes_total{$node}[$rate]))",
            "{{sink}}",
        )],
    ),
    panel(
        "In flight",
        (Lines, BYTES),
        "Sent, and not acknowledged.",
        &[of_sink("exo_ingest_sink_in_flight_bytes{$node}", "{{sink}}, {{instance}}")],
    ),
    panel(
        "Failing",
        (Lines, COUNT),
        "1 while a sink takes nothing. /ready says why.",
        &[of_sink("exo_ingest_sink_failing{$node}", "{{sink}}, {{instance}}")],
    ),
    panel(
        "Failures of sinks",
        (Lines, PER_SECOND),
        "Requests that failed, and objects that were sent again.",
        &[
            of_sink(
                "sum by (sink) (rate(exo_ingest_sink_failures_total{$node}[$rate]))",
                "{{sink}} failed",
            ),
            of_sink(
                "sum by (sink) (rate(exo_ingest_sink_resent_total{$node}[$rate]))",
                "{{sink}} sent again",
            ),
        ],
    ),
    panel(
        "Full disk",
        (Lines, SECONDS),
        "Time until only the reserve is free.",
        &[query("exo_ingest_disk_full_seconds{$node}", "{{instance}}")
            .when("the journal grows and waits for a sink")],
    ),
    panel(
        "Removed before it was taken",
        (Lines, BYTES_PER_SECOND),
        "Past forward.budget, with drop-oldest.",
        &[of_sink(
            "sum by (sink) (rate(exo_ingest_sink_dropped_bytes_total{$node}[$rate]))",
            "{{sink}}",
        )],
    ),
];
