#![forbid(unsafe_code)]
//! The table of the dashboard's panels. In an expression `$node` stands for the labels that choose
//! the nodes, and `$rate` for the time over which rates are taken.
//!
//! A query that is empty in a healthy node says when it is not. A test runs all queries on a real
//! Prometheus, before and after these conditions hold.

/// A row of panels.
pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) panels: &'static [Panel],
}

/// How a panel draws its series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drawing {
    /// One number.
    Number,
    /// One number that is 1 or 0.
    YesOrNo,
    /// Lines over time.
    Lines,
    /// Lines on a logarithmic scale.
    LogLines,
    /// Areas on top of each other.
    Stack,
    /// Buckets over time.
    HeatMap,
}

/// A panel.
pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) help: &'static str,
    pub(super) drawing: Drawing,
    /// Grafana's name of it.
    pub(super) unit: &'static str,
    pub(super) queries: &'static [Query],
}

/// A query of a panel.
pub(super) struct Query {
    pub(super) expr: &'static str,
    pub(super) legend: &'static str,
    /// When it returns series. `None`: always on a node with a journal that has had a call.
    pub(super) when: Option<&'static str>,
}

const fn query(expr: &'static str, legend: &'static str) -> Query {
    Query { expr, legend, when: None }
}

impl Query {
    const fn when(self, when: &'static str) -> Query {
        Query { when: Some(when), ..self }
    }
}

