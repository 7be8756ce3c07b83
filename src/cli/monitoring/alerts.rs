#![forbid(unsafe_code)]
//! The table of alerts. Names that begin with `$` are the flags of `exo-ingest alerts`, but for
//! `$labels` and `$value`, which Prometheus fills in.
//!
//! An alert is worth a look by a person. `critical` means that calls are refused or cut, or that
//! audio is in danger. Each has a section in docs/troubleshooting.md, and a test that makes it fire
//! and resolve.

/// How urgent an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    Critical,
    Warning,
}

impl Severity {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
        }
    }
}

/// One alert.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alert {
    pub(super) name: &'static str,
    pub(super) severity: Severity,
    /// How long the condition must hold.
    pub(super) hold: &'static str,
    pub(super) expr: &'static str,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
}

/// All alerts.
pub(super) const ALERTS: &[Alert] = &[
    Alert {
        name: "ExoIngestDown",
        severity: Severity::Critical,
        hold: "1m",
        expr: "up{$job} == 0",
        summary: "{{ $labels.instance }} does not answer",
        description: "Prometheus cannot scrape the admin listener. The node is down, or the \
            network between is.",
    },
    Alert {
        name: "ExoIngestRestarts",
        severity: Severity::Critical,
        hold: "0s",
        expr: "changes(process_start_time_seconds{$job}[30m]) >= 2",
        summary: "{{ $labels.instance }} restarts again and again",
        description: "The node was restarted {{ $value }} times within 30 minutes.",
    },
    Alert {
        name: "ExoIngestNotReady",
        severity: Severity::Critical,
        hold: "1m",
        expr: "exo_ingest_not_ready{reason!=\"draining\"} == 1",
        summary: "{{ $labels.instance }} wants no calls: {{ $labels.reason }}",
        description: "/ready says no for the reason {{ $labels.reason }}.",
    },
    Alert {
        name: "ExoIngestDrainsLong",
        severity: Severity::Warning,
        hold: "10m",
        expr: "exo_ingest_not_ready{reason=\"draining\"} == 1",
        summary: "{{ $labels.instance }} has been draining for long",
        description: "The node was told to end, and has not ended yet.",
    },
    Alert {
        name: "ExoIngestNearCapacity",
        severity: Severity::Warning,
        hold: "5m",
        expr: "exo_ingest_calls_live / exo_ingest_calls_max > $calls",
        summary: "{{ $labels.instance }} has nearly all the calls that it may take",
        description: "{{ $value | humanizePercentage }} of --max-calls are live, more than \
            $calls_text.",
    },
    Alert {
        name: "ExoIngestRefusesRequests",
        severity: Severity::Warning,
        hold: "5m",
        expr: "sum by (job, instance) (rate(exo_ingest_refusals_total[$window]))
            / (
            sum by (job, instance) (rate(exo_ingest_refusals_total[$window]))
            + sum by (job, instance) (rate(exo_ingest_upgrades_total[$window]))
            ) > $refusals",
        summary: "{{ $labels.instance }} refuses many requests",
        description: "{{ $value | humanizePercentage }} of the requests are refused, more than \
            $refusals_text. exo_ingest_refusals_total says why.",
    },
    Alert {
        name: "ExoIngestBadTokens",
        severity: Severity::Warning,
        hold: "5m",
        expr: "rate(exo_ingest_token_failures_total[$window]) > $bad_tokens",
        summary: "{{ $labels.instance }} refuses tokens: {{ $labels.reason }}",
        description: "{{ $value | humanize }} tokens a second are refused for the reason \
            {{ $labels.reason }}.",
    },
    Alert {
        name: "ExoIngestTlsFails",
        severity: Severity::Warning,
        hold: "5m",
        expr: "sum by (job, instance) (rate(exo_ingest_tls_failures_total[$window]))
            / (
            sum by (job, instance) (rate(exo_ingest_tls_failures_total[$window]))
            + sum by (job, instance) (rate(exo_ingest_tls_handshakes_full_total[$window]))
            + sum by (job, instance) (rate(exo_ingest_tls_handshakes_resumed_total[$window]))
            ) > $tls_failures",
        summary: "Many TLS connections to {{ $labels.instance }} fail",
        description: "{{ $value | humanizePercentage }} of the TLS connections fail. \
            exo_ingest_tls_failures_total says why.",
    },
    Alert {
        name: "ExoIngestAckSlow",
        severity: Severity::Warning,
        hold: "5m",
        expr: "histogram_quantile(0.99,
            sum by (job, instance, le) (rate(exo_ingest_ack_seconds_bucket[$window]))
            ) > $ack_p99",
        summary: "ACKs of {{ $labels.instance }} come late",
        description: "One ACK in a hundred takes longer than {{ $value | humanizeDuration }}. \
            The limit is $ack_p99_text.",
    },
    Alert {
        name: "ExoIngestRingFills",
        severity: Severity::Warning,
        hold: "30s",
        expr: "exo_ingest_ring_used_bytes / exo_ingest_ring_size_bytes > 0.5",
        summary: "The frame ring of shard {{ $labels.shard }} of {{ $labels.instance }} fills up",
        description: "{{ $value | humanizePercentage }} of the ring are in use: the disk is late. \
            From three quarters on new calls get 503.",
    },
    Alert {
        name: "ExoIngestJournalStalled",
        severity: Severity::Critical,
        hold: "0s",
        expr: "max by (job, instance) (exo_ingest_journal_stalled_seconds) > 2",
        summary: "The disk of {{ $labels.instance }} does not answer",
        description: "The disk has made no progress for {{ $value | humanizeDuration }}. After \
            journal.stall_timeout calls are closed.",
    },
    Alert {
        name: "ExoIngestJournalFailed",
        severity: Severity::Critical,
        hold: "0s",
        expr: "sum by (job, instance) (increase(exo_ingest_journal_fences_total[15m])) > 0",
        summary: "A write or sync of {{ $labels.instance }} failed",
        description: "The disk failed within the last 15 minutes. What was not durable was written \
            again, to another segment.",
    },
    Alert {
        name: "ExoIngestCallsCutByDisk",
        severity: Severity::Critical,
        hold: "0s",
        expr: "increase(exo_ingest_closes_total{reason=\"storage\"}[$window]) > 0",
        summary: "{{ $labels.instance }} closes calls because of its disk",
        description: "About {{ $value | humanize }} calls were closed with 1013 within $window.",
    },
    Alert {
        name: "ExoIngestDiskLow",
        severity: Severity::Warning,
        hold: "5m",
        expr: "exo_ingest_disk_free_bytes / exo_ingest_disk_size_bytes < $disk_free",
        summary: "The disk of {{ $labels.instance }} is nearly full",
        description: "{{ $value | humanizePercentage }} of the disk are free, less than \
            $disk_free_text. Below journal.reserve new calls get 503.",
    },
    Alert {
        name: "ExoIngestDiskFills",
        severity: Severity::Warning,
        hold: "15m",
        expr: "predict_linear(exo_ingest_disk_free_bytes[1h], $disk_full_in)
            < exo_ingest_disk_reserve_bytes
            unless on (job, instance) exo_ingest_journal_retain_bytes",
        summary: "The disk of {{ $labels.instance }} will soon be full",
        description: "At the pace of the last hour the reserve is reached within \
            $disk_full_in_text, and retain_bytes is not set.",
    },
    Alert {
        name: "ExoIngestJournalOverLimit",
        severity: Severity::Warning,
        hold: "15m",
        expr: "exo_ingest_journal_stored_bytes / exo_ingest_journal_retain_bytes > 1.1",
        summary: "The journal of {{ $labels.instance }} is larger than retain_bytes",
        description: "It has {{ $value | humanizePercentage }} of the limit. Segments that are \
            read or held are not removed.",
    },
    Alert {
        name: "ExoIngestSegmentsHeld",
        severity: Severity::Warning,
        hold: "15m",
        expr: "exo_ingest_journal_segments_held > 0",
        summary: "{{ $labels.instance }} cannot remove old segments",
        description: "Retention passes over {{ $value }} segments. /ready names them.",
    },
    Alert {
        name: "ExoIngestSinkFails",
        severity: Severity::Warning,
        hold: "5m",
        expr: "exo_ingest_sink_failing == 1",
        summary: "{{ $labels.sink }} does not take the journal of {{ $labels.instance }}",
        description: "The audio stays on the disk of the node until it does. /ready says what \
            fails.",
    },
    Alert {
        name: "ExoIngestSinkLags",
        severity: Severity::Warning,
        hold: "5m",
        expr: "exo_ingest_sink_lag_seconds > $sink_lag",
        summary: "{{ $labels.sink }} lacks old audio of {{ $labels.instance }}",
        description: "The oldest audio that it lacks is {{ $value | humanizeDuration }} old. The \
            limit is $sink_lag_text.",
    },
    Alert {
        name: "ExoIngestSinkFillsDisk",
        severity: Severity::Critical,
        hold: "1m",
        expr: "exo_ingest_disk_full_seconds < $sink_disk_full_in",
        summary: "The disk of {{ $labels.instance }} fills up with what a sink does not take",
        description: "In {{ $value | humanizeDuration }} only the reserve is left. Then new calls \
            get 503.",
    },
    Alert {
        name: "ExoIngestSinkBehindBudget",
        severity: Severity::Critical,
        hold: "0s",
        expr: "increase(exo_ingest_sink_dropped_bytes_total[$window]) > 0",
        summary: "{{ $labels.instance }} removed audio that {{ $labels.sink }} has not taken",
        description: "forward.budget was used up within $window, and {{ $value | humanize1024 }}B \
            of the journal were removed.",
    },
    Alert {
        name: "ExoIngestAcksDegraded",
        severity: Severity::Critical,
        hold: "0s",
        expr: "sum by (job, instance) (increase(exo_ingest_acks_degraded_total[$window])) > 0",
        summary: "ACKs of {{ $labels.instance }} promise less than replicated",
        description: "The message engine did not acknowledge audio in time. About \
            {{ $value | humanize }} ACKs within $window mean durable.",
    },
    Alert {
        name: "ExoIngestReloadRefused",
        severity: Severity::Warning,
        hold: "0s",
        expr: "exo_ingest_reload_failure_timestamp_seconds
            > exo_ingest_reload_success_timestamp_seconds",
        summary: "{{ $labels.instance }} refused new {{ $labels.what }}",
        description: "The last reload of {{ $labels.what }} was refused, and the old ones stay. \
            The log says why.",
    },
    Alert {
        name: "ExoIngestCertificateExpires",
        severity: Severity::Warning,
        hold: "0s",
        expr: "exo_ingest_tls_certificate_expiry_timestamp_seconds - time() < $certificate",
        summary: "A certificate of {{ $labels.instance }} expires soon",
        description: "{{ $labels.file }} expires in {{ $value | humanizeDuration }}.",
    },
    Alert {
        name: "ExoIngestCertificateExpired",
        severity: Severity::Critical,
        hold: "0s",
        expr: "exo_ingest_tls_certificate_expiry_timestamp_seconds - time() < 86400",
        summary: "A certificate of {{ $labels.instance }} expires within a day, or has expired",
        description: "{{ $labels.file }} has {{ $value | humanizeDuration }} left. After that \
            clients refuse to connect.",
    },
    Alert {
        name: "ExoIngestCpuBusy",
        severity: Severity::Warning,
        hold: "10m",
        expr: "rate(process_cpu_seconds_total{$job}[$window])
            / on (job, instance) count by (job, instance) (exo_ingest_turns_total) > $cpu",
        summary: "The shards of {{ $labels.instance }} are busy",
        description: "The node uses {{ $value | humanizePercentage }} of one core for each shard.",
    },
    Alert {
        name: "ExoIngestStandsStill",
        severity: Severity::Warning,
        hold: "0s",
        expr: "sum by (job, instance) (increase(exo_ingest_standstills_total[$window])) > 3",
        summary: "{{ $labels.instance }} loses its CPU",
        description: "Shards stood still about {{ $value | humanize }} times within $window.",
    },
    Alert {
        name: "ExoIngestFilesLow",
        severity: Severity::Warning,
        hold: "5m",
        expr: "process_open_fds{$job} / process_max_fds{$job} > 0.8",
        summary: "{{ $labels.instance }} has nearly all the files open that it may",
        description: "{{ $value | humanizePercentage }} of the limit on open files are in use.",
    },
    Alert {
        name: "ExoIngestAcceptsFail",
        severity: Severity::Critical,
        hold: "0s",
        expr: "sum by (job, instance) (increase(exo_ingest_accept_failures_total[$window])) > 0",
        summary: "{{ $labels.instance }} cannot accept connections",
        description: "Descriptors or memory ran out within $window.",
    },
    Alert {
        name: "ExoIngestLogDropped",
        severity: Severity::Warning,
        hold: "0s",
        expr: "increase(exo_ingest_log_lines_dropped_total[$window]) > 0",
        summary: "{{ $labels.instance }} loses lines of its log",
        description: "Standard error did not take about {{ $value | humanize }} lines within \
            $window.",
    },
];
