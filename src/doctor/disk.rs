//! The disk of the journal: what kind it is, how fast it is, and how long it lasts.

use super::check::{Check, Severity, Source, Topic};
use super::demand::Demand;
use super::disk_run::{self, DiskRun};
use super::mount::Mount;
use super::plan::Plan;
use super::root::Root;
use super::{outage, show};
use crate::ack_level::AckLevel;
use crate::store::{self, Examined};
use std::path::{Path, PathBuf};

pub(super) static DIRECTORY: Topic = Topic {
    id: "disk.directory",
    severity: Severity::Fatal,
    condition: "The data directory, or the directory where a node would make it, can be written",
    why: "Otherwise serve does not start.",
    by_hand: "exo-ingest serve --check …   (the line data directory)",
    fix: "choose another --data-dir, or make it for the node's user: install -d -m 0700 -o USER",
    reference: "docs/operations.md, The data directory",
    source: Source::Node(
        "src/store/run.rs",
        "`serve` makes, locks and writes this directory, or does not start",
    ),
};

static FILESYSTEM: Topic = Topic {
    id: "disk.filesystem",
    severity: Severity::Warning,
    condition: "The data directory is on a local disk",
    why: "On a network filesystem its server decides what a sync means. In memory nothing \
          survives a restart, and durable ACKs are refused.",
    by_hand: "findmnt -T DIR",
    fix: "use ext4 or XFS on a local disk",
    reference: "docs/operations.md, Disk; src/store/filesystem.rs",
    source: Source::Node(
        "src/store/filesystem.rs",
        "the node itself refuses durable ACKs in memory, and warns of network filesystems",
    ),
};

static DISCARD: Topic = Topic {
    id: "disk.discard",
    severity: Severity::Warning,
    condition: "The filesystem is not mounted with `discard`",
    why: "With it, each file that is removed makes the disk free blocks at once. Our disk took no \
          writes meanwhile.",
    by_hand: "findmnt -T DIR -o OPTIONS",
    fix: "remove `discard` from /etc/fstab, and run fstrim.timer instead",
    reference: "tuning/README.md, Disk",
    source: Source::Manual(
        "fstrim(8)",
        "once a week is enough on most servers. tuning/README.md, Disk, says what our disk did",
    ),
};

static DIRECT: Topic = Topic {
    id: "disk.direct",
    severity: Severity::Warning,
    condition: "The filesystem takes O_DIRECT, and allocates without writing",
    why: "A node then writes from its frame ring by DMA. Otherwise each byte is copied to the \
          page cache first.",
    by_hand: "dd if=/dev/zero of=DIR/test oflag=direct bs=4096 count=1; rm DIR/test",
    fix: "use ext4 or XFS on a local disk",
    reference: "docs/operations.md, Disk",
    source: Source::Manual(
        "open(2), O_DIRECT",
        "I/O goes directly between the program's memory and the disk; not every filesystem can",
    ),
};

static WRITE_RATE: Topic = Topic {
    id: "disk.write_rate",
    severity: Severity::Fatal,
    condition: "The disk takes twice the audio of N calls",
    why: "A disk that takes less than the calls bring fails. One that takes just as much never \
          catches up after a stall.",
    by_hand: "python3 loadtest/disk.py --flat-out --directory DIR",
    fix: "use a faster disk, or more nodes",
    reference: "docs/sizing.md, Disk",
    source: Source::Choice(
        "because a disk that takes just what comes never catches up after a stall, and at twice \
         the rate a stall of 2 s is made good in 2 s",
    ),
};

static SYNC_RATE: Topic = Topic {
    id: "disk.sync_rate",
    severity: Severity::Warning,
    condition: "The disk syncs as often as the shards ask for",
    why: "Each shard syncs every 20 ms (journal.sync_interval), and an ACK waits for that.",
    by_hand: "python3 loadtest/disk.py --calls N --directory DIR",
    fix: "use a drive with power-loss protection, or fewer shards",
    reference: "docs/sizing.md, Disk",
    source: Source::Node(
        "src/journal/settings.rs",
        "journal.sync_interval is how often each shard asks for a sync",
    ),
};

static STALL: Topic = Topic {
    id: "disk.stall",
    severity: Severity::Warning,
    condition: "No write or sync took over half a second",
    why: "ACKs wait for the slowest write. A frame ring bridges 2 s. A short test finds only \
          stalls that are frequent.",
    by_hand: "python3 loadtest/disk.py --calls N --duration 150s --directory DIR",
    fix: "mount without `discard`, give the journal a disk of its own, or use a better drive",
    reference: "docs/sizing.md, Disk",
    source: Source::Choice(
        "because it is a quarter of what a frame ring bridges; the measured five minutes in \
         docs/performance/cf7e9d2.md had no write over 0.31 s",
    ),
};

