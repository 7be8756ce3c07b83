#![forbid(unsafe_code)]
//! Panels of what callers notice: readiness, calls, refusals, ACK latency.

use super::Drawing::{HeatMap, Lines, LogLines, Number, Stack, YesOrNo};
use super::{BYTES_PER_SECOND, COUNT, PER_SECOND, Panel, SECONDS, SHARE, panel, query};

pub(super) const NODE: &[Panel] = &[
    panel(
        "Ready",
        (YesOrNo, "none"),
        "Whether /ready of all nodes says yes.",
        &[query("min(exo_ingest_ready{$node})", "ready")],
    ),
    panel(
        "Live calls",
        (Number, COUNT),
        "Calls connected now.",
        &[query("sum(exo_ingest_calls_live{$node})", "calls")],
    ),
    panel(
        "ACK p99",
        (Number, SECONDS),
        "From a frame to its ACK, for 99 % of ACKs.",
        &[query(quantile!("0.99", "exo_ingest_ack_seconds"), "p99")],
    ),
    panel(
        "Refused",
        (Number, PER_SECOND),
        "Requests refused per second.",
        &[query(sum_rate!("exo_ingest_refusals_total"), "refused")],
    ),
    panel(
        "Disk free",
        (Number, SHARE),
        "The node with the least.",
        &[query(
            "min(exo_ingest_disk_free_bytes{$node} / exo_ingest_disk_size_bytes{$node})",
            "free",
        )],
    ),
    panel(
        "Running for",
        (Number, SECONDS),
        "The node that was started last.",
        &[query("time() - max(process_start_time_seconds{$node})", "running for")],
    ),
];

pub(super) const CALLS: &[Panel] = &[
    panel(
        "Live calls",
        (Lines, COUNT),
        "The dashed limit is --max-calls.",
        &[
            query("exo_ingest_calls_live{$node}", "{{instance}}"),
            query("exo_ingest_calls_max{$node}", "limit of {{instance}}"),
        ],
    ),
    panel(
        "Calls started and ended",
        (Lines, PER_SECOND),
        "After a valid start.",
        &[
            query(sum_rate!("exo_ingest_calls_started_total"), "started"),
            query(sum_rate!("exo_ingest_calls_ended_total"), "ended"),
        ],
    ),
    panel(
        "Refusals",
        (Stack, PER_SECOND),
        "HTTP answers other than 101, by reason.",
        &[query(by_reason!("exo_ingest_refusals_total"), "{{reason}}")
            .when("requests are refused")],
    ),
    panel(
        "Closes by the node",
        (Stack, PER_SECOND),
        "Close frames that the node sent first.",
        &[query(by_reason!("exo_ingest_closes_total"), "{{reason}}").when("the node closes calls")],
    ),
    panel(
        "Ends of calls",
        (Stack, PER_SECOND),
        "How calls ended, by reason.",
        &[query(by_reason!("exo_ingest_endings_total"), "{{reason}}").when("calls end")],
    ),
    panel(
        "Audio",
        (Lines, BYTES_PER_SECOND),
        "Audio bytes in the frame rings.",
        &[query(
            "sum by (instance) (rate(exo_ingest_audio_bytes_total{$node}[$rate]))",
            "{{instance}}",
        )],
    ),
    panel(
        "Frames and ACKs",
        (Lines, PER_SECOND),
        "Complete frames, and ACKs queued.",
        &[
            query(sum_rate!("exo_ingest_frames_total"), "frames"),
            query(sum_rate!("exo_ingest_acks_total"), "ACKs"),
        ],
    ),
    panel(
        "Largest tenants",
        (Stack, COUNT),
        "Live calls of the ten tenants with most.",
        &[query("topk(10, sum by (tenant) (exo_ingest_tenant_calls_live{$node}))", "{{tenant}}")],
    ),
    panel(
        "Why a node is not ready",
        (Stack, COUNT),
        "Number of nodes, by reason.",
        &[query("sum by (reason) (exo_ingest_not_ready{$node})", "{{reason}}")],
    ),
];

pub(super) const LATENCY: &[Panel] = &[
    panel(
        "ACK latency",
        (LogLines, SECONDS),
        "From a complete frame to its ACK.",
        &[
            query(quantile!("0.5", "exo_ingest_ack_seconds"), "p50"),
            query(quantile!("0.9", "exo_ingest_ack_seconds"), "p90"),
            query(quantile!("0.99", "exo_ingest_ack_seconds"), "p99"),
            query(quantile!("0.999", "exo_ingest_ack_seconds"), "p99.9"),
        ],
    ),
    panel(
        "ACK latency, heat map",
        (HeatMap, SECONDS),
        "ACKs by the time they took.",
        &[query("sum by (le) (increase(exo_ingest_ack_seconds_bucket{$node}[$rate]))", "{{le}}")],
    ),
    panel(
        "Where the time goes, p99",
        (LogLines, SECONDS),
        "The parts of an ACK's time.",
        &[
            query(quantile!("0.99", "exo_ingest_frame_ring_seconds"), "frame in the ring"),
            query(quantile!("0.99", "exo_ingest_frame_durable_seconds", " >= 0"), "durable")
                .when("ACKs are durable"),
            query(quantile!("0.99", "exo_ingest_journal_write_seconds"), "write"),
            query(quantile!("0.99", "exo_ingest_journal_sync_seconds"), "sync"),
            query(quantile!("0.99", "exo_ingest_ack_sent_seconds"), "ACK in the socket"),
        ],
    ),
    panel(
        "Setup of a call, p99",
        (LogLines, SECONDS),
        "From accept to started.",
        &[
            query(quantile!("0.99", "exo_ingest_setup_seconds", " >= 0"), "all")
                .when("calls start"),
            query(
                quantile!("0.99", "exo_ingest_setup_upgrade_seconds", " >= 0"),
                "check of the token",
            )
            .when("calls start"),
            query(quantile!("0.99", "exo_ingest_setup_start_seconds", " >= 0"), "peer's start")
                .when("calls start"),
        ],
    ),
    panel(
        "ACKs that wait",
        (Lines, COUNT),
        "Until their audio is durable.",
        &[query("sum by (instance) (exo_ingest_promises_waiting{$node})", "{{instance}}")],
    ),
    panel(
        "Connections wait to be read",
        (Lines, SECONDS),
        "The longest wait now.",
        &[query(
            "max by (instance) (exo_ingest_reads_longest_wait_seconds{$node})",
            "{{instance}}",
        )],
    ),
];
