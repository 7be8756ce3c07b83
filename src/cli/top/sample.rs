//! Two documents of a node, for tests: two seconds lie between them.

#![forbid(unsafe_code)]

use crate::control::admin::document::{
    CallStatus, FORMAT, NodeStatus, Quantiles, Refused, RingStatus, ShardStatus, StatusDocument,
    StoreStatus, TenantStatus,
};

pub(super) fn pair() -> (StatusDocument, StatusDocument) {
    (at(0), at(2))
}

/// A document after so many seconds.
pub(super) fn at(second: u64) -> StatusDocument {
    StatusDocument {
        format: FORMAT,
        node: NodeStatus {
            version: "0.1.0".into(),
            commit: "abc1234".into(),
            ack: "durable".into(),
            started_unix_ms: 1_764_500_000_000,
            uptime_seconds: 3_720.0 + second as f64,
            is_ready: true,
            calls: 1_000,
            calls_max: 16_000,
            resident_bytes: Some(820_000_000),
            open_files: Some(1_034),
            open_files_max: Some(524_288),
            ..NodeStatus::default()
        },
        window_seconds: 10.0,
        ack_bounds_us: vec![1_000, 10_000, 100_000],
        shards: vec![shard(0, second), shard(1, second)],
        store: Some(StoreStatus {
            journal_bytes: 12_300_000_000,
            free_bytes: Some(80_000_000_000),
            ..StoreStatus::default()
        }),
        sinks: Vec::new(),
        tenants: vec![tenant("acme", 600, 3, second), tenant("zeta", 400, 0, second)],
        tenants_unlisted: 0,
        calls: (0..12).map(call).collect(),
    }
}

fn shard(shard: usize, second: u64) -> ShardStatus {
    let refused = |family: &str, reason: &str, count| Refused {
        family: family.into(),
        reason: reason.into(),
        count,
    };
    let refused = match shard {
        0 => vec![
            refused("refusals", "quota", second * 3 / 2),
            refused("closes", "idle_timeout", 9),
            refused("token_failures", "expired", 4 + second),
        ],
        _ => Vec::new(),
    };
    ShardStatus {
        shard,
        calls: 500,
        connections: 501,
        frames: 2_500 * second,
        audio_bytes: 24_000_000 * second,
        acks: 250 * second,
        cpu_us: Some(25_000 * second),
        ack: Quantiles {
            count: 2_500,
            p50_us: 18_000,
            p99_us: 49_000,
            p999_us: 95_000,
            max_us: 120_000,
        },
        ack_counts: vec![0, 0, 247 * second, 3 * second],
        sync: Quantiles { count: 400, p50_us: 400, p99_us: 1_100, p999_us: 2_000, max_us: 2_300 },
        ring: RingStatus {
            size_bytes: 384 << 20,
            used_bytes: 12 << 20,
            fill_bytes_per_second: 24e6,
            bridges_ms: Some(16_250),
        },
        refused,
        ..ShardStatus::default()
    }
}

fn tenant(name: &str, calls: usize, refused: u64, second: u64) -> TenantStatus {
    TenantStatus {
        tenant: name.into(),
        calls,
        calls_total: 4_000,
        refused,
        frames: 1_000_000 + 250 * second,
        audio_bytes: 9_600_000_000,
    }
}

fn call(number: u64) -> CallStatus {
    CallStatus {
        tenant: "acme".into(),
        interaction: format!("call-{number}/7"),
        seconds: 61.0 + number as f64,
        frames: 300,
        unacked: number % 10,
        ack_wait_ms: 20,
        silent_ms: 12_000 - 1_000 * number,
        late_ms: 250 * number as i64 - 500,
        ..CallStatus::default()
    }
}
