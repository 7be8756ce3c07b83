//! The list of families, and how counters and histograms appear in it.

#![forbid(unsafe_code)]

use super::*;
use crate::clock::Moment;
use crate::session::ingest::IngestCounters;
use crate::tenants::Tenants;
use std::collections::BTreeSet;

fn family(families: &[Family], name: &str) -> Family {
    families
        .iter()
        .find(|family| family.name == name)
        .unwrap_or_else(|| panic!("no {name}"))
        .clone()
}

#[test]
fn names_are_well_formed_and_no_two_families_share_a_sample() {
    let mut names = BTreeSet::new();
    for family in declared() {
        assert!(
            family.name.starts_with("exo_ingest_") || family.name.starts_with("process_"),
            "{}",
            family.name
        );
        assert!(
            family.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{}",
            family.name
        );
        assert!(
            !["_total", "_info", "_count", "_sum", "_bucket", "_ms"]
                .iter()
                .any(|end| family.name.ends_with(end))
        );
        assert!(
            family.help.ends_with(['.', ')']) && !family.help.contains("illisecond"),
            "{}: {}",
            family.name,
            family.help
        );
        assert!(
            names.insert(format!("{}{:?}", family.name, family.unit)),
            "{} occurs twice",
            family.name
        );
        for series in &family.series {
            assert!(
                series.labels.iter().map(|(name, _)| *name).eq(family.labels.iter().copied()),
                "{}",
                family.name
            );
        }
    }
}

#[test]
fn counters_take_their_type_and_unit_from_how_they_are_declared() {
    let families = declared();
    let shape = |name| {
        let family = family(&families, name);
        (family.kind, family.unit, family.labels)
    };
    assert_eq!(shape("exo_ingest_frames"), (Kind::Counter, None, &["shard"][..]));
    assert_eq!(shape("exo_ingest_audio"), (Kind::Counter, Some(Unit::Bytes), &["shard"][..]));
    assert_eq!(shape("exo_ingest_ring_used"), (Kind::Gauge, Some(Unit::Bytes), &["shard"][..]));
    assert_eq!(
        shape("exo_ingest_journal_stalled"),
        (Kind::Gauge, Some(Unit::Seconds), &["shard"][..])
    );
    assert_eq!(shape("exo_ingest_connections_open"), (Kind::Gauge, None, &["shard"][..]));
}

