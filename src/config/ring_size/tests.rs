//! The size of a ring by calls, memory and locked memory, and the tables in the documentation.

use super::*;
use crate::io::host::Memory;
use std::path::PathBuf;

const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;

fn host(memory: u64, locked: Option<u64>) -> Host {
    Host { cpus: vec![0, 1], memory: Memory { size: memory, cgroup: None }, locked }
}

/// Settings for this many calls on this many shards.
fn settings(calls_max: usize, shards: usize) -> Settings {
    let mut settings = Settings { shards: Some(shards), ..Settings::default() };
    settings.limits.calls_max = calls_max;
    settings
}

#[test]
fn a_ring_holds_two_seconds_of_its_shards_calls() {
    for (calls_max, shards) in [(16_000, 2), (16_000, 1), (100_000, 16), (6_001, 3)] {
        let settings = settings(calls_max, shards);
        let Choice { size, shortage } = choose(&settings, &host(64 * GIB, None));
        let share = calls_max.div_ceil(shards);
        assert!(
            shortage.is_none()
                && size >= share * 2 * 48_000
                && size < share * 2 * 54_000 + 32 * MIB,
            "{size}"
        );
        let bridged = bridged(size, share);
        assert!(
            bridged >= STALL && bridged < STALL + Duration::from_millis(200),
            "{calls_max} {bridged:?}"
        );
    }
    assert_eq!(choose(&settings(16_000, 2), &host(64 * GIB, None)).size, 800 * MIB);
    // A shard never has more calls than connections.
    let many = choose(&settings(1_000_000, 1), &host(64 * GIB, None)).size;
    assert_eq!(many, choose(&settings(20_000, 1), &host(64 * GIB, None)).size);
}

#[test]
fn a_ring_is_not_smaller_than_it_was_for_few_calls_nor_larger_without_a_journal() {
    let usual = Settings::default().limits.ring_size;
    assert_eq!(
        choose(&settings(100, 2), &host(64 * GIB, None)),
        Choice { size: usual, shortage: None }
    );
    let without = Settings { no_journal: true, ..settings(16_000, 1) };
    assert_eq!(choose(&without, &host(64 * GIB, None)), Choice { size: usual, shortage: None });
    assert_eq!(choose(&without, &host(GIB / 4, None)), Choice { size: 64 * MIB, shortage: None });
}

#[test]
fn the_rings_of_all_shards_take_a_quarter_of_the_memory() {
    let settings = settings(16_000, 2);
    let short = choose(&settings, &host(2 * GIB, None));
    assert_eq!(short.size, 256 * MIB);
    let words = warn(&settings, &short, &host(2 * GIB, None)).unwrap();
    assert!(
        words.starts_with("limits.ring_size (256MiB, computed) bridges a disk stall of 6"),
        "{words}"
    );
    assert!(
        words.contains("at 16,000 calls, not 2.0 s: the rings of 2 shards")
            && words.contains("has 2.0 GiB"),
        "{words}"
    );
    let mut contained = host(2 * GIB, None);
    contained.memory.cgroup = Some(PathBuf::from("/sys/fs/cgroup/memory.max"));
    let words = choose(&settings, &contained).shortage.unwrap();
    assert!(words.contains("/sys/fs/cgroup/memory.max is 2.0 GiB: raise it"), "{words}");
    // Not less than the connections need, however small the host is.
    let least = choose(&settings, &host(32 << 20, None));
    assert_eq!(least.size, ring_size_min(settings.limits.connections_max).next_multiple_of(MIB));
    assert!(least.shortage.is_some());
}

#[test]
fn a_ring_fits_the_limit_on_locked_memory() {
    let settings = settings(16_000, 2);
    let short = choose(&settings, &host(64 * GIB, Some(512 << 20)));
    assert!(short.size <= 256 * MIB - SCRATCH_SIZE_MAX && short.size > 250 * MIB, "{}", short.size);
    let words = short.shortage.unwrap();
    assert!(
        words.contains("RLIMIT_MEMLOCK allows 2 shards to lock only 512 MiB")
            && words.contains("LimitMEMLOCK="),
        "{words}"
    );
    let enough = choose(&settings, &host(64 * GIB, Some(2 * GIB)));
    assert_eq!((enough.size, enough.shortage), (800 * MIB, None));
    // Only memory limits a ring that need not be registered.
    let unregistered = Settings { allow_unregistered: true, ..settings };
    assert_eq!(choose(&unregistered, &host(64 * GIB, Some(65_536))).shortage, None);
    // The kernel counts bytes in two pieces twice.
    for limit in [3 * GIB, 4 * GIB, GIB + 5 * GIB / 1024] {
        let size = lockable(limit);
        let locked = Pieces::new(size).registered_size() as u64 + LOCKED_BESIDE;
        assert!(locked <= limit && locked + (9 << 20) > limit, "{limit}: {size}");
    }
}

#[test]
fn a_ring_has_room_for_the_largest_message() {
    let mut settings = settings(100, 1);
    settings.limits.message_size_max = 32 * MIB;
    assert_eq!(choose(&settings, &host(64 * GIB, None)).size, 256 * MIB);
    assert_eq!(choose(&settings, &host(GIB / 4, None)).size, 256 * MIB);
}

#[test]
fn the_line_at_the_start_says_how_long_a_stall_is_bridged() {
    let mut settings = settings(16_000, 2);
    settings.limits.ring_size = 800 * MIB;
    assert_eq!(
        describe(&settings, 2),
        "frame ring 800MiB a shard: bridges a disk stall of 2.0 s at 16,000 calls of 24 kHz"
    );
    settings.limits.ring_size = 16 * MIB;
    settings.limits.calls_max = 999;
    assert_eq!(
        describe(&settings, 1),
        "frame ring 16MiB a shard: bridges a disk stall of 255 ms at 999 calls of 24 kHz"
    );
    settings.no_journal = true;
    assert_eq!(
        describe(&settings, 1),
        "frame ring 16MiB a shard: without a journal no audio waits in it"
    );
    assert_eq!(
        ["7", "1,000", "1,234,567"],
        [7, 1_000, 1_234_567].map(show_count).each_ref().map(String::as_str)
    );
}

/// Both documents show the same table, as computed by the code.
#[test]
fn the_documented_stalls_are_those_of_the_code() {
    const SIZES: [usize; 6] = [128 * MIB, 256 * MIB, 512 * MIB, 1024 * MIB, 2048 * MIB, 4096 * MIB];
    for path in ["docs/sizing.md", "tuning/README.md"] {
        let text =
            std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        for size in SIZES {
            let stalls = [1_000, 4_000, 8_000].map(|calls| show_stall(bridged(size, calls)));
            let row = format!("| {} | {} |", show_size(size), stalls.join(" | "));
            assert!(text.lines().any(|line| line == row), "{path} lacks the row {row}");
        }
    }
}
