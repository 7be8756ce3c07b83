use super::*;
use crate::doctor::check::Outcome;
use crate::doctor::testing::{assert_fails, assert_passes, assert_skips, find};
use crate::store::Doubt;
use std::time::Duration;

fn judge(facts: &DiskFacts, plan: &Plan) -> Vec<Check> {
    checks(facts, plan, &Demand::of(plan))
}

fn examined() -> Examined {
    Examined { doubt: None, free: 60_000_000_000_000, size: 64_000_000_000_000, default_reserve: 1 }
}

fn mount() -> Mount {
    Mount {
        point: "/data".into(),
        kind: "ext4".into(),
        options: vec!["rw".into()],
        disk_size: Some(64_000_000_000_000),
    }
}

/// A disk for 8,000 calls.
fn good() -> DiskFacts {
    DiskFacts {
        missing: String::new(),
        directory: "/data".into(),
        error: None,
        examined: Some(examined()),
        mount: Some(mount()),
        abilities: Some((true, true)),
        journal_size: 0,
        run: Some(Ok(DiskRun {
            bytes_per_second: 1_400_000_000,
            syncs_per_second: 900,
            write_millis_max: 20.0,
            sync_millis_max: 30.0,
            seconds: 2.0,
        })),
    }
}

#[test]
fn each_check_passes_and_fails() {
    let plan = Plan::of_calls(8_000);
    let doubt = Doubt { kind: "tmpfs", reason: "it is in memory", is_in_memory: true };
    let bad = DiskFacts {
        error: Some("read-only".into()),
        examined: Some(Examined { doubt: Some(doubt), free: 0, size: 1 << 40, ..examined() }),
        mount: Some(Mount {
            options: vec!["rw".into(), "discard".into()],
            disk_size: Some(1 << 40),
            ..mount()
        }),
        abilities: Some((true, false)),
        run: Some(Ok(DiskRun {
            bytes_per_second: 300_000_000,
            syncs_per_second: 10,
            write_millis_max: 20.0,
            sync_millis_max: 700.0,
            seconds: 2.0,
        })),
        ..good()
    };
    for topic in TOPICS {
        assert_passes(judge(&good(), &plan), topic.id);
        assert_fails(judge(&bad, &plan), topic.id);
        let none = DiskFacts { missing: "there is no journal".into(), ..DiskFacts::default() };
        assert_skips(judge(&none, &plan), topic.id);
    }
    assert!(find(judge(&bad, &plan), "disk.filesystem").has_failed(Severity::Fatal));
    assert!(find(judge(&bad, &plan), "disk.write_rate").has_failed(Severity::Fatal));
    let written = Plan { level: AckLevel::Written, ..plan.clone() };
    assert!(find(judge(&bad, &written), "disk.filesystem").has_failed(Severity::Warning));
    let check = find(judge(&bad, &plan), "disk.endurance");
    let current = check.current.unwrap();
    assert!(current.contains("31 writes") && current.contains("1/31 of"), "{current}");
    assert_eq!(check.required.as_deref(), Some("34.5 TB a day for 33.2 TB of audio"));
}

#[test]
fn a_disk_that_is_just_fast_enough_is_a_warning() {
    let mut facts = good();
    let Some(Ok(run)) = &mut facts.run else { unreachable!("it was measured") };
    run.bytes_per_second = 500_000_000;
    let check = find(judge(&facts, &Plan::of_calls(8_000)), "disk.write_rate");
    assert!(check.has_failed(Severity::Warning), "{check:?}");
    facts.run = Some(Err("a node writes here".into()));
    for id in ["disk.write_rate", "disk.sync_rate", "disk.stall"] {
        assert_skips(judge(&facts, &Plan::of_calls(8_000)), id);
    }
}

#[test]
fn room_is_counted_for_what_is_kept() {
    let mut plan = Plan::of_calls(8_000);
    plan.journal.retain_age = Some(Duration::from_secs(7 * 86_400));
    let check = find(judge(&good(), &plan), "disk.retention");
    assert_eq!((check.result, check.required.as_deref()), (Outcome::Fail, Some("242 TB")));
    // The smaller of both limits counts, and the journal's own files are room.
    plan.journal.retain_bytes = Some(50_000_000_000_000);
    assert_passes(judge(&good(), &plan), "disk.retention");
    let examined = Examined { free: 10_000_000_000_000, ..examined() };
    let facts = DiskFacts { examined: Some(examined), journal_size: 41_000_000_000_000, ..good() };
    assert_passes(judge(&facts, &plan), "disk.retention");
    assert_fails(judge(&DiskFacts { journal_size: 0, ..facts }, &plan), "disk.retention");
}

#[test]
fn a_directory_is_measured_and_left_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("a/b");
    let plan = Plan { data_dir: Some(data_dir.clone()), ..Plan::of_calls(1) };
    let facts = DiskFacts::read(&Root::live(), &plan, DiskLook::Measure);
    assert_eq!(facts.directory, directory.path());
    assert!(facts.abilities.is_some() && facts.mount.is_some(), "{facts:?}");
    assert!(!data_dir.exists());
    let run = facts.run.unwrap().unwrap();
    assert!(run.bytes_per_second > 0 && run.syncs_per_second > 0, "{run:?}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn no_node_is_delayed_by_a_measurement() {
    let directory = tempfile::tempdir().unwrap();
    // What a node leaves open: the locked directory of its run.
    let run = directory.path().join("run-1-1-4711");
    std::fs::create_dir(&run).unwrap();
    let found = crate::archive::layout::runs(directory.path()).unwrap();
    let plan = Plan { data_dir: Some(directory.path().into()), ..Plan::of_calls(1) };
    let lock = std::fs::File::open(&run).unwrap();
    assert!(crate::archive::lock::try_exclusive(&lock).unwrap());
    let facts = DiskFacts::read(&Root::live(), &plan, DiskLook::Measure);
    let reason = facts.run.unwrap().unwrap_err();
    assert!(reason.contains("process 4711"), "{reason} {found:?}");
}
