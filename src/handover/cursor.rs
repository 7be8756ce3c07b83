//! How far each shard of a data directory has reached a store: a file next to the journal.
//!
//! ```text
//! exo-ingest sink 1
//! url s3://recordings/exo
//! node edge-7
//! 00000000104f2000 run-3-1796000000000000-4711 0     the archive has everything before this lsn
//! 0000000000000000 run-3-1796000000000000-4711 1     of shard 1 nothing yet
//! crc32c 9f03b1aa                                    over the bytes of the lines before
//! ```
//! It is written after the store has acknowledged, and never before. Losing it costs requests: the
//! store is asked what it has. So it is not made durable.

#![forbid(unsafe_code)]

use super::secrets::hide_in_url;
use super::slice::NodeName;
use crate::archive::layout::RunName;
use crate::archive::reader::JournalError;
use crate::format::Lsn;
use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Its first line. The number is that of the format.
const TITLE: &str = "exo-ingest sink 1";

/// Directory of cursors in a data directory.
const DIRECTORY: &str = "sinks";

/// End of the name of a file that names runs from before an engine was first used.
pub(crate) const EARLIER: &str = "earlier";

/// A shard of a run.
pub type ShardName = (RunName, u16);

/// Positions before which the archive has everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    url: String,
    node: NodeName,
    positions: BTreeMap<ShardName, Lsn>,
}

impl Cursor {
    /// For an archive that has nothing.
    pub fn new(url: &str, node: NodeName) -> Cursor {
        Cursor { url: hide_in_url(url), node, positions: BTreeMap::new() }
    }

    /// The file of an archive in a data directory. Another URL has another file.
    pub fn path(data_dir: &Path, url: &str) -> PathBuf {
        // A password is in no file name, and may change.
        let url = hide_in_url(url);
        let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '.';
        let name: String =
            url.chars().map(|letter| if plain(letter) { letter } else { '-' }).take(80).collect();
        let crc = crc32c::crc32c(url.as_bytes());
        data_dir.join(DIRECTORY).join(format!("{}-{crc:08x}", name.trim_start_matches('.')))
    }

    /// The sink's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The node's name in it.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// The position of a shard, if one is known.
    pub fn position(&self, shard: &ShardName) -> Option<Lsn> {
        self.positions.get(shard).copied()
    }

    /// Moves a shard's position, but never back.
    pub fn advance(&mut self, shard: ShardName, to: Lsn) {
        let position = self.positions.entry(shard).or_default();
        *position = to.max(*position);
    }

    /// Takes over what another process has written of these shards, where that is further.
    pub(crate) fn merge(&mut self, other: &Cursor, of: impl Fn(&ShardName) -> bool) {
        let positions = other.positions.iter().filter(|(shard, _)| of(shard));
        positions.for_each(|(shard, to)| self.advance(*shard, *to));
    }

    /// Forgets shards that are not in the data directory any more.
    pub fn keep(&mut self, is_there: impl Fn(&ShardName) -> bool) {
        self.positions.retain(|shard, _| is_there(shard));
    }

    /// The cursor in a file. `None` if there is none, if it is damaged, or if it is that of another
    /// archive or node.
    pub fn load(path: &Path, url: &str, node: &NodeName) -> io::Result<Option<Cursor>> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let found = Cursor::decode(&text);
                let url = hide_in_url(url);
                Ok(found.filter(|cursor| cursor.url == url && cursor.node == *node))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file. A reader sees the old or the new text.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        // Not synced: a lost cursor means only that more is sent again.
        replace(path, &self.encode(), false)
    }

    fn encode(&self) -> String {
        let mut text = format!("{TITLE}\nurl {}\nnode {}\n", self.url, self.node);
        for ((run, shard), lsn) in &self.positions {
            text.push_str(&format!("{:016x} {run} {shard}\n", lsn.0));
        }
        let crc = crc32c::crc32c(text.as_bytes());
        text + &format!("crc32c {crc:08x}\n")
    }

    fn decode(text: &str) -> Option<Cursor> {
        let (body, crc) = text.strip_suffix('\n')?.rsplit_once("crc32c ")?;
        if u32::from_str_radix(crc, 16).ok()? != crc32c::crc32c(body.as_bytes()) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != TITLE {
            return None;
        }
        let url = lines.next()?.strip_prefix("url ")?;
        let node = NodeName::parse(lines.next()?.strip_prefix("node ")?).ok()?;
        let mut cursor = Cursor::new(url, node);
        for line in lines {
            let mut words = line.split(' ');
            let lsn = Lsn(u64::from_str_radix(words.next()?, 16).ok()?);
            let shard = (RunName::parse(words.next()?)?, words.next()?.parse().ok()?);
            cursor.positions.insert(shard, lsn);
        }
        Some(cursor)
    }
}

