//! Run-time limits: every one a setting with a name of its own (`limits.*`, `timeouts.*`), so that tests can shrink it.
#![forbid(unsafe_code)]

use std::time::Duration;

/// What a shard and its sessions hold themselves and their peers to.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// `limits.message_size_max`: largest audio message, bytes.
    pub message_size_max: usize,
    /// `limits.text_size_max`: largest text message, bytes.
    pub text_size_max: usize,
    /// `limits.fragments_max`: most fragments (WebSocket frames) a message may come in.
    pub fragments_max: u32,
    /// `limits.control_rate`: control frames a second a peer may send for long.
    pub control_rate: u32,
    /// `limits.control_burst`: control frames a peer may send at once.
    pub control_burst: u32,
    /// `limits.output_size_max`: bytes given out for one peer that may wait for room in its socket. What it is owed beyond them is
    /// numbers. Never more than a send slot.
    pub output_size_max: usize,
    /// `limits.max_ahead`: how far audio may run ahead of the clock; `None` is `off`.
    pub max_ahead: Option<Duration>,
    /// `limits.sample_rates`: sample rates a `start` may name, Hz.
    pub sample_rates: Vec<u32>,
    /// `limits.strict_pcm`: refuse a frame of odd length instead of dropping its last byte.
    pub strict_pcm: bool,
    /// `limits.calls_max` (`--max-calls`): calls on the whole node; beyond it upgrades get 503.
    pub calls_max: usize,
    /// `limits.calls_per_tenant_max`: calls of one tenant on the whole node; beyond it upgrades get 429. `None`: no quota.
    pub calls_per_tenant_max: Option<usize>,
    /// `limits.connections_max`: sockets of one shard, handshakes included.
    pub connections_max: usize,
    /// `limits.handshakes_per_turn`: tokens a shard verifies before it looks after its live calls again.
    pub handshakes_per_turn: usize,
    /// `limits.completions_per_turn`: completions a shard reaps before it submits and acknowledges.
    pub completions_per_turn: usize,
    /// `limits.ring_size`: frame ring of one shard, bytes.
    pub ring_size: usize,
    /// `limits.send_slot_size`: bytes of one pooled send; many ACKs fit.
    pub send_slot_size: usize,
    /// `limits.send_slot_count`: pooled sends of one shard that may be under way in one turn.
    pub send_slot_count: usize,
    /// `timeouts.head`: from accept to the end of the request head.
    pub head_timeout: Duration,
    /// `timeouts.start`: from the upgrade to a valid `start`.
    pub start_timeout: Duration,
    /// `timeouts.ping`: silence after which we ping.
    pub ping_after: Duration,
    /// `timeouts.idle`: silence after which we close.
    pub idle_timeout: Duration,
    /// `timeouts.ack_stalled`: how long bytes we queued may make no progress.
    pub ack_stalled_timeout: Duration,
    /// `timeouts.close`: how long our Close waits for the acks already due, and a closed socket for the peer's end.
    pub close_timeout: Duration,
    /// `timeouts.wait`: the loop's bounded wait: completions are gathered for so long before the shard wakes.
    pub wait: Duration,
}

impl Limits {
    /// The defaults a node runs with.
    pub fn production() -> Self {
        Limits {
            message_size_max: 256 * 1024,
            text_size_max: 64 * 1024,
            fragments_max: 64,
            control_rate: 10,
            control_burst: 50,
            output_size_max: 4 * 1024,
            max_ahead: Some(Duration::from_secs(30)),
            sample_rates: vec![8_000, 16_000, 24_000, 48_000],
            strict_pcm: false,
            calls_max: 16_000,
            calls_per_tenant_max: None,
            connections_max: 20_000,
            handshakes_per_turn: 16,
            completions_per_turn: 256,
            ring_size: 128 * 1024 * 1024,
            send_slot_size: 512,
            send_slot_count: 4096,
            head_timeout: Duration::from_secs(5),
            start_timeout: Duration::from_secs(10),
            ping_after: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            ack_stalled_timeout: Duration::from_secs(15),
            close_timeout: Duration::from_secs(5),
            wait: Duration::from_micros(500),
        }
    }

    /// Everything as small as it can be and still work: limits are met within a few steps of a test.
    pub fn tiny() -> Self {
        Limits {
            message_size_max: 1024,
            text_size_max: 512,
            fragments_max: 4,
            control_rate: 10,
            control_burst: 5,
            output_size_max: 1024,
            max_ahead: Some(Duration::from_secs(2)),
            calls_max: 8,
            connections_max: 16,
            handshakes_per_turn: 2,
            completions_per_turn: 8,
            // The smallest the frame ring takes: see its own assertion.
            ring_size: 8 * 1024 * 1024,
            send_slot_size: 512,
            send_slot_count: 4,
            head_timeout: Duration::from_millis(500),
            start_timeout: Duration::from_secs(1),
            ping_after: Duration::from_millis(1500),
            idle_timeout: Duration::from_secs(3),
            ack_stalled_timeout: Duration::from_millis(1500),
            close_timeout: Duration::from_millis(500),
            ..Limits::production()
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::production()
    }
}
