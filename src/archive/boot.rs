//! The boot counter of a data directory, and its clock.
//!
//! The counter is the first part of every epoch, so that epochs of later boots compare greater,
//! although the boot-time clock starts again. The file `boot` has these lines:
//! ```text
//! 3                                     the counter
//! 6f2c…                                 the kernel's id of that boot; a new id adds one
//! 1796000000000000                      journal time at that boot, microseconds since 1970
//! offset 0                              wall clock less journal time, when both were last known
//! waits 1796003600000000                how long the machine was off before is not known yet; the
//!                                       journal time when this boot began to use the directory
//! raised 1796000000 1796003600 3600     see below; any number of lines
//! crc32c 9f03b1aa                       over the lines before
//! ```
//! A file of the first format has two lines. If the file cannot be read, the counter continues
//! after the greatest number in the name of any run. It never counts back.
//!
//! # Journal time
//! Segments are ordered and aged by a clock that never steps: the time since the machine's boot,
//! plus a base for that boot. A step of the wall clock changes nothing. The wall clock is asked for
//! one thing only: how long the machine was off between two boots. And it is believed only while
//! the kernel says that it is synchronised. Until then that time counts as zero, and the boot
//! *waits*. Once the clock is synchronised, the base is raised by that time.
//!
//! Then segments written in this boot before would look older by that time than they are. A line
//! `raised FROM TO BY` tells: a journal time from `FROM` up to `TO` is to be read as `BY` more. If
//! several boots wait one after another, how long the machine was off between them stays unknown:
//! their audio then looks younger than it is, by at most that time.
#![forbid(unsafe_code)]

use super::layout::{self, BOOT_FILE, RunName, runs, sync_dir};
use super::medium::is_of_medium;
use super::{first_block, lock};
use crate::clock::{JournalClock, UnixMicros};
use crate::io::clocks::Clocks;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The file in which the kernel names this boot.
const KERNEL_BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Another process that starts at the same time needs only a few file operations.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Lines `raised` that are kept: of the last boots that began without a synchronised clock.
const RAISES_MAX: usize = 32;

/// A machine that was off for less needs no correction, microseconds.
const RAISE_MIN: u64 = 1_000_000;

/// What a data directory knows of this boot of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Boot {
    /// Greater than that of any other boot of the directory.
    pub(crate) number: u32,
    /// The kernel's name of it.
    id: String,
    /// Journal time at the boot, microseconds since 1970. `None` in a file of the first format.
    base: Option<u64>,
    /// Wall clock less journal time, microseconds. `None`: no synchronised clock was seen yet.
    offset: Option<i64>,
    /// The time before this boot is not known yet. Journal time when it began here.
    waits: Option<u64>,
    raises: Vec<Raise>,
}

/// Journal times from `from` up to `to` are to be read as `by` more, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Raise {
    from: u64,
    to: u64,
    by: u64,
}

impl Boot {
    /// The clock of this boot.
    pub(crate) fn clock(&self) -> JournalClock {
        JournalClock::new(self.base.unwrap_or(0))
    }

    /// Whether [`synchronise`] may still raise the clock.
    pub(crate) fn waits(&self) -> bool {
        self.waits.is_some()
    }

    /// The time from the journal time `at` to the journal time `now`.
    pub(crate) fn age(&self, at: UnixMicros, now: UnixMicros) -> Duration {
        let is_in = |raise: &&Raise| (raise.from..raise.to).contains(&at.0);
        let by: u64 = self.raises.iter().filter(is_in).map(|raise| raise.by).sum();
        Duration::from_micros(now.0.saturating_sub(at.0.saturating_add(by)))
    }

    /// Begins the next boot. `newest` is the newest journal time in the directory, if there is any.
    fn begin(
        known: Option<Boot>,
        seen: u32,
        id: &str,
        newest: Option<u64>,
        clocks: Clocks,
    ) -> io::Result<Boot> {
        let number = known.as_ref().map_or(0, |boot| boot.number).max(seen).checked_add(1);
        let number =
            number.ok_or_else(|| io::Error::other("the boot counter has reached its maximum"))?;
        let mut boot = Boot {
            number,
            id: id.to_owned(),
            base: None,
            // The first format wrote wall-clock time.
            offset: known
                .as_ref()
                .map_or(Some(0), |boot| boot.base.map_or(Some(0), |_| boot.offset)),
            waits: known.as_ref().and_then(|boot| boot.waits),
            raises: known.map_or(Vec::new(), |boot| boot.raises),
        };
        boot.set_base(newest, clocks);
        Ok(boot)
    }