static ROOM: Topic = Topic {
    id: "disk.free",
    severity: Severity::Fatal,
    condition: "The filesystem has more free space than the reserve",
    why: "Below the reserve (5 %, at least 1 GiB; journal.reserve) new calls get 503.",
    by_hand: "df -h DIR",
    fix: "free some space, or set journal.reserve",
    reference: "docs/operations.md, Disk",
    source: Source::Node("src/store/disk.rs", "below the reserve the node admits no new call"),
};

static RETENTION: Topic = Topic {
    id: "disk.retention",
    severity: Severity::Warning,
    condition: "There is room for what N calls write in the time that you keep",
    why: "Without --retain-bytes and --retain-age nothing is deleted, and a full disk refuses \
          new calls.",
    by_hand: "df -h DIR; exo-ingest config | grep retain",
    fix: "set --retain-bytes or --retain-age, or use a larger disk",
    reference: "docs/operations.md, Retention; docs/sizing.md, Disk",
    source: Source::Choice(
        "because a day is the shortest time in which people notice a full disk and act. What a \
         node keeps is --retain-bytes and --retain-age",
    ),
};

static ENDURANCE: Topic = Topic {
    id: "disk.endurance",
    severity: Severity::Info,
    condition: "N calls around the clock write the drive at most once a day",
    why: "Drives are rated in drive writes a day (DWPD), often 1, over five years. Beyond that \
          they wear out earlier. Count with your average load, not with the peak.",
    by_hand: "smartctl -a DEVICE   (Data Units Written, Percentage Used)",
    fix: "use a larger drive, or one rated for more writes",
    reference: "docs/sizing.md, Drive endurance",
    source: Source::Choice(
        "because drives are often rated for 1 drive write a day over a warranty of 5 years \
         (blocksandfiles.com/2022/04/24/dwpd): look up the rating of yours",
    ),
};

pub(super) static TOPICS: [&Topic; 10] = [
    &DIRECTORY,
    &FILESYSTEM,
    &DISCARD,
    &DIRECT,
    &WRITE_RATE,
    &SYNC_RATE,
    &STALL,
    &ROOM,
    &RETENTION,
    &ENDURANCE,
];

/// Longest write or sync, milliseconds: a quarter of what a frame ring bridges.
const STALL_MAX: f64 = 500.0;

/// Shortest time until the disk is full, if nothing is deleted, seconds.
const ROOM_TIME_MIN: u64 = 24 * 60 * 60;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct DiskFacts {
    /// Why there is nothing to look at; empty otherwise.
    pub(super) missing: String,
    /// The directory that was looked at: the data directory, or one above it.
    pub(super) directory: PathBuf,
    /// The error of the first look.
    pub(super) error: Option<String>,
    pub(super) examined: Option<Examined>,
    pub(super) mount: Option<Mount>,
    /// O_DIRECT, and allocation without writing. `None`: not tried.
    pub(super) abilities: Option<(bool, bool)>,
    /// Bytes of the journal that is there already.
    pub(super) journal_size: u64,
    /// The measurement, or why there is none.
    pub(crate) run: Option<Result<DiskRun, String>>,
}

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskLook {
    /// Nothing is written.
    Read,
    /// With the small file of `serve --check`, and two seconds of writing unless a node writes
    /// there.
    Measure,
}

impl DiskFacts {
    pub(super) fn read(root: &Root, plan: &Plan, look: DiskLook) -> DiskFacts {
        let nothing = |missing: &str| DiskFacts { missing: missing.into(), ..DiskFacts::default() };
        let Some(data_dir) = &plan.data_dir else {
            return nothing(match plan.has_journal {
                true => "give --data-dir DIR to look at its disk",
                false => "there is no journal",
            });
        };
        if !root.is_live() {
            return nothing("the disk is that of another machine");
        }
        let directory = outage::nearest(data_dir);
        let mut facts = DiskFacts {
            mount: Mount::of(root, &directory),
            directory: directory.clone(),
            ..DiskFacts::default()
        };
        match store::examine(&directory) {
            Ok(examined) => facts.examined = Some(examined),
            Err(error) => facts.error = Some(error.to_string()),
        }
        if look == DiskLook::Read || facts.error.is_some() {
            return facts;
        }
        match store::try_disk(&directory) {
            Ok(abilities) => facts.abilities = Some(abilities),
            Err(error) => facts.error = Some(error.to_string()),
        }
        facts.journal_size = size_below(data_dir);
        if facts.error.is_none() {
            facts.run = Some(measure(&facts, plan));
        }
        facts
    }
}

