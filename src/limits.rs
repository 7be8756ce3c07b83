//! Run-time limits. Each one is a setting with its own name (`limits.*`, `timeouts.*`), so tests
//! can make it small.
#![forbid(unsafe_code)]

use crate::address::Network;
use std::time::Duration;

/// Limits of a shard and its sessions, for themselves and for their peers.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// `limits.message_size_max`: largest audio message, bytes.
    pub message_size_max: usize,
    /// `limits.text_size_max`: largest text message, bytes.
    pub text_size_max: usize,
    /// `limits.fragments_max`: most fragments (WebSocket frames) of a message.
    pub fragments_max: u32,
    /// `limits.control_rate`: control frames per second that a peer may send on average.
    pub control_rate: u32,
    /// `limits.control_burst`: control frames that a peer may send at once.
    pub control_burst: u32,
    /// `limits.text_rate`: text messages per second that a peer may send on average. Each 4 KiB of
    /// a text count as one more.
    pub text_rate: u32,
    /// `limits.text_burst`: text messages that a peer may send at once, counted the same way.
    pub text_burst: u32,
    /// `limits.output_size_max`: bytes for one peer that may wait for room in its socket. Beyond
    /// them, what we owe the peer is stored as numbers. Never more than a send slot.
    pub output_size_max: usize,
    /// `limits.max_ahead`: how far audio may run ahead of real time; `None` is `off`.
    pub max_ahead: Option<Duration>,
    /// `limits.frame_time_min`: minimum audio time that each fragment of a frame counts as for
    /// `max_ahead`.
    pub frame_time_min: Duration,
    /// `limits.sample_rates`: sample rates a `start` may name, Hz.
    pub sample_rates: Vec<u32>,
    /// `limits.strict_pcm`: refuse a frame of odd length instead of dropping its last byte.
    pub strict_pcm: bool,
    /// `limits.calls_max` (`--max-calls`): most calls on the node; more upgrades get 503.
    pub calls_max: usize,
    /// `limits.calls_per_tenant_max`: most calls of one tenant on the node; more upgrades get 429.
    /// `None`: no quota.
    pub calls_per_tenant_max: Option<usize>,
    /// `limits.connections_max`: most upgraded connections of one shard; more upgrades get 503.
    /// Requests have extra places: [`visitors_max`](crate::constants::visitors_max).
    pub connections_max: usize,
    /// `limits.heads_max`: most connections of one shard with an incomplete request; with more, the
    /// oldest give way.
    pub heads_max: usize,
    /// `limits.address_rate`: new connections per second from one address, on average, on one
    /// shard. `None` is `off`.
    pub address_rate: Option<usize>,
    /// `limits.address_burst`: new connections from one address at once.
    pub address_burst: u32,
    /// `proxy_protocol.from`: connections from these networks begin with a PROXY version 2 header.
    pub proxy_from: Vec<Network>,
    /// `limits.handshakes_per_turn`: tokens that a shard verifies before it serves its live calls
    /// again.
    pub handshakes_per_turn: usize,
    /// `limits.completions_per_turn`: completions a shard reaps before it submits and acknowledges.
    pub completions_per_turn: usize,
    /// `limits.ring_size`: frame ring of one shard, bytes. If it is not set, the node computes it:
    /// [`crate::config::ring_size`].
    pub ring_size: usize,
    /// `limits.send_slot_size`: size of a pooled send buffer, bytes; many ACKs fit.
    pub send_slot_size: usize,
    /// `limits.send_slot_count`: pooled send buffers of one shard, and so its sends in one turn.
    pub send_slot_count: usize,
    /// `limits.spill_buffers`: buffers of one shard for partly received TLS records, 16 KiB each.
    pub spill_buffers: usize,
    /// `tls.allow_plain`: accept plain ws:// on a port that speaks TLS.
    pub allow_plain: bool,
    /// `timeouts.head`: time from accept to the end of the request head, including a TLS handshake.
    pub head_timeout: Duration,
    /// `timeouts.start`: time from the upgrade to a valid `start`.
    pub start_timeout: Duration,
    /// `timeouts.ping`: silence after which the node sends a ping.
    pub ping_after: Duration,
    /// `timeouts.idle`: silence after which the node closes the connection.
    pub idle_timeout: Duration,
    /// `timeouts.ack_stalled`: how long our output may make no progress.
    pub ack_stalled_timeout: Duration,
    /// `timeouts.close`: how long our Close waits for ACKs that are already due, and a closed
    /// socket for the peer's end.
    pub close_timeout: Duration,
    /// `timeouts.wait`: how long the loop gathers completions before the shard wakes.
    pub wait: Duration,
}

impl Limits {
    /// The defaults of a node.
    pub fn production() -> Self {
        Limits {
            message_size_max: 256 * 1024,
            text_size_max: 64 * 1024,
            fragments_max: 64,
            control_rate: 10,
            control_burst: 50,
            // As often as a frame of 20 ms: a peer may send a text with each of its frames.
            text_rate: 50,
            text_burst: 250,
            output_size_max: 4 * 1024,
            max_ahead: Some(Duration::from_secs(30)),
            // Shorter than a frame of any real source: Opus has 2.5 ms, and a browser has 128
            // samples, 2.7 ms at 48 kHz. It is long enough that a peer with empty or one-byte
            // frames costs no more than one with ordinary audio. Such a peer makes 500 records a
            // second, which are 64 KB of journal; audio at 24 kHz is 48 KB a second.
            frame_time_min: Duration::from_millis(2),
            sample_rates: vec![8_000, 16_000, 24_000, 48_000],
            strict_pcm: false,
            calls_max: 16_000,
            calls_per_tenant_max: None,
            connections_max: 20_000,
            // A herd of 10,000 gets in on one core. The largest heads of all are 80 MiB.
            heads_max: 10_000,
            address_rate: None,
            // A phone system opens its calls of the busy hour one by one, but all at once after an
            // outage.
            address_burst: 200,
            proxy_from: Vec::new(),
            handshakes_per_turn: 16,
            completions_per_turn: 256,
            ring_size: 128 * 1024 * 1024,
            send_slot_size: 512,
            send_slot_count: 4096,
            // A record with 200 ms of audio is cut while its last packet is on its way. Of a
            // hundred records, a few are cut at any time. Memory is touched only as needed.
            spill_buffers: 4096,
            allow_plain: false,
            head_timeout: Duration::from_secs(5),
            start_timeout: Duration::from_secs(10),
            ping_after: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            ack_stalled_timeout: Duration::from_secs(15),
            close_timeout: Duration::from_secs(5),
            wait: Duration::from_millis(2),
        }
    }

    /// Everything as small as it can be and still work, so a test reaches a limit within a few
    /// steps.
    pub fn tiny() -> Self {
        Limits {
            message_size_max: 1024,
            text_size_max: 512,
            fragments_max: 4,
            control_rate: 10,
            control_burst: 5,
            text_rate: 10,
            text_burst: 20,
            output_size_max: 1024,
            max_ahead: Some(Duration::from_secs(2)),
            calls_max: 8,
            connections_max: 16,
            // More than the accepts of two turns.
            heads_max: 80,
            address_burst: 4,
            handshakes_per_turn: 2,
            completions_per_turn: 8,
            // The smallest size that the frame ring accepts: see its own assertion.
            ring_size: 8 * 1024 * 1024,
            send_slot_size: 512,
            send_slot_count: 4,
            spill_buffers: 4,
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
