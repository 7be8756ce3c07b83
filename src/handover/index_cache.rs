//! Indexes of slices that were read before, kept on this machine.
//!
//! ```text
//! DIR/<hash of the URL>/<node>/<run>/<shard>/<first lsn>-<end lsn>.<hash of the tag>
//!     the end of the object: its index, the copy of its header, and its tail
//! ```
//! The store gives a tag to each object, which changes with its bytes. A listing has the tags. So an
//! object that was replaced is read again, and nothing else is. What is in a file is checked as if
//! it had come from the store, so a damaged one does no harm.

#![forbid(unsafe_code)]

use super::sink::{Listed, ObjectSink, SinkError};
use super::slice::{SliceError, SliceIndex};
use std::collections::HashSet;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The indexes of an archive.
#[derive(Debug)]
pub struct IndexCache {
    dir: PathBuf,
    /// Files that belong to objects of this listing.
    used: HashSet<PathBuf>,
}

/// The index of a slice; `None` if the slice is gone.
pub(super) type FoundIndex = Option<Result<SliceIndex, SliceError>>;

impl IndexCache {
    /// For an archive, in a directory for any number of them.
    pub fn new(dir: &Path, url: &str) -> IndexCache {
        IndexCache { dir: dir.join(hash(url)), used: HashSet::new() }
    }

    /// The index of a slice, from here or from the store.
    pub(super) async fn slice_index(
        this: Option<&IndexCache>,
        sink: &ObjectSink,
        listed: &Listed,
    ) -> Result<FoundIndex, SinkError> {
        let path = this.and_then(|cache| cache.path(listed));
        if let Some(path) = &path
            && let Ok(bytes) = std::fs::read(path)
            && let Ok(index) = SliceIndex::decode(&bytes, listed.size)
        {
            return Ok(Some(Ok(index)));
        }
        let Some((bytes, size)) = sink.slice_end(&listed.name).await? else { return Ok(None) };
        let found = SliceIndex::decode(&bytes, size);
        if let (Some(path), Ok(_)) = (&path, &found)
            && size == listed.size
        {
            store(path, &bytes).map_err(|error| {
                SinkError::Usage(format!("cannot keep an index in {}: {error}", path.display()))
            })?;
        }
        Ok(Some(found))
    }

    /// The object was listed: its file stays.
    pub(super) fn keep(&mut self, listed: &Listed) {
        self.used.extend(self.path(listed));
    }

    /// Removes the files of objects that are not in the listing any more; of one node, if only one
    /// was listed.
    pub(super) fn tidy(&self, node: Option<&str>) {
        let mut left = vec![node.map_or(self.dir.clone(), |node| self.dir.join(node))];
        while let Some(dir) = left.pop() {
            // What cannot be removed now takes room until the next run.
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.path() {
                    path if path.is_dir() => left.push(path),
                    path if !self.used.contains(&path) => drop(std::fs::remove_file(path)),
                    _ => {}
                }
            }
        }
    }

    /// `None`: the store gives no tag, so the object may have changed.
    fn path(&self, listed: &Listed) -> Option<PathBuf> {
        let name = listed.name.to_string();
        let below = name.split_once('/').map_or("", |(_, below)| below);
        let tag = hash(listed.tag.as_ref()?);
        Some(self.dir.join(format!("{}.{tag}", below.trim_end_matches(".exo"))))
    }
}

fn hash(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Two commands may write the same file: each writes one of its own first.
fn store(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}", std::process::id()));
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(bytes)?;
    std::fs::rename(&unfinished, path)
}