#[test]
fn each_shard_has_its_own_series_and_milliseconds_become_seconds() {
    let view =
        NodeView { counters: vec![Default::default(), Default::default()], ..NodeView::default() };
    view.counters[0].frames.add(3);
    view.counters[1].frames.add(4);
    view.counters[1].journal_stalled_ms.set(2_500);
    let families = of_view(&view);
    let shown = |name| {
        let series = family(&families, name).series.into_iter();
        series.map(|series| format!("{:?} {:?}", series.labels, series.value)).collect::<Vec<_>>()
    };
    let frames = shown("exo_ingest_frames");
    assert_eq!(frames, [r#"[("shard", "0")] Whole(3)"#, r#"[("shard", "1")] Whole(4)"#]);
    assert_eq!(shown("exo_ingest_journal_stalled")[1], r#"[("shard", "1")] Real(2.5)"#);
}

#[test]
fn every_counted_cause_is_shown() {
    let mut counted = BTreeSet::new();
    IngestCounters::default().for_each(|family, _, _| {
        counted.insert(family);
    });
    assert_eq!(counted, CAUSES.iter().map(|(name, _)| *name).collect());
}

#[test]
fn a_value_is_in_the_first_bucket_that_holds_it_and_none_is_lost() {
    let mut latencies = Latencies::new();
    let recorded = [0, 50, 51, 1_000, 2_500, 2_600, 30_000_000, 59_000_000, 61_000_000];
    recorded
        .iter()
        .for_each(|micros| latencies.ack.record(Moment::ZERO, Moment::from_nanos(micros * 1_000)));
    let Value::Distribution { sum, count, buckets } = distribution(latencies.ack.histogram())
    else {
        panic!("a histogram")
    };
    assert_eq!(count, recorded.len() as u64);
    assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), count);
    let at = |bound: f64| buckets.iter().find(|(found, _)| *found == bound).unwrap().1;
    assert_eq!([at(0.000_05), at(0.000_1), at(0.001), at(0.002_5), at(0.005)], [2, 1, 1, 1, 1]);
    assert_eq!([at(30.0), at(f64::INFINITY)], [1, 2]);
    assert!((149.0..=151.0).contains(&sum), "{sum}");
    let Value::Distribution { sum, count, .. } = distribution(latencies.turn.histogram()) else {
        panic!("a histogram")
    };
    assert_eq!((sum, count), (0.0, 0));
}

#[test]
fn tenants_are_bounded_and_in_the_same_order_each_time() {
    let tenants = Tenants::new(usize::MAX, None);
    for number in 0..1_100 {
        tenants.admit(&format!("tenant {number}")).unwrap().add(2, 20);
    }
    let view = NodeView { tenants: Some(tenants), ..NodeView::default() };
    let families = of_view(&view);
    let frames = family(&families, "exo_ingest_tenant_frames");
    assert_eq!(frames.series.len(), TENANT_COUNT_MAX);
    assert_eq!(frames.series[0].labels, [("tenant", String::new())]);
    assert!(matches!(frames.series[0].value, Value::Whole(154)), "{:?}", frames.series[0]);
    assert_eq!(frames.series[1].labels, [("tenant", "tenant 0".to_owned())]);
}

#[test]
fn calls_over_a_quota_are_counted_for_their_tenant() {
    let tenants = Tenants::new(usize::MAX, Some(1));
    let _call = tenants.admit("acme").unwrap();
    assert!(tenants.admit("acme").is_err() && tenants.admit("acme").is_err());
    let view = NodeView { tenants: Some(tenants), ..NodeView::default() };
    let refused = family(&of_view(&view), "exo_ingest_tenant_calls_refused");
    let [series] = &refused.series[..] else { panic!("{refused:?}") };
    assert_eq!(series.labels, [("tenant", "acme".to_owned())]);
    assert!(matches!(series.value, Value::Whole(2)), "{series:?}");
}

#[test]
fn memory_has_an_owner_and_the_sum_is_what_the_kernel_counts() {
    let view = NodeView { counters: vec![Default::default(); 2], ..NodeView::default() };
    view.counters[0].ring_size_bytes.set(1_000);
    view.counters[0].memory.io_buffers.set(200);
    view.counters[0].memory.connections.set(30);
    view.counters[0].memory.spill_buffers.set(4);
    let process =
        Process { resident_size: Some(10_000), file_size: Some(5_000), ..Process::default() };
    let memory = |process| {
        let all = of_process(&view, process);
        let series = family(&all, "exo_ingest_memory").series.into_iter();
        series
            .map(|series| match series.value {
                Value::Whole(size) => (series.labels[0].1.clone(), size),
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    // Both shards share their counters here.
    let found = memory(process);
    assert!(found.contains(&("frame_rings".into(), 2_000)), "{found:?}");
    assert!(found.contains(&("other".into(), 10_000 - 5_000 - 2 * 1_234)), "{found:?}");
    assert_eq!(found.iter().map(|(_, size)| size).sum::<u64>(), 10_000);
    let found = memory(Process::default());
    assert!(found.iter().all(|(owner, _)| owner != "other"), "without /proc it is not known");
}

#[test]
fn a_reload_has_a_time_for_each_outcome() {
    let at = |secs| UNIX_EPOCH + std::time::Duration::from_secs(secs);
    let mut reloads = Reloads::default();
    reloads.start("keys", at(100));
    reloads.start("certificates", at(100));
    reloads.count("keys", false, at(200));
    reloads.count("keys", true, at(300));
    reloads.count("keys", false, at(400));
    assert_eq!(
        reloads.times,
        [
            ("keys", Some(at(300)), Some(at(400))),
            ("certificates", Some(at(100)), None),
            ("settings", None, None),
        ]
    );
    assert_eq!(reloads.counts[..2], [("keys", "taken", 1), ("keys", "refused", 2)]);
}

#[test]
fn a_node_without_a_journal_says_nothing_of_a_disk() {
    let families = declared();
    for name in ["disk_free", "journal_stored", "journal_oldest_segment_age", "journal_retain"] {
        assert!(family(&families, &format!("exo_ingest_{name}")).series.is_empty(), "{name}");
    }
}
