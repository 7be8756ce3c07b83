//! Run-time limits. Each one is a setting with its own name (`limits.*`, `timeouts.*`), so tests
//! can make it small.
#![forbid(unsafe_code)]

use crate::address::Network;
use crate::declare::settings_struct;
use std::time::Duration;

/// The rows of [`Limits`], for the macro that is named first.
macro_rules! limit_settings {
    ($macro:ident! $($head:tt)*) => {
        $macro! {
            $($head)*
            /// Bytes.
            message_size_max: usize = 256 * 1024;
            { "limits.message_size_max" flag "message-size-max", SIZE, "Largest audio message" }
            /// Bytes.
            text_size_max: usize = 64 * 1024;
            { "limits.text_size_max", SIZE, "Largest text message" }
            fragments_max: u32 = 64;
            { "limits.fragments_max", COUNT_U32, "Most WebSocket frames in one message" }
            control_rate: u32 = 10;
            {
                "limits.control_rate", COUNT_U32,
                "Control frames per second that a peer may send on average"
            }
            control_burst: u32 = 50;
            { "limits.control_burst", COUNT_U32, "Control frames that a peer may send at once" }
            // As often as a frame of 20 ms: a peer may send a text with each of its frames.
            text_rate: u32 = 50;
            {
                "limits.text_rate", COUNT_U32,
                "Text messages per second that a peer may send on average; each 4 KiB of one count \
                 as one more"
            }
            text_burst: u32 = 250;
            {
                "limits.text_burst", COUNT_U32,
                "Text messages that a peer may send at once, counted the same way"
            }
            /// Beyond them, what we owe the peer is stored as numbers. Never more than a send slot.
            output_size_max: usize = 4 * 1024;
            { "limits.output_size_max", SIZE, "Bytes that may wait until one peer reads them" }
            /// `None` is `off`.
            max_ahead: Option<Duration> = Some(Duration::from_secs(30));
            {
                "limits.max_ahead" flag "max-ahead", DURATION_OR_OFF,
                "How far audio may run ahead of real time"
            }
            // Shorter than a frame of any real source: Opus has 2.5 ms, and a browser has 128
            // samples, 2.7 ms at 48 kHz. It is long enough that a peer with empty or one-byte
            // frames costs no more than one with ordinary audio. Such a peer makes 500 records a
            // second, which are 64 KB of journal; audio at 24 kHz is 48 KB a second.
            frame_time_min: Duration = Duration::from_millis(2);
            {
                "limits.frame_time_min", DURATION_OR_ZERO,
                "Minimum audio time that each fragment of a frame counts as for `max_ahead`"
            }
            sample_rates: Vec<u32> = vec![8_000, 16_000, 24_000, 48_000];
            { "limits.sample_rates", RATES, "Sample rates a `start` may name, Hz" }
            strict_pcm: bool = false;
            {
                "limits.strict_pcm", SWITCH,
                "Refuse a frame of odd length instead of dropping its last byte"
            }
            calls_max: usize = 16_000;
            {
                "limits.calls_max" flag "max-calls", COUNT,
                "Most calls on the node; more upgrades get 503", reloadable
            }
            /// `None`: no quota.
            calls_per_tenant_max: Option<usize> = None;
            {
                "limits.calls_per_tenant_max", COUNT_OR_OFF,
                "Most calls of one tenant on the node; more upgrades get 429", reloadable
            }
            /// Requests have extra places: [`visitors_max`](crate::constants::visitors_max).
            connections_max: usize = 20_000;
            {
                "limits.connections_max", COUNT,
                "Most upgraded connections of one shard; more upgrades get 503"
            }
            // A herd of 10,000 gets in on one core. The largest heads of all are 80 MiB.
            heads_max: usize = 10_000;
            {
                "limits.heads_max", COUNT,
                "Most connections of one shard with an incomplete request; with more, the oldest \
                 get 408"
            }
            /// `None` is `off`.
            address_rate: Option<usize> = None;
            {
                "limits.address_rate", COUNT_OR_OFF,
                "New connections per second from one address (IPv6: one /64), on average, per \
                 shard; more get 429", reloadable
            }
            // A phone system opens its calls of the busy hour one by one, but all at once after an
            // outage.
            address_burst: u32 = 200;
            {
                "limits.address_burst", COUNT_U32,
                "New connections from one address at once, when their rate is limited", reloadable
            }
            proxy_from: Vec<Network> = Vec::new();
            {
                "proxy_protocol.from", NETWORKS,
                "Networks whose connections must begin with a PROXY protocol version 2 header, \
                 separated by commas; off: none"
            }
            handshakes_per_turn: usize = 16;
            {
                "limits.handshakes_per_turn", COUNT,
                "Most tokens a shard verifies before it serves its live calls again"
            }
            completions_per_turn: usize = 256;
            {
                "limits.completions_per_turn", COUNT,
                "Completions a shard reaps before it submits and acknowledges"
            }
            /// Bytes. If it is not set, the node computes it: [`crate::config::ring_size`].
            ring_size: usize = 128 * 1024 * 1024;
            {
                "limits.ring_size", SIZE,
                "Frame ring of one shard; unset: 2 s of audio of its calls, limited by a quarter \
                 of the memory and by the memory lock limit"
            }
            // A record with 200 ms of audio is cut while its last packet is on its way. Of a
            // hundred records, a few are cut at any time. Memory is touched only as needed.
            spill_buffers: usize = 4096;
            {
                "limits.spill_buffers", COUNT,
                "Partly received TLS records of one shard, with a buffer of 16 KiB each"
            }
            /// Bytes; many ACKs fit.
            send_slot_size: usize = 512;
            { "limits.send_slot_size", SIZE, "Size of one pooled send buffer" }
            /// It sends as often in one turn at most.
            send_slot_count: usize = 4096;
            { "limits.send_slot_count", COUNT, "Pooled send buffers of one shard" }
            allow_plain: bool = false;
            { "tls.allow_plain", SWITCH, "Also accept plain ws:// on a port that speaks TLS" }
            /// Includes a TLS handshake.
            head_timeout: Duration = Duration::from_secs(5);
            { "timeouts.head", DURATION, "Time from accept to the end of the request head" }
            start_timeout: Duration = Duration::from_secs(10);
            { "timeouts.start", DURATION, "Time from the upgrade to a valid `start`" }
            ping_after: Duration = Duration::from_secs(15);
            { "timeouts.ping", DURATION, "Silence after which the node sends a ping" }
            idle_timeout: Duration = Duration::from_secs(30);
            { "timeouts.idle", DURATION, "Silence after which the node closes the connection" }
            ack_stalled_timeout: Duration = Duration::from_secs(15);
            { "timeouts.ack_stalled", DURATION, "How long a peer may leave its ACKs unread" }
            /// Also how long a closed socket waits for the peer's end.
            close_timeout: Duration = Duration::from_secs(5);
            { "timeouts.close", DURATION, "How long a Close waits for ACKs that are already due" }
            wait: Duration = Duration::from_millis(2);
            { "timeouts.wait", DURATION, "How long a shard gathers completions before it wakes" }
        }
    };
}
pub(crate) use limit_settings;

limit_settings! { settings_struct!
    /// Limits of a shard and its sessions, for themselves and for their peers.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Limits;
}

impl Limits {
    /// The defaults of a node.
    pub fn production() -> Self {
        Limits::default()
    }

    /// Everything as small as it can be and still work, so a test reaches a limit within a few
    /// steps.
    #[cfg(test)]
    pub(crate) fn tiny() -> Self {
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
