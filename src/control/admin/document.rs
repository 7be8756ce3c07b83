//! The document of `/status.json`: what `exo-ingest top` and the web page show. Viewers compute
//! rates from two documents, so all counters count from the node's start.
//!
//! Readers must ignore members that they do not know. [`FORMAT`] changes only when a member
//! changes its meaning or goes.

use serde::{Deserialize, Serialize};

/// The version of the document.
pub(crate) const FORMAT: u32 = 1;

/// The status of a node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StatusDocument {
    /// [`FORMAT`].
    pub(crate) format: u32,
    pub(crate) node: NodeStatus,
    /// Seconds that quantiles and rates look back.
    pub(crate) window_seconds: f64,
    /// Upper bounds of the buckets of `ack_counts`, microseconds. The last bucket has no bound.
    pub(crate) ack_bounds_us: Vec<u64>,
    pub(crate) shards: Vec<ShardStatus>,
    /// `None` without a journal.
    pub(crate) store: Option<StoreStatus>,
    /// Where the journal is sent to.
    pub(crate) sinks: Vec<SinkStatus>,
    /// The tenants with the most live calls, then with the most frames.
    pub(crate) tenants: Vec<TenantStatus>,
    /// Tenants that are not in the list.
    pub(crate) tenants_unlisted: usize,
    /// The live calls that wait the longest, the worst first.
    pub(crate) calls: Vec<CallStatus>,
}

/// The node as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeStatus {
    pub(crate) version: String,
    pub(crate) commit: String,
    /// The level of its ACKs.
    pub(crate) ack: String,
    /// They are at `durable` now, because the message engine does not answer.
    #[serde(default)]
    pub(crate) ack_degraded: bool,
    /// ACKs that went out so since the start.
    #[serde(default)]
    pub(crate) acks_degraded: u64,
    pub(crate) started_unix_ms: u64,
    pub(crate) uptime_seconds: f64,
    pub(crate) is_ready: bool,
    pub(crate) is_draining: bool,
    /// Why it is not ready.
    pub(crate) reasons: Vec<Remark>,
    /// What needs attention but keeps no call away.
    pub(crate) warnings: Vec<Remark>,
    /// Calls connected now.
    pub(crate) calls: usize,
    pub(crate) calls_max: usize,
    /// CPU time of all threads.
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) open_files_max: Option<u64>,
}

/// A reason or a warning, as `/ready` has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Remark {
    pub(crate) name: String,
    pub(crate) message: String,
}

/// One shard. Counters count from its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShardStatus {
    pub(crate) shard: usize,
    /// Calls that have started and not ended.
    pub(crate) calls: u64,
    pub(crate) connections: u64,
    pub(crate) frames: u64,
    pub(crate) audio_bytes: u64,
    pub(crate) acks: u64,
    /// CPU time of its thread; `None` where the kernel does not tell.
    pub(crate) cpu_us: Option<u64>,
    pub(crate) turns: u64,
    pub(crate) standstills: u64,
    /// From the turn that completes a frame until its ACK goes out, in the last seconds.
    pub(crate) ack: Quantiles,
    /// The same since the start: ACKs by bucket.
    pub(crate) ack_counts: Vec<u64>,
    /// A sync of the journal, in the last seconds.
    pub(crate) sync: Quantiles,
    pub(crate) ring: RingStatus,
    pub(crate) journal_bytes: u64,
    pub(crate) journal_stalled_ms: u64,
    pub(crate) journal_fences: u64,
    pub(crate) refuses_calls: bool,
    /// What was refused, by reason; reasons without a count are left out.
    pub(crate) refused: Vec<Refused>,
}

/// How long something took in the last seconds, microseconds, exact to 1 %. Zeros if it did not
/// happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) count: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
}

/// The frame ring of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RingStatus {
    pub(crate) size_bytes: u64,
    pub(crate) used_bytes: u64,
    /// Bytes that came into it in the last seconds, for each second.
    pub(crate) fill_bytes_per_second: f64,
    /// The longest disk stall that its free bytes bridge at that rate; `None` if nothing comes.
    pub(crate) bridges_ms: Option<u64>,
}

/// A number of refusals for one reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// `refusals`, `token_failures`, `closes` or `tls_failures`, as in `/metrics`.
    pub(crate) family: String,
    pub(crate) reason: String,
    pub(crate) count: u64,
}

/// The store of the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoreStatus {
    /// Bytes of the journal on disk.
    pub(crate) journal_bytes: u64,
    /// Bytes free on its filesystem.
    pub(crate) free_bytes: Option<u64>,
    pub(crate) segments_removed: u64,
    pub(crate) segments_held: u64,
}

/// A place that the journal is sent to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SinkStatus {
    pub(crate) name: String,
    pub(crate) lag_seconds: f64,
    pub(crate) lag_bytes: u64,
    /// Calls that were deleted and that it has not erased yet.
    pub(crate) erasures_waiting: u64,
}

/// A tenant. An empty name stands for all tenants without a row of their own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TenantStatus {
    pub(crate) tenant: String,
    pub(crate) calls: usize,
    pub(crate) calls_total: u64,
    /// Calls refused because the tenant was at its limit.
    pub(crate) refused: u64,
    pub(crate) frames: u64,
    pub(crate) audio_bytes: u64,
}

/// A live call. Its ids are personal data: see docs/metrics.md.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CallStatus {
    pub(crate) tenant: String,
    pub(crate) interaction: String,
    pub(crate) shard: usize,
    pub(crate) boot: u32,
    pub(crate) epoch: u64,
    pub(crate) seconds: f64,
    pub(crate) frames: u64,
    /// Complete frames after the last one that was acked.
    pub(crate) unacked: u64,
    /// Since when the oldest ACK is due that has not left.
    pub(crate) ack_wait_ms: u64,
    /// Since when nothing has come.
    pub(crate) silent_ms: u64,
    /// Time since the start, less the length of the audio. Below zero: the audio runs ahead.
    pub(crate) late_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_ignores_what_it_does_not_know() {
        let mut text = serde_json::to_value(StatusDocument::default()).unwrap();
        text["new"] = 1.into();
        text["node"]["new"] = "more".into();
        assert_eq!(
            serde_json::from_value::<StatusDocument>(text).unwrap(),
            StatusDocument::default()
        );
    }
}
