//! Retention: order, ages, marks, and files that cannot be removed.

use super::*;
use crate::archive::boot;
use crate::archive::recovery::recover_all_but;
use crate::clock::Moment;
use crate::io::clocks::Clocks;
use std::time::SystemTime;

pub(super) const HOUR: u64 = 3_600_000_000;

/// A shard of an ended run, with segments that began at these journal times.
pub(super) fn ended_run(data_dir: &Path, run: RunName, begun: &[u64]) -> PathBuf {
    let shard_dir = layout::create_shard_dir(data_dir, &run, 0).unwrap();
    for (id, at) in (1..).zip(begun) {
        write_header(&shard_dir, run, id, *at);
        let file = File::options().write(true).open(layout::segment_path(&shard_dir, id)).unwrap();
        file.write_all_at(&[1; (SEGMENT_SIZE as usize) - BLOCK_SIZE], BLOCK_SIZE as u64).unwrap();
        // The node may not look at this.
        file.set_modified(SystemTime::now() + Duration::from_micros(HOUR)).unwrap();
    }
    Marks { shard_count: 1, removed_to: 0, ended: Some(begun.len() as u64) }
        .store(&shard_dir)
        .unwrap();
    shard_dir
}

/// Makes the indexes that the store's own recovery would make. It reads each segment for that, and
/// retention passes over a segment that is being read: then another one goes first.
fn recovered(data_dir: &Path) {
    recover_all_but(None, data_dir, &mut || {}).unwrap();
}

fn removed_to(shard_dir: &Path) -> u64 {
    Marks::load(shard_dir).unwrap().unwrap().removed_to
}

#[test]
fn the_oldest_go_first_by_what_is_written_in_them_and_no_file_time_counts() {
    let data = tempfile::tempdir().unwrap();
    let data_dir = data.path().join("data");
    let [one, two] =
        [1, 2].map(|pid| RunName { boot: 1, started_at: UnixMicros(pid), pid: pid as u32 });
    let first = ended_run(&data_dir, one, &[100, 300, 500]);
    let second = ended_run(&data_dir, two, &[200, 400, 600]);
    recovered(&data_dir);
    let mut fixture = Fixture::start_in(data, |config| {
        // Three old ones, the new one, and room for one more. A filesystem may count a block of its
        // own with a file.
        config.retain_bytes = Some(11 * SEGMENT_SIZE / 2);
    });
    let left = |dir: &Path| layout::segments(dir).unwrap();
    eventually("three are removed", || left(&first).len() + left(&second).len() == 3);
    assert_eq!((left(&first), left(&second)), (vec![3], vec![2, 3]));
    assert_eq!((removed_to(&first), removed_to(&second)), (2, 1));
    // Each new one replaces the oldest, whatever the files' times say.
    for id in 2..=4 {
        let before = fixture.segment();
        fixture.begin(before.id);
        let _ = id;
    }
    eventually("two more are removed", || left(&first).len() + left(&second).len() <= 1);
    assert_eq!(left(&second), [3]);
    assert!(fixture.ids().contains(&1), "what is being written stays");
    fixture.end();
}

#[test]
fn a_segment_that_is_read_or_cannot_be_removed_is_passed_over() {
    let data = tempfile::tempdir().unwrap();
    let data_dir = data.path().join("data");
    let run = RunName { boot: 1, started_at: UnixMicros(1), pid: 1 };
    let dir = ended_run(&data_dir, run, &[100, 200, 300, 400, 500]);
    let reader = File::open(layout::segment_path(&dir, 2)).unwrap();
    assert!(lock::try_shared(&reader).unwrap());
    let hold = layout::segment_path(&dir, 1);
    let is_held = change_attribute("+i", &hold);
    let mut fixture =
        Fixture::start_in(data, |config| config.retain_bytes = Some(9 * SEGMENT_SIZE / 2));
    let left = || layout::segments(&dir).unwrap();
    let view = fixture.store.as_ref().unwrap().view();
    if is_held {
        eventually("younger ones go instead", || left() == [1, 2]);
        eventually("it is named", || view.segments_held() == 1);
        assert!(view.held_notice().unwrap().contains(&hold.display().to_string()));
        assert!(change_attribute("-i", &hold));
    } else {
        eventually("younger ones go instead", || left() == [2, 5]);
    }
    assert_eq!(removed_to(&dir), 5 - u64::from(!is_held));
    drop(reader);
    fixture.end();
}

