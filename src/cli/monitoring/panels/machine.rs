#![forbid(unsafe_code)]
//! Panels of what serves them: journal and disk, shards, TLS and keys, the host.

use super::Drawing::{Lines, LogLines, Stack};
use super::{BYTES, BYTES_PER_SECOND, COUNT, PER_SECOND, Panel, SECONDS, SHARE, panel, query};

pub(super) const JOURNAL: &[Panel] = &[
    panel(
        "Disk",
        (Lines, BYTES),
        "Below the reserve new calls get 503.",
        &[
            query("exo_ingest_disk_free_bytes{$node}", "free, {{instance}}"),
            query("exo_ingest_disk_reserve_bytes{$node}", "reserve, {{instance}}"),
        ],
    ),
    panel(
        "Journal",
        (Lines, BYTES),
        "All runs, and its limit.",
        &[
            query("exo_ingest_journal_stored_bytes{$node}", "{{instance}}"),
            query("exo_ingest_journal_retain_bytes{$node}", "limit of {{instance}}")
                .when("retain_bytes is set"),
        ],
    ),
    panel(
        "Age of the oldest audio",
        (Lines, SECONDS),
        "And its limit.",
        &[
            query("exo_ingest_journal_oldest_segment_age_seconds{$node}", "{{instance}}"),
            query("exo_ingest_journal_retain_age_seconds{$node}", "limit of {{instance}}")
                .when("retain_age is set"),
        ],
    ),
    panel(
        "Written and removed",
        (Lines, BYTES_PER_SECOND),
        "Headers and padding included.",
        &[
            query(
                "sum by (instance) (rate(exo_ingest_journal_bytes_total{$node}[$rate]))",
                "written",
            ),
            query("rate(exo_ingest_journal_removed_bytes_total{$node}[$rate])", "removed"),
        ],
    ),
    panel(
        "Segments",
        (Lines, COUNT),
        "Held are those that retention cannot remove.",
        &[
            query("exo_ingest_journal_segments_stored{$node}", "stored, {{instance}}"),
            query("exo_ingest_journal_segments_held{$node}", "held, {{instance}}"),
        ],
    ),
    panel(
        "Writes and syncs",
        (Lines, PER_SECOND),
        "A fence is a write or sync that failed.",
        &[
            query(sum_rate!("exo_ingest_journal_writes_total"), "writes"),
            query(sum_rate!("exo_ingest_journal_syncs_total"), "syncs"),
            query(sum_rate!("exo_ingest_journal_fences_total"), "fences"),
        ],
    ),
    panel(
        "Frame ring",
        (Lines, SHARE),
        "From three quarters on new calls get 503.",
        &[query(
            "exo_ingest_ring_used_bytes{$node} / exo_ingest_ring_size_bytes{$node}",
            "{{instance}} shard {{shard}}",
        )],
    ),
    panel(
        "Not durable yet",
        (Lines, BYTES),
        "What a crash of the machine would lose.",
        &[query("sum by (instance) (exo_ingest_journal_undurable_bytes{$node})", "{{instance}}")],
    ),
    panel(
        "Disk without progress",
        (Lines, SECONDS),
        "Although it has work to do.",
        &[query("max by (instance) (exo_ingest_journal_stalled_seconds{$node})", "{{instance}}")],
    ),
];

pub(super) const SHARDS: &[Panel] = &[
    panel(
        "CPU",
        (Lines, SHARE),
        "100 % is one core.",
        &[query("rate(process_cpu_seconds_total{$node}[$rate])", "{{instance}}")],
    ),
    panel(
        "CPU of a frame",
        (Lines, SECONDS),
        "The whole process, for each frame.",
        &[query(per_frame!("process_cpu_seconds_total"), "CPU")],
    ),
    panel(
        "Frames by shard",
        (Lines, PER_SECOND),
        "Whether the shards are even.",
        &[query("rate(exo_ingest_frames_total{$node}[$rate])", "{{instance}} shard {{shard}}")],
    ),
    panel(
        "Connections by shard",
        (Lines, COUNT),
        "Open now.",
        &[query("exo_ingest_connections_open{$node}", "{{instance}} shard {{shard}}")],
    ),
    panel(
        "Turns",
        (Lines, PER_SECOND),
        "Passes of the loop.",
        &[query("rate(exo_ingest_turns_total{$node}[$rate])", "{{instance}} shard {{shard}}")],
    ),
    panel(
        "Work of a turn",
        (LogLines, SECONDS),
        "Without the wait for completions.",
        &[
            query(quantile!("0.5", "exo_ingest_turn_seconds"), "p50"),
            query(quantile!("0.99", "exo_ingest_turn_seconds"), "p99"),
        ],
    ),
    panel(
        "Queues",
        (Lines, COUNT),
        "Work that waits for its shard.",
        &[
            query("sum(exo_ingest_heads_waiting{$node})", "requests to check"),
            query("sum(exo_ingest_reads_waiting{$node})", "connections to read"),
            query("sum(exo_ingest_unsent_waiting{$node})", "connections to send to"),
            query("sum(exo_ingest_deferred_waiting{$node})", "wait for the ring"),
            query("sum(exo_ingest_outbox_waiting{$node})", "messages to shards"),
        ],
    ),
    panel(
        "Signs of overload",
        (Lines, PER_SECOND),
        "All of them are zero on a good day.",
        &[
            query(sum_rate!("exo_ingest_standstills_total"), "stood still"),
            query(sum_rate!("exo_ingest_receive_buffers_exhausted_total"), "no receive buffer"),
            query(sum_rate!("exo_ingest_receives_deferred_total"), "ring full"),
            query(sum_rate!("exo_ingest_sends_blocked_total"), "peer reads slowly"),
        ],
    ),
    panel(
        "System calls of a frame",
        (Lines, COUNT),
        "Fewer under load.",
        &[query(per_frame!("exo_ingest_system_calls_total"), "calls")],
    ),
];

