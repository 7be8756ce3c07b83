//! Names and places of the journal's files.
//!
//! ```text
//! DATA_DIR/                              0700
//!   boot                                 see [`super::boot`]
//!   run-<boot>-<started_at>-<pid>/       one for each process that served on the directory
//!     seal                               asks the node to seal: see [`super::seal`]
//!     shard-<k>/
//!       marks                            what retention removed: see [`super::marks`]
//!       <id, 16 hex digits>.segment      audio: see [`crate::format`]
//!       <id, 16 hex digits>.index        lists the calls in it; made again if it is missing
//!       <id, 16 hex digits>.live       the index of a segment being written, as far as it goes
//!       <id, 16 hex digits>.preparing    a new segment, renamed once it is locked and allocated
//!   starting-run-…/                      a run until all of its shards have their marks
//!   removed-run-…/                       a run whose files are being removed
//! ```
//! Names count up in the order of writing. Readers ignore files with other names. A segment's
//! writer holds a lock on it: see [`super::lock`].

#![forbid(unsafe_code)]

use crate::clock::UnixMicros;
use std::fmt;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Name of the boot counter's file.
pub const BOOT_FILE: &str = "boot";

/// Ending of a segment's name.
pub(crate) const SEGMENT_EXTENSION: &str = "segment";

/// Ending of an index's name.
pub const INDEX_EXTENSION: &str = "index";

/// Ending of the name of a live index.
const LIVE_INDEX_EXTENSION: &str = "live";

/// Ending of the name of a segment that is still being allocated.
pub(crate) const PREPARING_EXTENSION: &str = "preparing";

/// Beginnings of the names of runs that readers ignore.
const STARTING: &str = "starting-";
const REMOVED: &str = "removed-";

/// Mode of directories: recordings are private.
const DIRECTORY_MODE: u32 = 0o700;

/// One process on a data directory. The order is that of their starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunName {
    /// The boot it ran in, as counted by [`super::boot`].
    pub(crate) boot: u32,
    /// When it started. Two processes may serve in one boot, even at the same time (a hot upgrade).
    pub(crate) started_at: UnixMicros,
    /// Its process id.
    pub pid: u32,
}

impl RunName {
    /// The run's number in segment headers: when it started, microseconds since 1970.
    pub const fn number(&self) -> u64 {
        self.started_at.0
    }

    /// The run that a directory of this name belongs to.
    pub(crate) fn parse(name: &str) -> Option<RunName> {
        let mut parts = name.strip_prefix("run-")?.split('-');
        let run = RunName {
            boot: number(parts.next()?)?,
            started_at: UnixMicros(number(parts.next()?)?),
            pid: number(parts.next()?)?,
        };
        parts.next().is_none().then_some(run)
    }
}

impl fmt::Display for RunName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "run-{}-{}-{}", self.boot, self.started_at.0, self.pid)
    }
}

/// A decimal number as this module writes it: no sign, no leading zeros.
fn number<N: std::str::FromStr + fmt::Display>(text: &str) -> Option<N> {
    text.parse::<N>().ok().filter(|number| number.to_string() == text)
}

/// Directory of a run.
pub fn run_dir(data_dir: &Path, run: &RunName) -> PathBuf {
    data_dir.join(run.to_string())
}

/// Directory of a run that begins: renamed once it is complete.
pub(crate) fn starting_dir(data_dir: &Path, run: &RunName) -> PathBuf {
    data_dir.join(format!("{STARTING}{run}"))
}

/// Directory of a run while its files are removed.
pub(crate) fn removed_dir(data_dir: &Path, run: &RunName) -> PathBuf {
    data_dir.join(format!("{REMOVED}{run}"))
}

/// Directories of runs that did not begin, or whose removal was interrupted.
pub(crate) fn unfinished_runs(data_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let is_unfinished = |name: &str| {
        let run = name.strip_prefix(STARTING).or_else(|| name.strip_prefix(REMOVED))?;
        RunName::parse(run).map(|_| data_dir.join(name))
    };
    entries(data_dir, is_unfinished)
}