fn measure(facts: &DiskFacts, plan: &Plan) -> Result<DiskRun, String> {
    let data_dir = plan.data_dir.as_deref().unwrap_or(&facts.directory);
    match store::live_node(data_dir) {
        Ok(None) => {}
        Ok(Some(pid)) => {
            return Err(format!(
                "a node (process {pid}) writes here, and a measurement would delay its calls: \
                 look at its exo_ingest_journal_write_seconds"
            ));
        }
        // Without the lock we cannot know, so nothing is risked.
        Err(error) => return Err(format!("it is unknown whether a node writes here: {error}")),
    }
    let reserve = plan.journal.reserve.unwrap_or(0).max(1 << 30);
    let free = facts.examined.as_ref().map_or(0, |examined| examined.free);
    if free < reserve + disk_run::FILE_SIZE {
        return Err("too little space is free for a measurement".into());
    }
    disk_run::measure(&facts.directory).map_err(|error| format!("it failed: {error}"))
}

/// Bytes of the files below a directory. What cannot be read counts as nothing.
fn size_below(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => size_below(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

pub(super) fn checks(facts: &DiskFacts, plan: &Plan, demand: &Demand) -> Vec<Check> {
    if !facts.missing.is_empty() {
        return TOPICS.into_iter().map(|topic| Check::of(topic).skipped(&facts.missing)).collect();
    }
    let run = facts.run.as_ref();
    vec![
        directory(facts),
        filesystem(facts, plan),
        discard(facts),
        direct(facts),
        write_rate(run, demand),
        sync_rate(run, demand),
        stall(run),
        room(facts, plan),
        retention(facts, plan, demand),
        endurance(facts, demand),
    ]
}

fn directory(facts: &DiskFacts) -> Check {
    let check = Check::of(&DIRECTORY).required("writable");
    let shown = facts.directory.display();
    match (&facts.error, facts.abilities) {
        (Some(error), _) => check.current(format!("{shown}: {error}")).holds(false),
        (None, Some(_)) => check.current(format!("{shown} is writable")).holds(true),
        (None, None) => check.skipped("nothing was written"),
    }
}

fn filesystem(facts: &DiskFacts, plan: &Plan) -> Check {
    let check = Check::of(&FILESYSTEM).required("a local disk");
    let Some(examined) = &facts.examined else { return check.skipped(UNREADABLE) };
    let Some(doubt) = &examined.doubt else {
        let kind = facts.mount.as_ref().map_or("a local disk", |mount| &mount.kind);
        return check.current(kind).holds(true);
    };
    let refused = doubt.is_in_memory && plan.level == AckLevel::Durable;
    let severity = if refused { Severity::Fatal } else { Severity::Warning };
    check.current(format!("{}: {}", doubt.kind, doubt.reason)).severity(severity).holds(false)
}

const UNREADABLE: &str = "the directory cannot be read";

fn discard(facts: &DiskFacts) -> Check {
    let check = Check::of(&DISCARD).required("no `discard`");
    let Some(mount) = &facts.mount else {
        return check.skipped("/proc/self/mountinfo does not list the filesystem");
    };
    let point = mount.point.display();
    let has_discard = mount.options.iter().any(|option| option == "discard");
    let current = if has_discard { "`discard`" } else { "no `discard`" };
    check
        .current(format!("{current} ({} on {point})", mount.kind))
        .command(format!("mount -o remount,nodiscard '{point}'"))
        .holds(!has_discard)
}

fn direct(facts: &DiskFacts) -> Check {
    let check = Check::of(&DIRECT).required("O_DIRECT and allocation");
    let Some((is_direct, allocates)) = facts.abilities else {
        return check.skipped("nothing was written");
    };
    let word = |has: bool| if has { "yes" } else { "no" };
    check
        .current(format!("O_DIRECT {}, allocation {}", word(is_direct), word(allocates)))
        .holds(is_direct && allocates)
}

/// Ends a check with the measurement, or skips it.
fn measured(
    run: Option<&Result<DiskRun, String>>,
    check: Check,
    judge: impl FnOnce(&DiskRun, Check) -> Check,
) -> Check {
    match run {
        Some(Ok(run)) => judge(run, check.restless()),
        Some(Err(reason)) => check.skipped(reason),
        None => check.skipped("the disk was not measured: only `exo-ingest doctor` does it"),
    }
}

fn write_rate(run: Option<&Result<DiskRun, String>>, demand: &Demand) -> Check {
    let wanted = demand.disk_rate;
    let check = Check::of(&WRITE_RATE).required(format!(
        "{}/s, better {}/s",
        show::bytes(wanted),
        show::bytes(2 * wanted)
    ));
    measured(run, check, |run, check| {
        let rate = run.bytes_per_second;
        let severity = if rate < wanted { Severity::Fatal } else { Severity::Warning };
        check
            .current(format!("{}/s", show::bytes(rate)))
            .severity(severity)
            .holds(rate >= 2 * wanted)
    })
}

fn sync_rate(run: Option<&Result<DiskRun, String>>, demand: &Demand) -> Check {
    let check = Check::of(&SYNC_RATE).required(format!("{} a second", demand.sync_rate));
    measured(run, check, |run, check| {
        check
            .current(format!("{} a second", run.syncs_per_second))
            .holds(run.syncs_per_second >= demand.sync_rate)
    })
}

fn stall(run: Option<&Result<DiskRun, String>>) -> Check {
    let check = Check::of(&STALL).required(format!("at most {STALL_MAX} ms"));
    measured(run, check, |run, check| {
        check
            .current(format!(
                "write {:.1} ms, sync {:.1} ms at most in {:.1} s",
                run.write_millis_max, run.sync_millis_max, run.seconds
            ))
            .holds(run.write_millis_max.max(run.sync_millis_max) <= STALL_MAX)
    })
}

fn room(facts: &DiskFacts, plan: &Plan) -> Check {
    let check = Check::of(&ROOM);
    let Some(examined) = &facts.examined else { return check.skipped(UNREADABLE) };
    // Each shard begins with a segment, and has the next one ready.
    let wanted =
        outage::reserve(examined, plan) + plan.journal.segment_size * 2 * plan.shards.len() as u64;
    check
        .required(show::bytes(wanted))
        .current(format!("{} of {}", show::bytes(examined.free), show::bytes(examined.size)))
        .restless()
        .holds(examined.free >= wanted)
}

fn retention(facts: &DiskFacts, plan: &Plan, demand: &Demand) -> Check {
    let check = Check::of(&RETENTION).restless();
    let Some(examined) = &facts.examined else { return check.skipped(UNREADABLE) };
    let room = (examined.free + facts.journal_size).saturating_sub(outage::reserve(examined, plan));
    let by_age = plan.journal.retain_age.map(|age| demand.disk_rate.saturating_mul(age.as_secs()));
    let kept = [by_age, plan.journal.retain_bytes].into_iter().flatten().min();
    // What waits for a sink stays, whatever retention wants.
    let outage = outage::judge(plan, demand, room);
    let is_well = outage.as_ref().is_none_or(|outage| outage.is_well);
    let more = outage.map(|outage| format!("; {}", outage.sentence)).unwrap_or_default();
    let Some(kept) = kept else {
        let left = room / demand.disk_rate.max(1);
        return check
            .required("--retain-bytes or --retain-age, or room for a day")
            .current(format!(
                "nothing is deleted: full after {} of N calls{more}",
                show::span(left)
            ))
            .holds(left >= ROOM_TIME_MIN && is_well);
    };
    check
        .required(show::bytes(kept))
        .current(format!("{} without the reserve{more}", show::bytes(room)))
        .holds(room >= kept && is_well)
}

fn endurance(facts: &DiskFacts, demand: &Demand) -> Check {
    let day = demand.disk_bytes_a_day();
    let audio = demand.audio_rate * 24 * 60 * 60;
    let check = Check::of(&ENDURANCE).required(format!(
        "{} a day for {} of audio",
        show::bytes(day),
        show::bytes(audio)
    ));
    let device = facts.mount.as_ref().and_then(|mount| mount.disk_size);
    let (size, what) = match (device, &facts.examined) {
        (Some(size), _) => (size, "drive"),
        (None, Some(examined)) => (examined.size, "filesystem"),
        (None, None) => return check.skipped("the size of the drive is unknown"),
    };
    let writes = day as f64 / size.max(1) as f64;
    let shown = if writes < 10.0 { format!("{writes:.1}") } else { format!("{writes:.0}") };
    let life = if writes > 1.0 {
        format!(": rated for 1 a day it lasts 1/{shown} of its rated life")
    } else {
        String::new()
    };
    check
        .current(format!("{shown} writes of a {what} of {} a day{life}", show::bytes(size)))
        .holds(writes <= 1.0)
}

#[cfg(test)]
mod tests;