/// Replaces a file, and makes its directory if needed. A reader sees the old or the new text. With
/// `is_synced` the new text is on disk first.
pub(crate) fn replace(path: &Path, text: &str, is_synced: bool) -> io::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let next = beside(path, "next");
    // A killed process may have left it, or a user a link.
    match std::fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = std::fs::File::options();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&next)?;
    file.write_all(text.as_bytes())?;
    if is_synced {
        file.sync_all()?;
    }
    std::fs::rename(&next, path)
}

/// The name of a file beside a cursor. Cursors have dots in their names, so replacing what follows
/// the last one would give two of them one file.
pub(crate) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

/// The cursors in a data directory; `None` for one that is damaged.
pub(super) fn list(data_dir: &Path) -> Result<Vec<(PathBuf, Option<Cursor>)>, JournalError> {
    let dir = data_dir.join(DIRECTORY);
    let at = |error| JournalError { path: dir.clone(), error };
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(at)?.path();
        let is_other = ["next", EARLIER]
            .iter()
            .any(|other| path.extension().is_some_and(|ending| ending == *other));
        if !path.is_file() || is_other {
            continue;
        }
        let bytes = std::fs::read(&path).map_err(at)?;
        let cursor = str::from_utf8(&bytes).ok().and_then(Cursor::decode);
        found.push((path, cursor));
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::image;

    #[test]
    fn each_cursor_is_written_by_way_of_a_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let urls = ["nats://127.0.0.1:4222", "nats://127.0.0.1:4223"];
        let [one, other] = urls.map(|url| beside(&Cursor::path(dir.path(), url), "next"));
        assert_ne!(one, other);
        std::fs::create_dir_all(one.parent().unwrap()).unwrap();
        std::fs::write(one, "half of it").unwrap();
        assert!(list(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_for_its_archive_only() {
        let (dir, node) = (tempfile::tempdir().unwrap(), NodeName::parse("node-1").unwrap());
        let url = "s3://bucket/some/where";
        let path = Cursor::path(dir.path(), url);
        assert_ne!(path, Cursor::path(dir.path(), "s3://bucket/some-where"));
        assert_eq!(Cursor::load(&path, url, &node).unwrap(), None);
        let mut cursor = Cursor::new(url, node.clone());
        cursor.advance((image::run(1), 0), Lsn(0x5000));
        cursor.advance((image::run(1), 0), Lsn(0x4000));
        cursor.advance((image::run(2), 7), Lsn(9));
        cursor.store(&path).unwrap();
        cursor.store(&path).unwrap();
        assert_eq!(Cursor::load(&path, url, &node).unwrap().as_ref(), Some(&cursor));
        assert_eq!(cursor.position(&(image::run(1), 0)), Some(Lsn(0x5000)), "never back");
        assert_eq!(Cursor::load(&path, "s3://bucket/other", &node).unwrap(), None);
        assert_eq!(Cursor::load(&path, url, &NodeName::parse("x").unwrap()).unwrap(), None);
        let secret = Cursor::path(dir.path(), "nats://u:pass@h");
        assert!(!secret.display().to_string().contains("pass"));
        assert!(!Cursor::new("nats://u:pass@h", node.clone()).encode().contains("pass"));
        assert_eq!(secret, Cursor::path(dir.path(), "nats://u:another@h"));
        let mut other = Cursor::new(url, node.clone());
        [1, 2].into_iter().for_each(|run| other.advance((image::run(run), 0), Lsn(0x9000)));
        let mut merged = cursor.clone();
        merged.merge(&other, |(run, _)| *run == image::run(2));
        assert_eq!(merged.position(&(image::run(1), 0)), Some(Lsn(0x5000)), "not asked for");
        assert_eq!(merged.position(&(image::run(2), 0)), Some(Lsn(0x9000)));
        assert_eq!(merged.position(&(image::run(2), 7)), Some(Lsn(9)), "never back");
        let text = cursor.encode();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'7' { b'8' } else { b'7' };
            let text = String::from_utf8(bytes).unwrap();
            let found = Cursor::decode(&text);
            assert!(found.is_none() || found.as_ref() == Some(&cursor), "byte {at}");
        }
    }
}
