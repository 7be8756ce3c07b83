#![forbid(unsafe_code)]
//! The journal on disk: its size and age, its limits, and the room on its filesystem. The store
//! keeps these numbers, so a scrape touches no file. A node without a journal has none of them.

use super::{Family, Kind, Scrape, Unit, Value};

pub(super) fn families(scrape: &Scrape<'_>) -> Vec<Family> {
    let store = scrape.view.store.as_ref();
    let journal = store.map(|store| store.journal());
    let disk = store.and_then(|store| store.disk());
    let whole = |value: Option<u64>| value.map(Value::Whole);
    let seconds = |time: Option<std::time::Duration>| time.map(|it| Value::Real(it.as_secs_f64()));
    let gauge = |name, help: &str| Family::new(name, Kind::Gauge, help);
    let counter = |name, help: &str| Family::new(name, Kind::Counter, help);
    let removed = store.map_or(0, |store| store.segments_removed());
    let removed_bytes = store.map_or(0, |store| store.bytes_removed());
    let held = store.map_or(0, |store| store.segments_held());
    vec![
        counter("journal_segments_removed", "Segments that retention removed.")
            .with([], Value::Whole(removed)),
        counter("journal_removed", "Bytes on disk of the segments that retention removed.")
            .in_unit(Unit::Bytes)
            .with([], Value::Whole(removed_bytes)),
        gauge(
            "journal_segments_held",
            "Segments that retention should remove and cannot: `/ready` names them.",
        )
        .with([], Value::Whole(held)),
        gauge(
            "journal_stored",
            "Bytes on disk of the segments and indexes of all runs. It grows while they are \
             listed after a start.",
        )
        .in_unit(Unit::Bytes)
        .with_some(whole(journal.map(|journal| journal.bytes))),
        gauge("journal_segments_stored", "Segments of all runs in the data directory.")
            .with_some(whole(journal.map(|journal| journal.segments))),
        gauge(
            "journal_oldest_segment_age",
            "Time since the oldest segment of all runs began. Absent without audio.",
        )
        .in_unit(Unit::Seconds)
        .with_some(seconds(journal.and_then(|journal| journal.oldest_age))),
        gauge("journal_retain", "Limit on the journal's bytes: `retain_bytes`. Absent without.")
            .in_unit(Unit::Bytes)
            .with_some(whole(journal.and_then(|journal| journal.retain_bytes))),
        gauge("journal_retain_age", "Limit on the age of segments: `retain_age`. Absent without.")
            .in_unit(Unit::Seconds)
            .with_some(seconds(journal.and_then(|journal| journal.retain_age))),
        gauge("journal_pinned", "Bytes of finished segments that a required sink has not taken.")
            .in_unit(Unit::Bytes)
            .with_some(whole(journal.map(|journal| journal.pinned_bytes))),
        gauge(
            "disk_full",
            "Time until only the reserve is free, at the growth of the last five minutes. Absent \
             while nothing waits for a required sink, or the journal does not grow.",
        )
        .in_unit(Unit::Seconds)
        .with_some(seconds(journal.and_then(|journal| journal.full_in))),
        gauge("disk_free", "Bytes free to the node on the filesystem of the data directory.")
            .in_unit(Unit::Bytes)
            .with_some(whole(disk.map(|disk| disk.free))),
        gauge("disk_size", "Size of the filesystem of the data directory.")
            .in_unit(Unit::Bytes)
            .with_some(whole(disk.map(|disk| disk.size))),
        gauge("disk_reserve", "Free bytes that new calls may not use: `journal.reserve`.")
            .in_unit(Unit::Bytes)
            .with_some(whole(disk.map(|disk| disk.reserve))),
    ]
}