/// Directory of a shard within its run.
pub fn shard_dir(run_dir: &Path, shard: u16) -> PathBuf {
    run_dir.join(format!("shard-{shard}"))
}

/// A segment's file. `id` counts from 1 within the shard's run.
pub fn segment_path(shard_dir: &Path, id: u64) -> PathBuf {
    shard_dir.join(format!("{id:016x}.{SEGMENT_EXTENSION}"))
}

/// The index beside a segment.
pub fn index_path(shard_dir: &Path, id: u64) -> PathBuf {
    shard_dir.join(format!("{id:016x}.{INDEX_EXTENSION}"))
}

/// The live index beside a segment.
pub fn live_index_path(shard_dir: &Path, id: u64) -> PathBuf {
    shard_dir.join(format!("{id:016x}.{LIVE_INDEX_EXTENSION}"))
}

/// The name of an index until it is whole: readers ignore it.
pub fn unfinished_index_path(shard_dir: &Path, id: u64) -> PathBuf {
    index_path(shard_dir, id).with_extension(format!("{INDEX_EXTENSION}-{}", std::process::id()))
}

/// The name of a segment until it is locked and allocated: readers ignore it.
pub fn preparing_path(shard_dir: &Path, id: u64) -> PathBuf {
    shard_dir.join(format!("{id:016x}.{PREPARING_EXTENSION}"))
}

/// The id in the name of a file with this `extension`.
pub(crate) fn parse_id(name: &str, extension: &str) -> Option<u64> {
    let digits = name.strip_suffix(extension)?.strip_suffix('.')?;
    let id = u64::from_str_radix(digits, 16).ok()?;
    (format!("{id:016x}") == digits).then_some(id)
}

/// A file that an interrupted process may have left in a shard's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// The index of this segment, which is gone.
    Index(u64),
    /// An index that has not got its name yet.
    IndexUnfinished,
    /// A live index. Its node has ended.
    LiveIndex,
    /// A segment that has not got its name yet.
    Preparing,
}

/// The kind of leftover, by the file's name. `None` for segments and foreign files.
pub(crate) fn leftover(path: &Path) -> Option<Leftover> {
    let name = path.file_name()?.to_str()?;
    if let Some(id) = parse_id(name, INDEX_EXTENSION) {
        return Some(Leftover::Index(id));
    }
    if parse_id(name, LIVE_INDEX_EXTENSION).is_some() {
        return Some(Leftover::LiveIndex);
    }
    if parse_id(name, PREPARING_EXTENSION).is_some() {
        return Some(Leftover::Preparing);
    }
    let (index, pid) = name.rsplit_once('-')?;
    let is_unfinished = parse_id(index, INDEX_EXTENSION).is_some() && number::<u32>(pid).is_some();
    is_unfinished.then_some(Leftover::IndexUnfinished)
}

/// The runs in a data directory, oldest first.
pub fn runs(data_dir: &Path) -> io::Result<Vec<RunName>> {
    entries(data_dir, RunName::parse)
}

/// The shards that have a directory in a run, in order.
pub fn shards(run_dir: &Path) -> io::Result<Vec<u16>> {
    entries(run_dir, |name| number(name.strip_prefix("shard-")?))
}

/// The ids of the segments in a shard's directory, in order.
pub fn segments(shard_dir: &Path) -> io::Result<Vec<u64>> {
    entries(shard_dir, |name| parse_id(name, SEGMENT_EXTENSION))
}

/// The entries of a directory whose names `parse` accepts, in order.
fn entries<T: Ord>(directory: &Path, parse: impl Fn(&str) -> Option<T>) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        found.extend(entry?.file_name().to_str().and_then(&parse));
    }
    found.sort_unstable();
    Ok(found)
}

/// Makes the data directory if it does not exist.
pub(crate) fn create_data_dir(data_dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(data_dir)
}

