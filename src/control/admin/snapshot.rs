//! Makes the document of `/status.json` from what the node's threads have published.

use super::document::{
    CallStatus, FORMAT, NodeStatus, Refused, Remark, RingStatus, ShardStatus, SinkStatus,
    StatusDocument, StoreStatus, TenantStatus,
};
use super::node_info::NodeInfo;
use super::process::Process;
use super::ready::{Notices, Reason, warnings};
use super::recent::{BOUNDS_US, Recent, WINDOW};
use crate::constants::{COMMIT, RECORD_ALIGNMENT};
use crate::metrics::{Counters, TlsFailure};
use crate::node::NodeView;
use crate::worst_calls::LiveCall;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Tenants with a row. A node may have a thousand, and a viewer shows a screen of them.
const TENANTS_MAX: usize = 100;

/// Calls with a row.
const CALLS_MAX: usize = 50;

/// What a document is made of.
pub(super) struct Sources<'a> {
    pub(super) view: &'a NodeView,
    pub(super) node_info: NodeInfo,
    pub(super) is_draining: bool,
    pub(super) reasons: &'a [Reason],
    pub(super) notices: Notices,
    pub(super) ack_degraded: bool,
    pub(super) process: Process,
    pub(super) started: SystemTime,
    /// By shard.
    pub(super) recent: &'a [Recent],
    /// By shard.
    pub(super) cpu_us: &'a [Option<u64>],
    pub(super) calls: &'a [LiveCall],
    pub(super) now: Instant,
}

/// The document of a moment.
pub(super) fn document(sources: &Sources<'_>) -> StatusDocument {
    let (tenants, tenants_unlisted) = tenants(sources.view);
    StatusDocument {
        format: FORMAT,
        node: node(sources),
        window_seconds: WINDOW.as_secs_f64(),
        ack_bounds_us: BOUNDS_US.to_vec(),
        shards: (0..sources.view.counters.len()).map(|index| shard(sources, index)).collect(),
        store: sources.view.store.as_ref().map(|store| StoreStatus {
            journal_bytes: store.journal().bytes,
            free_bytes: store.disk().map(|disk| disk.free),
            segments_removed: store.segments_removed(),
            segments_held: store.segments_held(),
        }),
        sinks: sinks(sources.view),
        tenants,
        tenants_unlisted,
        calls: calls(sources.calls),
    }
}

fn sinks(view: &NodeView) -> Vec<SinkStatus> {
    let statuses = view.sinks.iter().map(|sink| SinkStatus {
        name: sink.kind().into(),
        lag_seconds: sink.lag().as_secs_f64(),
        lag_bytes: sink.lag_bytes(),
        erasures_waiting: sink.erasures(),
    });
    statuses.collect()
}

fn node(sources: &Sources<'_>) -> NodeStatus {
    let Sources { view, node_info, reasons, process, started, .. } = sources;
    let reason =
        |reason: &Reason| Remark { name: reason.name.into(), message: reason.message.clone() };
    let warning = |(name, message): (&str, String)| Remark { name: name.into(), message };
    NodeStatus {
        version: env!("CARGO_PKG_VERSION").into(),
        commit: COMMIT.into(),
        ack: node_info.ack.into(),
        ack_degraded: sources.ack_degraded,
        acks_degraded: view.counters.iter().map(|it| it.acks_degraded.read()).sum(),
        started_unix_ms: started.duration_since(UNIX_EPOCH).map_or(0, millis),
        uptime_seconds: started.elapsed().unwrap_or_default().as_secs_f64(),
        is_ready: reasons.is_empty(),
        is_draining: sources.is_draining,
        reasons: reasons.iter().map(reason).collect(),
        warnings: warnings(sources.notices.clone()).map(warning).collect(),
        calls: view.tenants.as_ref().map_or(0, |tenants| tenants.calls_live()),
        calls_max: node_info.calls_max,
        cpu_seconds: process.cpu_seconds,
        resident_bytes: process.resident_size,
        open_files: process.open_files,
        open_files_max: process.open_files_max,
    }
}

