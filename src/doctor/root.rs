//! Where `/proc` and `/sys` are read: below `/`, or below a directory that a test has filled.

use crate::io::cgroup::{Directory, directories};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The tree that facts are read from.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    directory: PathBuf,
    is_live: bool,
}

impl Root {
    /// This machine.
    pub(crate) fn live() -> Root {
        Root { directory: "/".into(), is_live: true }
    }

    /// A copy of a machine's files. The kernel is asked nothing, because it is not that machine's.
    pub(crate) fn copy(directory: &Path) -> Root {
        Root { directory: directory.to_owned(), is_live: false }
    }

    /// Whether the kernel may be asked too.
    pub(crate) fn is_live(&self) -> bool {
        self.is_live
    }

    /// The path of a file of the tree, such as `proc/mounts`.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name.trim_start_matches('/'))
    }

    /// The text of a file, without white space around it. `None` if it cannot be read.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        read(&self.path(name))
    }

    /// A file that holds one number.
    pub(super) fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    /// Names in a directory, in order: numbers by value (`cpu2` before `cpu10`).
    pub(super) fn names(&self, directory: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(directory)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into()).collect();
        names.sort_by_key(|name| (number_at_end(name), name.clone()));
        names
    }

    /// The files with this name in the cgroups of this process, with their texts: innermost first.
    /// `second` is the name in version 2, `first` that in version 1; either may be empty.
    pub(super) fn cgroup_values(
        &self,
        controller: &str,
        second: &str,
        first: &str,
    ) -> Vec<(String, String)> {
        let memberships = self.text("proc/self/cgroup").unwrap_or_default();
        let found = directories(&memberships, &self.path("sys/fs/cgroup"), controller);
        let texts = found.into_iter().filter_map(|Directory { path, is_second }| {
            let name = if is_second { second } else { first };
            let file = path.join(name);
            let text = if name.is_empty() { None } else { read(&file) };
            Some((file.display().to_string(), text?))
        });
        texts.collect()
    }
}

/// The text of a file, without white space around it.
pub(super) fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// 12 for `cpu12`; nothing for a name without digits at its end.
pub(super) fn number_at_end(name: &str) -> Option<usize> {
    let start = name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name[start..].parse().ok()
}

/// The word in brackets of `always [madvise] never`.
pub(super) fn chosen(text: &str) -> Option<&str> {
    Some(text.split_once('[')?.1.split_once(']')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_read_like_the_machine() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["cpu10", "cpu2", "online"] {
            std::fs::write(directory.path().join(name), " 7\n").unwrap();
        }
        let root = Root::copy(directory.path());
        assert!(!root.is_live() && Root::live().is_live());
        assert_eq!(root.names(""), ["online", "cpu2", "cpu10"]);
        assert_eq!(root.number::<u64>("/cpu2"), Some(7));
        assert_eq!((root.text("none"), root.names("none").len()), (None, 0));
        assert_eq!(chosen("always [madvise] never"), Some("madvise"));
        assert_eq!((chosen("none"), number_at_end("rx-3")), (None, Some(3)));
    }
}