/// Makes a directory with mode 0700.
pub(crate) fn create_dir(directory: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIRECTORY_MODE).create(directory)
}

/// Makes a shard's directory and that of its run, if they do not exist. Makes both names durable.
pub fn create_shard_dir(data_dir: &Path, run: &RunName, shard: u16) -> io::Result<PathBuf> {
    let run_dir = run_dir(data_dir, run);
    let shard_dir = shard_dir(&run_dir, shard);
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(&shard_dir)?;
    sync_dir(&run_dir)?;
    sync_dir(data_dir)?;
    Ok(shard_dir)
}

/// Makes the names in a directory durable: data is lost if a power failure removes its file's name.
pub(crate) fn sync_dir(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const RUN: RunName =
        RunName { boot: 3, started_at: UnixMicros(1_800_000_000_000_001), pid: 4711 };

    #[test]
    fn names_are_read_as_they_are_written() {
        assert_eq!(RUN.to_string(), "run-3-1800000000000001-4711");
        assert_eq!(RunName::parse("run-3-1800000000000001-4711"), Some(RUN));
        for name in [
            "run-3-1-",
            "run-03-1-1",
            "run-3-1",
            "run-3-1-1-1",
            "run-+3-1-1",
            "run-4294967296-1-1",
            "walk-1-1-1",
        ] {
            assert_eq!(RunName::parse(name), None, "{name}");
        }
        let path = segment_path(Path::new("/d"), 0x1F);
        assert_eq!(path, Path::new("/d/000000000000001f.segment"));
        assert_eq!(parse_id("000000000000001f.segment", SEGMENT_EXTENSION), Some(0x1F));
        for name in [
            "1f.segment",
            "000000000000001F.segment",
            "000000000000001f.index",
            "000000000000001fsegment",
            ".segment",
        ] {
            assert_eq!(parse_id(name, SEGMENT_EXTENSION), None, "{name}");
        }
    }

    #[test]
    fn leftovers_are_known_by_their_names() {
        let dir = Path::new("/d");
        let unfinished = index_path(dir, 2).with_extension("index-4711");
        assert_eq!(leftover(&index_path(dir, 0x1F)), Some(Leftover::Index(0x1F)));
        assert_eq!(leftover(&unfinished), Some(Leftover::IndexUnfinished));
        assert_eq!(leftover(&live_index_path(dir, 3)), Some(Leftover::LiveIndex));
        assert_eq!(leftover(&preparing_path(dir, 3)), Some(Leftover::Preparing));
        for name in [
            "1f.index",
            "000000000000001f.index-",
            "000000000000001f.index-x1",
            "notes-1",
            "x.preparing",
        ] {
            assert_eq!(leftover(&dir.join(name)), None, "{name}");
        }
        assert_eq!(leftover(&segment_path(dir, 1)), None);
    }

    #[test]
    fn only_files_of_the_journal_are_listed_and_in_order() {
        let data = tempfile::tempdir().unwrap();
        let data = data.path().join("data");
        create_data_dir(&data).unwrap();
        let later = RunName { boot: 10, started_at: UnixMicros(1), pid: 1 };
        for run in [later, RUN] {
            let mut dir = data.clone();
            for shard in [10, 9] {
                dir = create_shard_dir(&data, &run, shard).unwrap();
            }
            for path in [
                segment_path(&dir, 16),
                segment_path(&dir, 2),
                index_path(&dir, 1),
                preparing_path(&dir, 17),
            ] {
                std::fs::write(path, "").unwrap();
            }
        }
        std::fs::write(data.join(BOOT_FILE), "").unwrap();
        assert_eq!(runs(&data).unwrap(), [RUN, later]);
        assert_eq!(shards(&run_dir(&data, &RUN)).unwrap(), [9, 10]);
        assert_eq!(segments(&shard_dir(&run_dir(&data, &RUN), 9)).unwrap(), [2, 16]);
        assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