/// Bytes that have come into a shard's frame ring: audio, and a header for each record.
pub(super) fn ring_bytes(counters: &Counters) -> u64 {
    counters.audio_bytes.read() + counters.audio_records.read() * RECORD_ALIGNMENT as u64
}

fn shard(sources: &Sources<'_>, index: usize) -> ShardStatus {
    let (counters, recent) = (&sources.view.counters[index], &sources.recent[index]);
    let rate = recent.fill_rate(sources.now, ring_bytes(counters));
    let (size, used) = (counters.ring_size_bytes.read(), counters.ring_used_bytes.read());
    let bridges = || (size.saturating_sub(used) as f64 / rate * 1e3) as u64;
    ShardStatus {
        shard: index,
        calls: counters.calls_started.read().saturating_sub(counters.calls_ended.read()),
        connections: counters.connections_open.read(),
        frames: counters.frames.read(),
        audio_bytes: counters.audio_bytes.read(),
        acks: counters.acks.read(),
        cpu_us: sources.cpu_us.get(index).copied().flatten(),
        turns: counters.turns.read(),
        standstills: counters.standstills.read(),
        ack: recent.ack(sources.now),
        ack_counts: recent.ack_counts().to_vec(),
        sync: recent.sync(sources.now),
        ring: RingStatus {
            size_bytes: size,
            used_bytes: used,
            fill_bytes_per_second: rate,
            bridges_ms: (rate > 0.0).then(bridges),
        },
        journal_bytes: counters.journal_bytes.read(),
        journal_stalled_ms: counters.journal_stalled_ms.read(),
        journal_fences: counters.journal_fences.read(),
        refuses_calls: counters.journal_refuses_calls.read()
            + counters.ring_refuses_calls.read()
            + counters.budget_refuses_calls.read()
            > 0,
        refused: refused(sources.view, index),
    }
}

/// Refusals of a shard, by reason. Endings and normal closes are none.
fn refused(view: &NodeView, shard: usize) -> Vec<Refused> {
    let mut found = Vec::new();
    let mut add = |family: &str, reason: &str, count| {
        let is_refusal = family != "endings" && (family, reason) != ("closes", "normal");
        if count > 0 && is_refusal {
            found.push(Refused { family: family.into(), reason: reason.into(), count });
        }
    };
    if let Some(shared) = view.ingest.get(shard) {
        shared.counters.for_each(&mut add);
    }
    for failure in TlsFailure::ALL {
        let count = view.counters[shard].tls_failures[failure.index()].read();
        add("tls_failures", failure.label(), count);
    }
    found
}

/// The rows of the busiest tenants, and how many more there are.
fn tenants(view: &NodeView) -> (Vec<TenantStatus>, usize) {
    let mut rows = Vec::new();
    if let Some(tenants) = &view.tenants {
        tenants.for_each(|_, name, usage| {
            if name.is_some() || usage.calls > 0 || usage.refused > 0 {
                rows.push(TenantStatus {
                    tenant: name.unwrap_or_default().into(),
                    calls: usage.calls_live,
                    calls_total: usage.calls,
                    refused: usage.refused,
                    frames: usage.frames,
                    audio_bytes: usage.bytes,
                });
            }
        });
    }
    rows.sort_unstable_by(|a, b| {
        let key = |row: &TenantStatus| (row.calls, row.frames);
        key(b).cmp(&key(a)).then_with(|| a.tenant.cmp(&b.tenant))
    });
    let unlisted = rows.len().saturating_sub(TENANTS_MAX);
    rows.truncate(TENANTS_MAX);
    (rows, unlisted)
}