const fn panel(
    title: &'static str,
    (drawing, unit): (Drawing, &'static str),
    help: &'static str,
    queries: &'static [Query],
) -> Panel {
    Panel { title, help, drawing, unit, queries }
}

use Drawing::{HeatMap, Lines, LogLines, Number, Stack, YesOrNo};

const COUNT: &str = "short";
const PER_SECOND: &str = "cps";
const SECONDS: &str = "s";
const BYTES: &str = "bytes";
const BYTES_PER_SECOND: &str = "Bps";
const SHARE: &str = "percentunit";

/// All rows, from top to bottom.
pub(super) const ROWS: [Row; 7] = [
    Row { title: "Node", panels: NODE },
    Row { title: "Calls and refusals", panels: CALLS },
    Row { title: "ACK latency", panels: LATENCY },
    Row { title: "Journal and disk", panels: JOURNAL },
    Row { title: "CPU and shards", panels: SHARDS },
    Row { title: "TLS and tokens", panels: TLS },
    Row { title: "Host", panels: HOST },
];

const NODE: &[Panel] = &[
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
        &[query(
            "histogram_quantile(0.99, sum by (le) (rate(exo_ingest_ack_seconds_bucket{$node}\
                [$rate])))",
            "p99",
        )],
    ),
    panel(
        "Refused",
        (Number, PER_SECOND),
        "Requests refused per second.",
        &[query("sum(rate(exo_ingest_refusals_total{$node}[$rate]))", "refused")],
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

const CALLS: &[Panel] = &[
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
            query("sum(rate(exo_ingest_calls_started_total{$node}[$rate]))", "started"),
            query("sum(rate(exo_ingest_calls_ended_total{$node}[$rate]))", "ended"),
        ],
    ),
    panel(
        "Refusals",
        (Stack, PER_SECOND),
        "HTTP answers other than 101, by reason.",
        &[query(
            "sum by (reason) (rate(exo_ingest_refusals_total{$node}[$rate])) > 0",
            "{{reason}}",
        )
        .when("requests are refused")],
    ),
    panel(
        "Closes by the node",
        (Stack, PER_SECOND),
        "Close frames that the node sent first.",
        &[query("sum by (reason) (rate(exo_ingest_closes_total{$node}[$rate])) > 0", "{{reason}}")
            .when("the node closes calls")],
    ),
    panel(
        "Ends of calls",
        (Stack, PER_SECOND),
        "How calls ended, by reason.",
        &[query(
            "sum by (reason) (rate(exo_ingest_endings_total{$node}[$rate])) > 0",
            "{{reason}}",
        )
        .when("calls end")],
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
            query("sum(rate(exo_ingest_frames_total{$node}[$rate]))", "frames"),
            query("sum(rate(exo_ingest_acks_total{$node}[$rate]))", "ACKs"),
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

const LATENCY: &[Panel] = &[
    panel(
        "ACK latency",
        (LogLines, SECONDS),
        "From a complete frame to its ACK.",
        &[
            query(
                "histogram_quantile(0.5, sum by (le) (rate(exo_ingest_ack_seconds_bucket{$node}[$rate])))",
                "p50",
            ),
            query(
                "histogram_quantile(0.9, sum by (le) (rate(exo_ingest_ack_seconds_bucket{$node}[$rate])))",
                "p90",
            ),
            query(
                "histogram_quantile(0.99, sum by (le) (rate(exo_ingest_ack_seconds_bucket{$node}\
                [$rate])))",
                "p99",
            ),
            query(
                "histogram_quantile(0.999, sum by (le) (rate(exo_ingest_ack_seconds_bucket{$node}\
                [$rate])))",
                "p99.9",
            ),
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
            query(
                "histogram_quantile(0.99, sum by (le) (rate(exo_ingest_frame_ring_seconds_bucket\
                {$node}[$rate])))",
                "frame in the ring",
            ),
            query(
                "histogram_quantile(0.99, sum by (le) (rate(exo_ingest_frame_durable_seconds_bucket\
                {$node}[$rate])))",
                "durable",
            ),
            query(
                "histogram_quantile(0.99, sum by (le) (rate(exo_ingest_journal_write_seconds_bucket\
                {$node}[$rate])))",
                "write",
            ),
            query(
                "histogram_quantile(0.99, sum by (le) (rate(exo_ingest_journal_sync_seconds_bucket\
                {$node}[$rate])))",
                "sync",
            ),
            query(
                "histogram_quantile(0.99, sum by (le) (rate(exo_ingest_ack_sent_seconds_bucket{$node}\
                [$rate])))",
                "ACK in the socket",
            ),
        ],
    ),
    panel(
        "Setup of a call, p99",
        (LogLines, SECONDS),
        "From accept to started.",
        &[
            query(
                "histogram_quantile(0.99, sum by (le) (rate(exo_ingest_setup_seconds_bucket{$node}\
                [$rate]))) >= 0",
                "all",
            )
            .when("calls start"),
            query(
                "histogram_quantile(0.99, sum by (le) (rate(exo_ingest_setup_upgrade_seconds_bucket\
                {$node}[$rate]))) >= 0",
                "check of the token",
            )
            .when("calls start"),
            query(
                "histogram_quantile(0.99, sum by (le) (rate(exo_ingest_setup_start_seconds_bucket\
                {$node}[$rate]))) >= 0",
                "peer's start",
            )
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

const JOURNAL: &[Panel] = &[
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
            query("sum(rate(exo_ingest_journal_writes_total{$node}[$rate]))", "writes"),
            query("sum(rate(exo_ingest_journal_syncs_total{$node}[$rate]))", "syncs"),
            query("sum(rate(exo_ingest_journal_fences_total{$node}[$rate]))", "fences"),
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

const SHARDS: &[Panel] = &[
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
        &[query(
            "sum(rate(process_cpu_seconds_total{$node}[$rate])) / \
                (sum(rate(exo_ingest_frames_total{$node}[$rate])) > 0)",
            "CPU",
        )],
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
            query(
                "histogram_quantile(0.5, sum by (le) (rate(exo_ingest_turn_seconds_bucket{$node}\
                [$rate])))",
                "p50",
            ),
            query(
                "histogram_quantile(0.99, sum by (le) (rate(exo_ingest_turn_seconds_bucket{$node}\
                [$rate])))",
                "p99",
            ),
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
            query("sum(rate(exo_ingest_standstills_total{$node}[$rate]))", "stood still"),
            query(
                "sum(rate(exo_ingest_receive_buffers_exhausted_total{$node}[$rate]))",
                "no receive buffer",
            ),
            query("sum(rate(exo_ingest_receives_deferred_total{$node}[$rate]))", "ring full"),
            query("sum(rate(exo_ingest_sends_blocked_total{$node}[$rate]))", "peer reads slowly"),
        ],
    ),
    panel(
        "System calls of a frame",
        (Lines, COUNT),
        "Fewer under load.",
        &[query(
            "sum(rate(exo_ingest_system_calls_total{$node}[$rate])) / \
                (sum(rate(exo_ingest_frames_total{$node}[$rate])) > 0)",
            "calls",
        )],
    ),
];

const TLS: &[Panel] = &[
    panel(
        "Handshakes",
        (Lines, PER_SECOND),
        "In full, or of an earlier session.",
        &[
            query("sum(rate(exo_ingest_tls_handshakes_full_total{$node}[$rate]))", "full"),
            query("sum(rate(exo_ingest_tls_handshakes_resumed_total{$node}[$rate]))", "resumed"),
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
        &[query(
            "sum by (reason) (rate(exo_ingest_tls_failures_total{$node}[$rate])) > 0",
            "{{reason}}",
        )
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
        &[query(
            "sum by (reason) (rate(exo_ingest_token_failures_total{$node}[$rate])) > 0",
            "{{reason}}",
        )
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

const HOST: &[Panel] = &[
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
            query("sum(rate(exo_ingest_accept_failures_total{$node}[$rate]))", "accept failed"),
            query("sum(rate(exo_ingest_connections_shed_total{$node}[$rate]))", "made room"),
            query(
                "sum(rate(exo_ingest_connections_over_rate_total{$node}[$rate]))",
                "over the rate",
            ),
            query("sum(rate(exo_ingest_proxy_refused_total{$node}[$rate]))", "no PROXY header"),
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