pub(super) const TLS: &[Panel] = &[
    panel(
        "Handshakes",
        (Lines, PER_SECOND),
        "In full, or of an earlier session.",
        &[
            query(sum_rate!("exo_ingest_tls_handshakes_full_total"), "full"),
            query(sum_rate!("exo_ingest_tls_handshakes_resumed_total"), "resumed"),
        ],
    ),
    panel(
        "Handshakes that wait",
        (Lines, COUNT),
        "Until a turn has time for them.",
        &[query("sum by (instance) (exo_ingest_tls_handshakes_waiting{$node})", "{{instance}}")],
    ),
    panel(
        "TLS failures",
        (Stack, PER_SECOND),
        "By reason.",
        &[query(by_reason!("exo_ingest_tls_failures_total"), "{{reason}}")
            .when("TLS connections fail")],
    ),
    panel(
        "Certificates",
        (Lines, SECONDS),
        "Time until each expires.",
        &[query(
            "exo_ingest_tls_certificate_expiry_timestamp_seconds{$node} - time()",
            "{{instance}} {{file}}",
        )
        .when("the port speaks TLS")],
    ),
    panel(
        "Refused tokens",
        (Stack, PER_SECOND),
        "By reason.",
        &[query(by_reason!("exo_ingest_token_failures_total"), "{{reason}}")
            .when("tokens are refused")],
    ),
    panel(
        "Keys",
        (Lines, COUNT),
        "Of the key file. Skipped ones cannot verify RS256.",
        &[query("exo_ingest_keys{$node}", "{{state}}, {{instance}}")],
    ),
    panel(
        "Since the last reload",
        (Lines, SECONDS),
        "Refused: the old ones stay.",
        &[
            query(
                "time() - exo_ingest_reload_success_timestamp_seconds{$node}",
                "{{what}} taken, {{instance}}",
            ),
            query(
                "time() - exo_ingest_reload_failure_timestamp_seconds{$node}",
                "{{what}} refused, {{instance}}",
            )
            .when("a reload was refused"),
        ],
    ),
    panel(
        "Spill buffers",
        (Lines, COUNT),
        "Records that came in pieces.",
        &[query("sum by (instance) (exo_ingest_tls_spill_buffers_used{$node})", "{{instance}}")],
    ),
];

pub(super) const HOST: &[Panel] = &[
    panel(
        "Memory",
        (Stack, BYTES),
        "Resident, by owner.",
        &[query("sum by (owner) (exo_ingest_memory_bytes{$node})", "{{owner}}")],
    ),
    panel(
        "Open files",
        (Lines, COUNT),
        "And their limit.",
        &[
            query("process_open_fds{$node}", "{{instance}}"),
            query("process_max_fds{$node}", "limit of {{instance}}"),
        ],
    ),
    panel(
        "Log lines dropped",
        (Lines, PER_SECOND),
        "Standard error did not take them.",
        &[query("rate(exo_ingest_log_lines_dropped_total{$node}[$rate])", "{{instance}}")],
    ),
    panel(
        "Connections refused early",
        (Lines, PER_SECOND),
        "Before their request.",
        &[
            query(sum_rate!("exo_ingest_accept_failures_total"), "accept failed"),
            query(sum_rate!("exo_ingest_connections_shed_total"), "made room"),
            query(sum_rate!("exo_ingest_connections_over_rate_total"), "over the rate"),
            query(sum_rate!("exo_ingest_proxy_refused_total"), "no PROXY header"),
        ],
    ),
    panel(
        "Scrapes",
        (Lines, SECONDS),
        "How long Prometheus waits for an answer.",
        &[query("scrape_duration_seconds{$node}", "{{instance}}")],
    ),
    panel(
        "Versions",
        (Stack, COUNT),
        "Nodes by version and commit.",
        &[query(
            "count by (version, commit) (exo_ingest_build_info{$node})",
            "{{version}} ({{commit}})",
        )],
    ),
];
