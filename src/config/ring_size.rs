#![forbid(unsafe_code)]
//! The default size of a frame ring, and the disk stall that a ring bridges.
//!
//! A ring bridges a stall for as long as it can hold what calls send meanwhile. The default holds 2
//! s of audio of the shard's share of `limits.calls_max`, if the host has enough memory.

use super::cpus;
use super::format::show_size;
use super::settings::Settings;
use crate::constants::{
    BATCH_SIZE_MAX, BLOCK_SIZE, CALL_RING_RATE, RECEIVE_BUFFER_SIZE, SCRATCH_SIZE_MAX,
    SHED_CONNECTIONS_MAX, ring_size_min, room_needed,
};
use crate::io::host::Host;
use crate::io::pieces::Pieces;
use std::time::Duration;

/// Key of the setting.
pub(crate) const KEY: &str = "limits.ring_size";

/// Largest ring. It only catches typing errors: at 8,000 calls it holds 160 s.
pub(super) const RING_SIZE_MAX: usize = 64 << 30;

/// A message must fit the ring together with data that is being sealed, written and released.
pub(super) const RING_SHARE_OF_MESSAGE: usize = 8;

/// The disk stall that the default bridges. Ordinary disks stall for a second now and then.
pub(crate) const STALL: Duration = Duration::from_secs(2);

/// Divisor: the rings of all shards use at most this part of the memory. In a stall the kernel
/// needs as much again for sockets: they hold what calls send after the rings are full.
const MEMORY_SHARE: u64 = 4;

/// Locked memory of a shard without its ring, bytes: the kernel's queues, and the start of a
/// segment.
const LOCKED_BESIDE: u64 = (SCRATCH_SIZE_MAX + (2 << 20)) as u64;

/// Smallest step of a computed size, so that it is easy to read.
const STEP: usize = 1 << 20;

/// Result of the choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(crate) size: usize,
    /// Why it is smaller than needed: half a sentence that names the limit to raise.
    pub(crate) shortage: Option<String>,
}

/// The size of a ring for these settings on this host.
pub(super) fn choose(settings: &Settings, host: &Host) -> Choice {
    let limits = &settings.limits;
    let shards = match cpus::place(settings.cpus.as_deref(), settings.shards, &host.cpus) {
        Ok(shards) => shards.len(),
        Err(_) => settings.cpus.as_ref().map_or(1, Vec::len),
    };
    // Without a disk, nothing waits for one.
    let needed =
        if settings.no_journal { 0 } else { size_for(STALL, calls_of_shard(settings, shards)) };
    let usual = Settings::default().limits.ring_size;
    let by_message = limits.message_size_max.saturating_mul(RING_SHARE_OF_MESSAGE);
    let least = ring_size_min(limits.connections_max).max(by_message).next_multiple_of(STEP);
    let wanted = needed.next_multiple_of(16 * STEP).max(usual).max(least).min(RING_SIZE_MAX);

    let by_memory = usize::try_from(host.memory.size / MEMORY_SHARE).unwrap_or(usize::MAX) / shards;
    // If a ring may be unregistered, it needs no locked memory.
    let locked = host.locked.filter(|_| !settings.allow_unregistered);
    let by_locked = locked.map_or(usize::MAX, |limit| lockable(limit / shards as u64));
    let bound = by_memory.min(by_locked) / STEP * STEP;
    let size = wanted.min(bound).max(least);
    if size >= needed {
        return Choice { size, shortage: None };
    }
    let shards = if shards == 1 { "1 shard".into() } else { format!("{shards} shards") };
    let shortage = match (locked.filter(|_| by_locked < by_memory), &host.memory.cgroup) {
        (Some(limit), _) => format!(
            "RLIMIT_MEMLOCK allows {shards} to lock only {}: raise it with systemd's \
             LimitMEMLOCK=, `ulimit -l` or docker's --ulimit memlock=, or pass \
             --allow-unregistered",
            show_rounded(limit)
        ),
        (None, Some(file)) => format!(
            "the rings of {shards} may take at most a quarter of the memory, and {} is {}: raise \
             it, or lower --max-calls",
            file.display(),
            show_rounded(host.memory.size)
        ),
        (None, None) => format!(
            "the rings of {shards} may take at most a quarter of the memory, and this machine has \
             {}: lower --max-calls",
            show_rounded(host.memory.size)
        ),
    };
    Choice { size, shortage: Some(shortage) }
}