    /// Sets the base in a boot that has none.
    fn set_base(&mut self, newest: Option<u64>, clocks: Clocks) {
        let Clocks { wall, uptime, is_synchronised } = clocks;
        let wall = wall.0;
        let now = match (newest, self.offset) {
            // There is nothing to be older or newer than.
            (None, _) => {
                self.offset = is_synchronised.then_some(0);
                wall
            }
            (Some(newest), Some(offset)) if is_synchronised => {
                wall.saturating_add_signed(offset.saturating_neg()).max(newest.saturating_add(1))
            }
            (Some(newest), _) => newest.saturating_add(1),
        };
        // Journal time begins at the earliest with the boot of the machine: a base is not negative.
        self.base = Some(now.saturating_sub(uptime.as_micros()));
        if self.offset.is_none() && is_synchronised {
            self.offset = Some(difference(wall, self.now(clocks)));
        }
        // The boots before may have waited in vain. What was written in them is at most so much
        // older than it looks.
        let from = self.waits.take().unwrap_or(now);
        match (is_synchronised, newest) {
            (false, _) => self.waits = Some(from),
            (true, Some(newest)) if from < now => {
                self.add_raise(Raise { from, to: now, by: now.saturating_sub(newest) });
            }
            (true, _) => {}
        }
    }

    /// Journal time now, microseconds.
    fn now(&self, clocks: Clocks) -> u64 {
        self.clock().at(clocks.uptime).0
    }

    /// The wall clock is synchronised, and it was not when the boot began: counts the time that the
    /// machine was off.
    fn catch_up(&mut self, clocks: Clocks) {
        let Some(from) = self.waits.take() else { return };
        let (now, wall) = (self.now(clocks), clocks.wall.0);
        let Some(offset) = self.offset else {
            self.offset = Some(difference(wall, now));
            return;
        };
        let real = wall.saturating_add_signed(offset.saturating_neg());
        let by = real.saturating_sub(now);
        if by >= RAISE_MIN {
            let base = self.base.unwrap_or(0);
            self.add_raise(Raise { from, to: real, by });
            self.base = Some(base.saturating_add(by));
        }
    }

    fn add_raise(&mut self, raise: Raise) {
        self.raises.push(raise);
        let excess = self.raises.len().saturating_sub(RAISES_MAX);
        self.raises.drain(..excess);
    }

    fn encode(&self) -> String {
        let mut text = format!("{}\n{}\n", self.number, self.id);
        let Some(base) = self.base else { return text };
        text.push_str(&format!("{base}\n"));
        if let Some(offset) = self.offset {
            text.push_str(&format!("offset {offset}\n"));
        }
        if let Some(from) = self.waits {
            text.push_str(&format!("waits {from}\n"));
        }
        for Raise { from, to, by } in &self.raises {
            text.push_str(&format!("raised {from} {to} {by}\n"));
        }
        let crc = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("crc32c {crc:08x}\n"));
        text
    }

    fn decode(bytes: &[u8]) -> Option<Boot> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.lines();
        let (number, id) = (lines.next()?.parse().ok()?, lines.next()?.to_owned());
        let base = lines.next().map(str::parse).transpose().ok()?;
        let mut boot = Boot { number, id, base, offset: None, waits: None, raises: Vec::new() };
        for line in lines {
            let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
            match name {
                "offset" => boot.offset = Some(rest.parse().ok()?),
                "waits" => boot.waits = Some(rest.parse().ok()?),
                "raised" => {
                    let mut numbers = rest.split(' ').map(str::parse);
                    let mut next = || numbers.next()?.ok();
                    boot.raises.push(Raise { from: next()?, to: next()?, by: next()? });
                }
                _ => {}
            }
        }
        (boot.encode() == text).then_some(boot)
    }
}

/// The wall clock less journal time.
fn difference(wall: u64, journal: u64) -> i64 {
    i64::try_from(i128::from(wall) - i128::from(journal)).unwrap_or(0)
}