fn calls(found: &[LiveCall]) -> Vec<CallStatus> {
    let mut found: Vec<_> = found.iter().collect();
    found.sort_by_key(|call| std::cmp::Reverse(call.wait()));
    found.truncate(CALLS_MAX);
    let signed = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let row = |call: &LiveCall| CallStatus {
        tenant: call.tenant.clone(),
        interaction: call.interaction.clone(),
        shard: call.shard,
        boot: call.epoch.0,
        epoch: call.epoch.1,
        seconds: millis(call.lasted) as f64 / 1e3,
        frames: call.frames,
        unacked: call.frames.saturating_sub(call.acked),
        ack_wait_ms: millis(call.ack_wait),
        silent_ms: millis(call.silent),
        late_ms: signed(call.lasted).saturating_sub(signed(call.audio)),
    };
    found.into_iter().map(row).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenants::Tenants;

    #[test]
    fn calls_are_in_order_and_bounded() {
        let call = |wait: u64| LiveCall {
            interaction: wait.to_string(),
            silent: Duration::from_millis(wait),
            lasted: Duration::from_secs(3),
            audio: Duration::from_secs(5),
            frames: 25,
            acked: 20,
            ..LiveCall::default()
        };
        let found: Vec<_> = (0..2 * CALLS_MAX as u64).map(call).collect();
        let rows = calls(&found);
        assert_eq!(rows.len(), CALLS_MAX);
        let worst = &rows[0];
        assert_eq!((&*worst.interaction, worst.silent_ms), ("99", 99));
        assert_eq!((worst.unacked, worst.late_ms, worst.seconds), (5, -2_000, 3.0));
    }

    #[test]
    fn the_busiest_tenants_are_listed_and_the_others_counted() {
        let tenants_all = Tenants::new(1_000, Some(2));
        let names = (0..TENANTS_MAX + 5).map(|number| format!("tenant-{number}"));
        let mut permits: Vec<_> =
            names.map(|name| tenants_all.admit(&name).expect("it has room")).collect();
        permits.push(tenants_all.admit("tenant-9").expect("it has room"));
        assert!(tenants_all.admit("tenant-9").is_err());
        permits[8].add(1, 2);
        let view = NodeView { tenants: Some(tenants_all), ..NodeView::default() };
        let (rows, unlisted) = tenants(&view);
        assert_eq!((rows.len(), unlisted), (TENANTS_MAX, 5));
        let first = TenantStatus {
            tenant: "tenant-9".into(),
            calls: 2,
            calls_total: 2,
            refused: 1,
            ..TenantStatus::default()
        };
        assert_eq!(rows[0], first);
        assert_eq!((&*rows[1].tenant, rows[1].frames, rows[1].audio_bytes), ("tenant-8", 1, 2));
    }

    #[test]
    fn refusals_are_listed_by_reason_and_normal_ends_are_none() {
        use crate::limits::Limits;
        use crate::proto::close::Closing;
        use crate::proto::handshake::Refusal;
        use crate::session::ingest::{Ending, IngestSettings, IngestShared};
        let view = NodeView { counters: vec![Default::default()], ..NodeView::default() };
        assert_eq!(refused(&view, 0), []);
        let shared = IngestShared::new(std::sync::Arc::new(IngestSettings::new(Limits::tiny())));
        shared.counters.refusals[Refusal::Quota.index()].add(3);
        shared.counters.closes[Closing::Normal.index()].add(4);
        shared.counters.closes[Closing::IdleTimeout.index()].add(5);
        shared.counters.endings[Ending::IdleTimeout.index()].add(5);
        let view = NodeView { ingest: vec![shared], ..view };
        view.counters[0].tls_failures[TlsFailure::ALL[0].index()].add(6);
        let found = refused(&view, 0);
        let counts: Vec<_> = found.iter().map(|row| (&*row.family, row.count)).collect();
        assert_eq!(counts, [("refusals", 3), ("closes", 5), ("tls_failures", 6)]);
        assert_eq!(found[1].reason, Closing::IdleTimeout.label());
    }
}