/// `frame ring 800MiB a shard: bridges a disk stall of 2.0 s at 16,000 calls of 24 kHz`.
pub(crate) fn describe(settings: &Settings, shards: usize) -> String {
    let size = settings.limits.ring_size;
    let ring = format!("frame ring {} a shard", show_size(size));
    if settings.no_journal {
        return format!("{ring}: without a journal no audio waits in it");
    }
    let bridged = show_stall(bridged(size, calls_of_shard(settings, shards)));
    format!(
        "{ring}: bridges a disk stall of {bridged} at {} calls of 24 kHz",
        show_count(calls_of_node(settings, shards))
    )
}

/// The warning about a computed ring that is too small.
pub(super) fn warn(settings: &Settings, choice: &Choice, host: &Host) -> Option<String> {
    let shortage = choice.shortage.as_ref()?;
    let shards = cpus::place(settings.cpus.as_deref(), settings.shards, &host.cpus)
        .map_or(1, |shards| shards.len());
    Some(format!(
        "{KEY} ({}, computed) bridges a disk stall of {} at {} calls, not {}: {shortage}",
        show_size(choice.size),
        show_stall(bridged(choice.size, calls_of_shard(settings, shards))),
        show_count(calls_of_node(settings, shards)),
        show_stall(STALL),
    ))
}

/// How long the disk may accept nothing before a ring of `size` bytes has no room for `calls` calls
/// at 24 kHz.
pub(crate) fn bridged(size: usize, calls: usize) -> Duration {
    let rate = (calls.max(1) * CALL_RING_RATE) as u64;
    Duration::from_millis(size.saturating_sub(fixed_size(calls)) as u64 * 1_000 / rate)
}

/// Size of a ring that bridges a stall of this length, bytes.
pub(crate) fn size_for(stall: Duration, calls: usize) -> usize {
    let audio = (calls * CALL_RING_RATE) as u128 * stall.as_millis() / 1_000;
    usize::try_from(audio).unwrap_or(usize::MAX).saturating_add(fixed_size(calls))
}

/// Bytes of a ring that hold no audio in a stall. It is the room for received bytes, for an open
/// batch, and for the end of a lap.
const fn fixed_size(calls: usize) -> usize {
    room_needed(RECEIVE_BUFFER_SIZE, calls + SHED_CONNECTIONS_MAX) + 2 * BATCH_SIZE_MAX
}

/// Calls of one shard when the node is full. The kernel spreads them evenly enough.
fn calls_of_shard(settings: &Settings, shards: usize) -> usize {
    settings.limits.calls_max.div_ceil(shards.max(1)).min(settings.limits.connections_max)
}

/// Calls of all shards when the node is full.
fn calls_of_node(settings: &Settings, shards: usize) -> usize {
    settings.limits.calls_max.min(settings.limits.connections_max.saturating_mul(shards))
}

/// Locked memory of a shard with a ring of `size` bytes.
pub(crate) fn locked_size(size: usize) -> u64 {
    Pieces::new(size).registered_size() as u64 + LOCKED_BESIDE
}

/// The largest ring whose pieces, with the rest of a shard, fit this limit on locked memory.
fn lockable(limit: u64) -> usize {
    let size = usize::try_from(limit.saturating_sub(LOCKED_BESIDE))
        .unwrap_or(usize::MAX)
        .min(RING_SIZE_MAX);
    let twice = Pieces::new(size).registered_size() - size;
    size.saturating_sub(twice) / BLOCK_SIZE * BLOCK_SIZE
}

pub(crate) fn show_stall(stall: Duration) -> String {
    match stall.as_millis() {
        millis @ 0..1_000 => format!("{millis} ms"),
        _ => format!("{:.1} s", stall.as_secs_f64()),
    }
}

/// A number with commas between thousands.
pub(crate) fn show_count(count: usize) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or(""))
        .collect();
    groups.join(",")
}

/// A size in the largest unit, rounded, because the memory of a machine is not a whole number of
/// units.
pub(crate) fn show_rounded(size: u64) -> String {
    match size as f64 / (1u64 << 20) as f64 {
        mib if mib >= 1024.0 => format!("{:.1} GiB", mib / 1024.0),
        mib => format!("{mib:.0} MiB"),
    }
}

#[cfg(test)]
mod tests;