/// Whether the filesystem has the attribute, and this user may set it.
fn change_attribute(change: &str, path: &Path) -> bool {
    std::process::Command::new("chattr")
        .arg(change)
        .arg(path)
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[test]
fn an_age_counts_from_a_segments_end_and_not_from_its_files_times() {
    let data = tempfile::tempdir().unwrap();
    let data_dir = data.path().join("data");
    layout::create_data_dir(&data_dir).unwrap();
    let clock = boot::current(&data_dir).unwrap().clock();
    let now = clock.at(crate::io::clocks::uptime()).0;
    let run = RunName { boot: 1, started_at: UnixMicros(1), pid: 1 };
    // The second ended an hour ago, when the third began.
    let dir = ended_run(&data_dir, run, &[now - 9 * HOUR, now - 8 * HOUR, now - HOUR]);
    recovered(&data_dir);
    let mut fixture = Fixture::start_in(data, |config| {
        config.retain_age = Some(Duration::from_micros(2 * HOUR));
    });
    eventually("the first is removed", || layout::segments(&dir).unwrap() == [2, 3]);
    // Deleting a call writes to its segment, and renews no age: the mark is what moved.
    assert_eq!(removed_to(&dir), 1);
    fixture.end();
}

#[test]
fn the_last_segment_of_an_ended_run_goes_in_its_time_without_an_index_too() {
    let data = tempfile::tempdir().unwrap();
    let run = |pid: u32, at: u64| RunName { boot: 1, started_at: UnixMicros(at * HOUR), pid };
    let [one, two, three] = [run(1, 50), run(2, 60), run(3, 300)];
    let quiet = ended_run(data.path(), one, &[100 * HOUR]);
    let damaged = ended_run(data.path(), two, &[200 * HOUR, 210 * HOUR]);
    let alive = ended_run(data.path(), three, &[300 * HOUR]);
    let process = File::open(alive.parent().unwrap()).unwrap();
    assert!(lock::try_exclusive(&process).unwrap());
    let bad = File::options().write(true).open(layout::segment_path(&damaged, 2)).unwrap();
    bad.write_all_at(&[7; BLOCK_SIZE], 0).unwrap();
    // Of the first format: it says nothing of the end.
    std::fs::write(layout::index_path(&quiet, 1), "an old index").unwrap();

    let (boot, age) = (boot::current(data.path()).unwrap(), 24 * HOUR);
    let state = state::StoreState::default();
    let left = |now: u64| {
        remove_old(data.path(), &boot, UnixMicros(now), age, &state);
        [&quiet, &damaged, &alive].map(|dir| layout::segments(dir).map_or(0, |ids| ids.len()))
    };
    // A segment takes audio for an hour at most.
    let (first, next_run) = (101 * HOUR + age, 300 * HOUR + age);
    assert_eq!(left(first), [1, 2, 1]);
    assert_eq!(left(first + 1), [0, 2, 1]);
    // Without a header it has ended at the latest when the next run began. So has the one before,
    // and nothing says when the second began.
    assert_eq!(left(next_run), [0, 1, 1]);
    assert_eq!(left(next_run + 1), [0, 0, 1]);
    assert_eq!(left(10_000 * HOUR), [0, 0, 1], "its node may still write");
    drop(process);
    assert_eq!(left(10_000 * HOUR), [0, 0, 0]);
}

/// One machine: its clocks, which a test moves.
struct Machine {
    wall: i64,
    uptime: u64,
    boot: u32,
    is_synchronised: bool,
}

impl Machine {
    fn clocks(&self) -> Clocks {
        Clocks {
            wall: UnixMicros(self.wall as u64),
            uptime: Moment::ZERO + Duration::from_micros(self.uptime),
            is_synchronised: self.is_synchronised,
        }
    }

    fn id(&self) -> String {
        format!("boot-{}", self.boot)
    }
}

/// A segment in the simulation: when it really began and ended, microseconds.
#[derive(Clone, Copy, Debug)]
struct Simulated {
    id: u64,
    end: u64,
}

#[test]
fn steps_of_the_wall_clock_by_hours_neither_remove_nor_keep_what_they_should_not() {
    for seed in 0..12 {
        let mut state: u64 = seed;
        // SplitMix64.
        let mut pick = move |below: u64| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (mixed ^ (mixed >> 31)) % below
        };
        simulate(seed, &mut pick);
    }
}