/// This boot in `data_dir`, durable before this returns. Several processes may call it at the same
/// time.
pub(crate) fn current(data_dir: &Path) -> io::Result<Boot> {
    of_id(data_dir, &kernel_boot_id()?, Clocks::read())
}

/// This boot again, once the wall clock may have been synchronised. Raises `clock` if the time
/// before the boot has become known.
pub(crate) fn synchronise(data_dir: &Path, clock: &JournalClock) -> io::Result<Boot> {
    let clocks = Clocks::read();
    let boot = of_id(data_dir, &kernel_boot_id()?, clocks)?;
    if let Some(base) = boot.base {
        clock.raise(base);
    }
    Ok(boot)
}

fn kernel_boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string(KERNEL_BOOT_ID)?.trim().to_owned())
}

/// As [`current`], in the boot that the kernel calls `boot_id`, with these clocks.
pub(crate) fn of_id(data_dir: &Path, boot_id: &str, clocks: Clocks) -> io::Result<Boot> {
    // Processes lock the directory, not the file: the file is replaced, so they cannot wait for it.
    let directory = File::open(data_dir)?;
    let start = Instant::now();
    while !lock::try_exclusive(&directory)? {
        if start.elapsed() >= LOCK_WAIT {
            let reason = format!(
                "another process has locked {} for more than {LOCK_WAIT:?}",
                data_dir.display()
            );
            return Err(io::Error::new(io::ErrorKind::WouldBlock, reason));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let path = data_dir.join(BOOT_FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let known = Boot::decode(&text);
    let mut boot = match known.clone() {
        Some(boot) if boot.id == boot_id => boot,
        known => {
            let runs = runs(data_dir)?;
            let seen = runs.last().map_or(0, |run| run.boot);
            Boot::begin(known, seen, boot_id, newest(data_dir, &runs)?, clocks)?
        }
    };
    if boot.base.is_none() {
        // The first format served in this boot.
        boot.offset = Some(0);
        boot.set_base(newest(data_dir, &runs(data_dir)?)?, clocks);
    }
    if clocks.is_synchronised {
        boot.catch_up(clocks);
    }
    if known.as_ref() != Some(&boot) {
        replace(data_dir, &path, &boot.encode())?;
    }
    Ok(boot)
}

/// The newest journal time in a directory with these runs, oldest first: when a run or one of the
/// last segments began. `None` if there is no run.
fn newest(data_dir: &Path, runs: &[RunName]) -> io::Result<Option<u64>> {
    let mut newest = runs.iter().map(|run| run.started_at.0).max();
    // The newest segments are those of the last run that has any.
    for run in runs.iter().rev() {
        let run_dir = layout::run_dir(data_dir, run);
        let mut has_segment = false;
        for shard in layout::shards(&run_dir).or_else(gone)? {
            let shard_dir = layout::shard_dir(&run_dir, shard);
            // The last ones may not have begun.
            for id in layout::segments(&shard_dir).or_else(gone)?.into_iter().rev() {
                let path = layout::segment_path(&shard_dir, id);
                if let Ok(Some(header)) = first_block::header(&path) {
                    newest = newest.max(Some(header.created_at.0));
                    has_segment = true;
                    break;
                }
            }
        }
        if has_segment {
            break;
        }
    }
    Ok(newest)
}

/// A directory that another process has removed meanwhile is empty. One that the disk cannot list
/// is stepped over: the start of its run counts, and the node serves.
fn gone<T: Default>(error: io::Error) -> io::Result<T> {
    match error.kind() == io::ErrorKind::NotFound || is_of_medium(&error) {
        true => Ok(T::default()),
        false => Err(error),
    }
}

/// Replaces a file. After a power failure it has either the old or the new text.
fn replace(data_dir: &Path, path: &Path, text: &str) -> io::Result<()> {
    let next = path.with_extension("next");
    // A killed process may have left this file, or a user a link. Never write through it.
    match std::fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&next, path)?;
    sync_dir(data_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::layout::create_shard_dir;
    use crate::clock::Moment;

    const HOUR: u64 = 3_600_000_000;

    /// Clocks of a machine that has run for `uptime` microseconds.
    fn clocks(wall: u64, uptime: u64, is_synchronised: bool) -> Clocks {
        let uptime = Moment::ZERO + Duration::from_micros(uptime);
        Clocks { wall: UnixMicros(wall), uptime, is_synchronised }
    }

    fn number(data_dir: &Path, id: &str) -> io::Result<u32> {
        of_id(data_dir, id, Clocks::read()).map(|boot| boot.number)
    }

    #[test]
    fn it_counts_boots_and_not_starts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(number(dir.path(), "a").unwrap(), 1);
        assert_eq!(number(dir.path(), "a").unwrap(), 1);
        assert_eq!(number(dir.path(), "b").unwrap(), 2);
        assert_eq!(
            number(dir.path(), "a").unwrap(),
            3,
            "an id that returns counts as another boot"
        );
        let text = std::fs::read_to_string(dir.path().join(BOOT_FILE)).unwrap();
        assert!(text.starts_with("3\na\n"), "{text}");
        assert_eq!(current(dir.path()).unwrap().number, 4);
        assert_eq!(current(dir.path()).unwrap().number, 4);
    }

    #[test]
    fn it_never_writes_through_a_file_or_link_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (next, elsewhere) = (dir.path().join("boot.next"), dir.path().join("elsewhere"));
        std::fs::write(&elsewhere, "precious").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &next).unwrap();
        assert_eq!(number(dir.path(), "a").unwrap(), 1);
        std::fs::write(&next, "left over").unwrap();
        assert_eq!(number(dir.path(), "b").unwrap(), 2);
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"precious");
        assert!(dir.path().join(BOOT_FILE).symlink_metadata().unwrap().is_file() && !next.exists());
    }

    #[test]
    fn it_never_counts_back() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunName { boot: 7, started_at: UnixMicros(1), pid: 1 };
        create_shard_dir(dir.path(), &run, 0).unwrap();
        for (round, text) in
            ["", "x\na\n", "1", "7\na", "7\na\nb\n", "\n\n"].into_iter().enumerate()
        {
            std::fs::write(dir.path().join(BOOT_FILE), text).unwrap();
            assert_eq!(number(dir.path(), "a").unwrap(), 8, "round {round}: {text:?}");
        }
        std::fs::write(dir.path().join(BOOT_FILE), format!("{}\nz\n", u32::MAX)).unwrap();
        assert!(number(dir.path(), "a").is_err());
    }

    #[test]
    fn processes_that_start_together_agree() {
        let dir = tempfile::tempdir().unwrap();
        let ask = || number(dir.path(), "a").unwrap();
        let numbers: Vec<u32> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(numbers, [1; 8]);
    }

    #[test]
    fn within_a_boot_journal_time_is_the_time_since_the_boot_whatever_the_wall_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        let wall = 1000 * HOUR;
        let first = of_id(dir.path(), "a", clocks(wall, HOUR, true)).unwrap();
        assert_eq!(first.clock().at(Moment::ZERO + Duration::from_micros(HOUR)).0, wall);
        for (wall, is_synchronised) in
            [(0, true), (wall - 5 * HOUR, true), (wall + 500 * HOUR, false), (u64::MAX, true)]
        {
            let again = of_id(dir.path(), "a", clocks(wall, 2 * HOUR, is_synchronised)).unwrap();
            assert_eq!(again, first);
        }
        let text = std::fs::read(dir.path().join(BOOT_FILE)).unwrap();
        for at in 0..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            assert_eq!(Boot::decode(&damaged), None, "byte {at}");
        }
    }

    /// A directory with one run, which began at the journal time `newest`.
    fn used(newest: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let run = RunName { boot: 1, started_at: UnixMicros(newest), pid: 1 };
        create_shard_dir(dir.path(), &run, 0).unwrap();
        dir
    }

    #[test]
    fn a_boot_goes_on_after_the_newest_time_in_the_directory() {
        let newest = 1000 * HOUR;
        for (wall, is_synchronised, expected) in [
            // It was off for ten hours.
            (newest + 10 * HOUR, true, newest + 10 * HOUR),
            // The clock is earlier than what was written, or nothing vouches for it.
            (newest - 10 * HOUR, true, newest + 1),
            (0, true, newest + 1),
            (newest + 10 * HOUR, false, newest + 1),
        ] {
            let dir = used(newest);
            let boot = of_id(dir.path(), "a", clocks(wall, HOUR / 2, is_synchronised)).unwrap();
            let now = boot.clock().at(Moment::ZERO + Duration::from_micros(HOUR / 2)).0;
            assert_eq!((now, boot.waits()), (expected, !is_synchronised), "{wall}");
        }
    }

    #[test]
    fn once_the_clock_is_synchronised_the_time_off_counts_for_what_was_written_before_it() {
        let (newest, off) = (1000 * HOUR, 48 * HOUR);
        let dir = used(newest);
        let real = newest + off;
        let begun = of_id(dir.path(), "a", clocks(5, HOUR, false)).unwrap();
        assert!(begun.waits());
        let clock = begun.clock();
        let early = clock.at(Moment::ZERO + Duration::from_micros(HOUR + 60));
        let later = clocks(real + HOUR, 2 * HOUR, true);
        let boot = of_id(dir.path(), "a", later).unwrap();
        assert!(!boot.waits());
        clock.raise(boot.base.unwrap());
        let now = clock.at(later.uptime);
        assert_eq!(now.0, real + HOUR);
        // Written an hour ago, in this boot; and two days earlier, before it.
        assert_eq!(boot.age(early, now), Duration::from_micros(HOUR - 60));
        assert_eq!(boot.age(UnixMicros(newest), now), Duration::from_micros(off + HOUR));
        assert_eq!(boot.age(now, now), Duration::ZERO);
        // Only once, and a later boot still knows.
        let again = of_id(dir.path(), "a", clocks(real + 500 * HOUR, 3 * HOUR, true)).unwrap();
        assert_eq!(again, boot);
        let next = of_id(dir.path(), "b", clocks(real + 2 * HOUR, 60, true)).unwrap();
        let now = next.clock().at(Moment::ZERO + Duration::from_micros(60));
        assert_eq!(next.age(early, now), Duration::from_micros(2 * HOUR - 60));
    }

    #[test]
    fn a_machine_without_a_clock_is_never_made_to_look_decades_old() {
        let dir = tempfile::tempdir().unwrap();
        // 1970, and then the network is there.
        let boot = of_id(dir.path(), "a", clocks(3, HOUR, false)).unwrap();
        let run = RunName { boot: 1, started_at: boot.clock().at(Moment::ZERO), pid: 1 };
        create_shard_dir(dir.path(), &run, 0).unwrap();
        let wall = 400_000 * HOUR;
        let boot = of_id(dir.path(), "a", clocks(wall, 2 * HOUR, true)).unwrap();
        let now = boot.clock().at(Moment::ZERO + Duration::from_micros(2 * HOUR));
        assert_eq!(boot.age(run.started_at, now), Duration::from_micros(2 * HOUR));
        // The next boot knows how long the machine was off.
        let next = of_id(dir.path(), "b", clocks(wall + 10 * HOUR, 0, true)).unwrap();
        let now = next.clock().at(Moment::ZERO);
        assert_eq!(next.age(run.started_at, now), Duration::from_micros(12 * HOUR));
    }

    #[test]
    fn a_run_that_the_disk_cannot_list_keeps_no_node_from_its_start() {
        let newest = 1000 * HOUR;
        let real = used(newest);
        let mounted = tempfile::tempdir().unwrap();
        let Some(disk) = exo_ingest_harness::BadDisk::mount(real.path(), mounted.path()) else {
            return;
        };
        let run = runs(mounted.path()).unwrap()[0];
        disk.damage(Path::new(&run.to_string()), 0..1);
        assert!(layout::shards(&layout::run_dir(mounted.path(), &run)).is_err());
        let boot = of_id(mounted.path(), "a", clocks(5, 0, true)).unwrap();
        assert_eq!((boot.number, boot.clock().at(Moment::ZERO).0), (2, newest + 1));
    }

    #[test]
    fn a_file_of_the_first_format_gets_a_clock_in_the_same_boot() {
        let dir = used(1000 * HOUR);
        std::fs::write(dir.path().join(BOOT_FILE), "7\na\n").unwrap();
        let boot = of_id(dir.path(), "a", clocks(900 * HOUR, 0, true)).unwrap();
        assert_eq!((boot.number, boot.clock().at(Moment::ZERO).0), (7, 1000 * HOUR + 1));
        assert_eq!(of_id(dir.path(), "a", clocks(5, 0, true)).unwrap(), boot);
    }
}
