#![forbid(unsafe_code)]
//! Resident memory by its owner.
//!
//! Frame rings and buffers are populated when they are made. Tables count as far as they were ever
//! used. What the kernel counts beyond that is `other`: the heap of the allocator, stacks, and the
//! record headers of open segments. So the sum is the resident memory, as long as nothing is
//! swapped out.

use super::{Family, Kind, Scrape, Unit, Value};
use crate::metrics::Counters;

pub(super) fn family(scrape: &Scrape<'_>) -> Family {
    let help = "Resident memory by owner. `other` is the rest: the heap, and stacks. `program` is \
        the code.";
    let mut family = Family::new("memory", Kind::Gauge, help).in_unit(Unit::Bytes).by(&["owner"]);
    let sum = |read: fn(&Counters) -> u64| {
        scrape.view.counters.iter().map(|counters| read(counters)).sum::<u64>()
    };
    let segments = scrape.view.store.as_ref().map_or(0, |store| store.journal().list_bytes);
    let owners = [
        ("frame_rings", sum(|counters| counters.ring_size_bytes.read())),
        ("io_buffers", sum(|counters| counters.memory.io_buffers.read())),
        ("connections", sum(|counters| counters.memory.connections.read())),
        ("spill_buffers", sum(|counters| counters.memory.spill_buffers.read())),
        ("segment_list", segments),
        ("program", scrape.process.file_size.unwrap_or(0)),
    ];
    let known: u64 = owners.iter().map(|(_, size)| size).sum();
    let other = scrape.process.resident_size.map(|size| ("other", size.saturating_sub(known)));
    for (owner, size) in owners.into_iter().chain(other) {
        family.add([owner.into()], Value::Whole(size));
    }
    family
}