/// A day of a node that begins a segment each 20 minutes and keeps five hours of audio, on a
/// machine whose wall clock steps by up to 12 hours in both directions. It reboots now and then.
fn simulate(seed: u64, pick: &mut dyn FnMut(u64) -> u64) {
    let data = tempfile::tempdir().unwrap();
    let (age, step) = (5 * HOUR, HOUR / 3);
    let mut machine =
        Machine { wall: 400_000 * HOUR as i64, uptime: HOUR, boot: 1, is_synchronised: true };
    let state = state::StoreState::default();
    // Real time, which no clock of the machine shows.
    let mut real = 0_u64;
    let mut kept: Vec<(PathBuf, Simulated)> = Vec::new();
    let (mut shard_dir, mut run, mut id) = (PathBuf::new(), None, 0);
    let mut last_now = 0;
    for turn in 0..72 {
        let is_reboot = run.is_some() && pick(16) == 0;
        if is_reboot {
            if let Some((_, last)) = kept.last_mut() {
                last.end = real;
            }
            let off = pick(2 * HOUR);
            real += off;
            machine.wall += off as i64;
            (machine.uptime, machine.boot, run) = (pick(HOUR / 60), machine.boot + 1, None);
        }
        let true_wall = 400_000 * HOUR as i64 + real as i64;
        if is_reboot {
            // It is synchronised before the node starts, or later.
            machine.is_synchronised = pick(2) == 0;
            if machine.is_synchronised {
                machine.wall = true_wall;
            }
        }
        let boot = boot::of_id(data.path(), &machine.id(), machine.clocks()).unwrap();
        let clock = boot.clock();
        let now = clock.at(machine.clocks().uptime);
        assert!(now.0 > last_now, "seed {seed}, turn {turn}: journal time went back");
        last_now = now.0;
        if run.is_none() {
            let name = RunName { boot: boot.number, started_at: now, pid: 1 };
            shard_dir = layout::create_shard_dir(data.path(), &name, 0).unwrap();
            Marks::new(1).store(&shard_dir).unwrap();
            (run, id) = (Some(name), 0);
        }
        if let Some(name) = run {
            id += 1;
            write_header(&shard_dir, name, id, now.0);
            if let Some((_, before)) = kept.last_mut() {
                before.end = before.end.min(real);
            }
            kept.push((shard_dir.clone(), Simulated { id, end: u64::MAX }));
        }
        remove_old(data.path(), &boot, now, age, &state);
        kept.retain(|(dir, segment)| {
            let is_there = layout::segment_path(dir, segment.id).exists();
            let real_age = real.saturating_sub(segment.end);
            assert!(
                is_there || real_age + 1 >= age,
                "seed {seed}, turn {turn}: removed at an age of {real_age}: {segment:?}"
            );
            // Time off may not be known for a while, in which nothing goes too early.
            let slack = 2 * step + 72 * 2 * HOUR * u64::from(boot.waits() || machine.boot > 1);
            assert!(
                !is_there || real_age <= age + slack,
                "seed {seed}, turn {turn}: kept at an age of {real_age}: {segment:?}"
            );
            is_there
        });
        real += step;
        machine.uptime += step;
        machine.wall += step as i64;
        match pick(6) {
            // A step forward, or back, by a person or a broken source of time.
            0 => machine.wall += pick(12 * HOUR) as i64,
            1 => machine.wall -= pick(12 * HOUR) as i64,
            // A good source sets it right.
            2 => (machine.wall, machine.is_synchronised) = (true_wall + step as i64, true),
            _ => {}
        }
        if machine.wall != true_wall + step as i64 {
            machine.is_synchronised = false;
        }
    }
}

/// Retention by age, as the store does it.
fn remove_old(
    data_dir: &Path,
    boot: &boot::Boot,
    now: UnixMicros,
    age: u64,
    state: &state::StoreState,
) {
    let own = RunName { boot: u32::MAX, started_at: UnixMicros(0), pid: 0 };
    let mut inventory = inventory::Inventory::new(data_dir, own, &[]);
    inventory.start_listing().unwrap();
    while !inventory.is_complete() {
        inventory.list_some().unwrap();
    }
    let limits = retention::Limits {
        bytes: None,
        age: Some(Duration::from_micros(age)),
        segment_size: SEGMENT_SIZE,
        wanted: None,
    };
    while retention::next_removal(&mut inventory, limits, state, (boot, now, true)).is_some() {}
}
