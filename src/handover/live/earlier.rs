//! Runs from before the first start with a message engine. With `live.from=now` they are not handed
//! over: an engine of what is live does not expect the calls of last month.
//!
//! ```text
//! sinks/<cursor>.earlier
//! exo-ingest earlier 1
//! run-3-1796000000000000-4711      this run was there
//! ```
//! The first start writes this file, durably, and before it takes a call. It names the runs and no
//! time, since clocks are set back. The cursor would not do: it may be lost in a crash, and then
//! what it had not reached must be sent all the same. It says nothing about these runs, so
//! `exo-ingest ship` sends them.

#![forbid(unsafe_code)]

use crate::archive::layout::{self, RunName, sync_dir};
use crate::handover::cursor::{Cursor, EARLIER, beside, replace};
use std::collections::HashSet;
use std::io;
use std::path::Path;

/// What the first start with an engine hands over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LiveFrom {
    /// Its own calls, and all later ones.
    Now,
    /// The whole journal.
    #[default]
    Oldest,
}

/// Its first line. The number is that of the format.
const TITLE: &str = "exo-ingest earlier 1";

/// The runs from before the first start with this engine, as far as they are still there. Call it
/// before the node's own run begins.
pub(crate) fn runs(data_dir: &Path, url: &str) -> io::Result<HashSet<RunName>> {
    let cursor = Cursor::path(data_dir, url);
    let path = beside(&cursor, EARLIER);
    let there: HashSet<RunName> = match data_dir.exists() {
        true => layout::runs(data_dir)?.into_iter().collect(),
        false => HashSet::new(),
    };
    match std::fs::read_to_string(&path) {
        // One that is damaged names too few runs: then more is sent, which does no harm.
        Ok(text) => Ok(decode(&text).filter(|run| there.contains(run)).collect()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        // The engine, or `ship`, has begun with the whole journal. The file says so, too, should
        // the cursor be lost.
        Err(_) if cursor.exists() => {
            let none = HashSet::new();
            store(&path, &none)?;
            Ok(none)
        }
        Err(_) => {
            store(&path, &there)?;
            Ok(there)
        }
    }
}

fn decode(text: &str) -> impl Iterator<Item = RunName> {
    let mut lines = text.lines();
    let is_known = lines.next() == Some(TITLE);
    lines.filter(move |_| is_known).filter_map(RunName::parse)
}

fn store(path: &Path, runs: &HashSet<RunName>) -> io::Result<()> {
    let mut text = format!("{TITLE}\n");
    runs.iter().for_each(|run| text.push_str(&format!("{run}\n")));
    replace(path, &text, true)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    sync_dir(dir)?;
    dir.parent().map_or(Ok(()), sync_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::image::{self, Image};
    use crate::handover::cursor;
    use crate::handover::slice::NodeName;

    const URL: &str = "nats://127.0.0.1:4222";

    fn add_run(dir: &Path, number: u32) {
        let mut image = Image::new(image::run(number), 0, 64 * 1024).unwrap();
        let epoch = image.start("acme", "one", 8_000);
        image.frame(epoch, &[1; 100]);
        image.seal();
        image.store(dir).unwrap();
    }

    #[test]
    fn the_first_start_notes_the_runs_that_are_there_and_later_ones_only_read() {
        let dir = tempfile::tempdir().unwrap();
        let of = |numbers: &[u32]| numbers.iter().map(|number| image::run(*number)).collect();
        add_run(dir.path(), 1);
        add_run(dir.path(), 2);
        let expected: HashSet<RunName> = of(&[1, 2]);
        assert_eq!(runs(dir.path(), URL).unwrap(), expected);
        add_run(dir.path(), 3);
        assert_eq!(runs(dir.path(), URL).unwrap(), expected, "the third one is not earlier");
        assert!(cursor::list(dir.path()).unwrap().is_empty(), "it is no cursor");
        let other: HashSet<RunName> = of(&[1, 2, 3]);
        assert_eq!(runs(dir.path(), "nats://other").unwrap(), other);
        std::fs::write(beside(&Cursor::path(dir.path(), URL), EARLIER), "\0\0\0").unwrap();
        assert_eq!(runs(dir.path(), URL).unwrap(), HashSet::new(), "then all is sent");
    }

    #[test]
    fn a_directory_without_a_journal_and_one_with_a_cursor_have_no_earlier_runs() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        assert_eq!(runs(&data_dir, URL).unwrap(), HashSet::new());
        add_run(&data_dir, 1);
        assert_eq!(runs(&data_dir, URL).unwrap(), HashSet::new(), "it was the first start");
        let dir = tempfile::tempdir().unwrap();
        add_run(dir.path(), 1);
        let node = NodeName::parse("n").unwrap();
        let cursor = Cursor::path(dir.path(), URL);
        Cursor::new(URL, node).store(&cursor).unwrap();
        assert_eq!(runs(dir.path(), URL).unwrap(), HashSet::new());
        std::fs::remove_file(&cursor).unwrap();
        assert_eq!(runs(dir.path(), URL).unwrap(), HashSet::new(), "a lost cursor changes nothing");
    }
}
