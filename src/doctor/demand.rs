//! What N calls need. All numbers of the doctor come from here, and `docs/sizing.md` says how each
//! was measured or counted.
//!
//! Counted for the quick reference's calls: PCM16 at 24 kHz in frames of 200 ms.

use super::plan::Plan;
use crate::config::ring_size;
use crate::node::open_files::open_files_wanted;
use std::time::Duration;

/// Bytes of audio of one call, a second: 24,000 samples of two bytes (sizing.md, "In short").
pub(super) const AUDIO_RATE: u64 = 48_000;

/// Bytes on disk for each 100 bytes of audio (sizing.md, "Disk").
const DISK_PERCENT: u64 = 104;

/// Bytes on the wire for each 100 bytes of audio: headers of WebSocket, TCP, IP and Ethernet
/// (sizing.md, "Network").
const WIRE_PERCENT: u64 = 107;

/// CPU time of a frame with TLS and durable ACKs at 8,000 calls on a core, nanoseconds (sizing.md,
/// "Cores": 12.2 µs).
const FRAME_TIME_NANOS: u64 = 12_200;

/// Frames of one call, a second.
const FRAME_RATE: u64 = 5;

/// The most calls that we have measured on one core (sizing.md, "In short").
pub(super) const CALLS_OF_CORE: usize = 8_000;

/// Resident memory of a call in a node with a journal (sizing.md, "Memory": 10 KB).
const CALL_MEMORY: u64 = 10 * 1024;

/// Memory of a shard besides its ring: receive buffers, send slots, notes of what is in the ring
/// (sizing.md, "Memory": 10 MiB each).
const SHARD_MEMORY: u64 = 20 << 20;

/// How long the disk may take nothing after the frame rings are full, until the sockets are full
/// too. As long as a ring lasts, for the same reason.
const SOCKET_STALL: Duration = ring_size::STALL;

/// The kernel's memory for one byte in a socket. Receive buffers count whole pages of packets.
/// Until Linux 6.5 the window was half of the buffer by default (`tcp_adv_win_scale`,
/// `ip-sysctl.rst`). Since then it goes by what the packets of the socket took.
const SOCKET_MEMORY_FACTOR: u64 = 2;

/// What N calls need on this host.
#[derive(Clone, Debug)]
pub(crate) struct Demand {
    /// N.
    pub(crate) calls: u64,
    /// Bytes of audio, a second.
    pub(crate) audio_rate: u64,
    /// Bytes to disk, a second.
    pub(crate) disk_rate: u64,
    /// Syncs of all shards, a second.
    pub(crate) sync_rate: u64,
    /// Bits from the network, a second.
    pub(crate) network_rate: u64,
    /// Shards that have been measured to be enough.
    pub(crate) shards: usize,
    /// Thousandths of a core that shards use.
    pub(crate) core_thousandths: u64,
    /// Descriptors, as `serve` counts them.
    pub(crate) open_files: u64,
    /// Locked memory of all shards with the rings that are set, bytes.
    pub(crate) locked: u64,
    /// A ring that lasts 2 s, for each shard, bytes.
    pub(crate) ring_size: usize,
    /// Memory of the node itself with the rings that are set, bytes.
    pub(crate) memory: u64,
    /// Memory of the sockets in a stall after the rings are full, bytes.
    pub(crate) socket_memory: u64,
    /// The same for one call.
    pub(crate) socket_memory_of_call: u64,
}

impl Demand {
    /// Of the planned node.
    pub(crate) fn of(plan: &Plan) -> Demand {
        let (calls, shards) = (plan.calls as u64, plan.shards.len().max(1) as u64);
        let audio_rate = calls * AUDIO_RATE;
        let writes = if plan.journal.prefill { 2 } else { 1 };
        let sync_interval = plan.journal.sync_interval.max(Duration::from_millis(1));
        let of_call = AUDIO_RATE * SOCKET_STALL.as_secs() * SOCKET_MEMORY_FACTOR;
        let rings = plan.ring_size as u64 * shards;
        Demand {
            calls,
            audio_rate,
            disk_rate: audio_rate * DISK_PERCENT / 100 * writes,
            sync_rate: shards * 1_000 / sync_interval.as_millis() as u64,
            network_rate: audio_rate * 8 * WIRE_PERCENT / 100,
            shards: plan.calls.div_ceil(CALLS_OF_CORE),
            core_thousandths: calls * FRAME_RATE * FRAME_TIME_NANOS / 1_000_000,
            open_files: open_files_wanted(calls.max(plan.calls_max as u64), shards),
            locked: ring_size::locked_size(plan.ring_size).saturating_mul(shards),
            ring_size: ring_size::size_for(ring_size::STALL, plan.calls_of_shard()),
            memory: rings + shards * SHARD_MEMORY + calls * CALL_MEMORY,
            socket_memory: calls * of_call,
            socket_memory_of_call: of_call,
        }
    }

    /// Bytes to disk in a day.
    pub(super) fn disk_bytes_a_day(&self) -> u64 {
        self.disk_rate * 24 * 60 * 60
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_thousand_calls_need_what_the_sizing_page_says() {
        let demand = Demand::of(&Plan { shards: vec![Some(1)], ..Plan::of_calls(8_000) });
        assert_eq!(demand.disk_rate, 399_360_000, "400 MB/s");
        assert_eq!(demand.disk_bytes_a_day() / 1_000_000_000, 34_504, "35 TB");
        assert_eq!(demand.audio_rate * 86_400 / 1_000_000_000, 33_177, "33 TB of audio");
        assert_eq!(demand.network_rate / 10_000_000, 328, "3.3 Gbit/s");
        assert_eq!((demand.shards, demand.sync_rate), (1, 50));
        assert_eq!(demand.core_thousandths, 488, "48 % of a core");
        assert!((790..=820).contains(&(demand.ring_size >> 20)), "800 MiB: {}", demand.ring_size);
        assert_eq!(demand.socket_memory, 8_000 * 192_000);
        let page = include_str!("../../docs/sizing.md");
        for said in ["48,000 × 1.04", "48,000 × 8 × 1.07", "| 8,000 | 10.3 µs | 40 % | 12.2 µs"]
        {
            assert!(page.contains(said), "docs/sizing.md no longer says {said}");
        }
    }

    #[test]
    fn more_shards_need_more_files_and_syncs_and_prefill_writes_twice() {
        let mut plan = Plan::of_calls(1_000);
        let one = Demand::of(&Plan { shards: vec![None], ..plan.clone() });
        plan.journal.prefill = true;
        let four = Demand::of(&Plan { shards: vec![None; 4], ..plan });
        assert!(four.open_files > one.open_files && four.sync_rate == 4 * one.sync_rate);
        assert_eq!(four.disk_rate, 2 * one.disk_rate);
        // `serve` wants descriptors for its own maximum, however few calls come.
        assert!(one.open_files > 16_000);
    }
}
