//! A journal with many slices, and the commands on it.

use crate::EXO_INGEST;
use exo_ingest::archive::image::{self, Image};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// Calls in the journal.
pub(crate) const CALLS: [&str; 3] = ["acme/call-0", "acme/call-1", "b%2Fc/call 2"];

pub(crate) struct Journal {
    dir: TempDir,
    pub(crate) shard_dir: PathBuf,
    /// Numbers of its segments.
    pub(crate) segments: u64,
}

impl Journal {
    /// Three calls through `minutes` minutes, a slice for each, in several segments.
    pub(crate) fn new(minutes: u32) -> Journal {
        Journal::change(minutes, |_| {})
    }

    /// The same, changed before it is stored.
    pub(crate) fn change(minutes: u32, change: impl FnOnce(&mut Image)) -> Journal {
        let dir = tempfile::tempdir().unwrap();
        let mut image = Image::new(image::run(1), 0, 128 * 1024).unwrap();
        let ids = [("acme", "call-0"), ("acme", "call-1"), ("b/c", "call 2")];
        let calls = ids.map(|(tenant, interaction)| image.start(tenant, interaction, 8_000));
        for minute in 0..minutes {
            for frame in 0..5u32 {
                for (at, call) in calls.iter().enumerate() {
                    image.pass(20_000);
                    let value = (minute * 15 + frame * 3 + at as u32) as u8;
                    image.frame(*call, &vec![value; 1_600]);
                }
            }
            image.seal();
            image.pass(60_000_000);
        }
        calls.iter().for_each(|call| image.end(*call, 1));
        image.seal();
        change(&mut image);
        let shard_dir = image.store(&dir.path().join("data")).unwrap();
        Journal { shard_dir, segments: image.segments().len() as u64, dir }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A path beside the data directory.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory as an archive.
    pub(crate) fn archive(&self) -> String {
        format!("file://{}", self.beside("archive").display())
    }

    /// The command that ships it, with one node's name.
    pub(crate) fn ship(&self, to: &str, args: &[&str]) -> Command {
        let mut command = Command::new(EXO_INGEST);
        command.env_clear().args(["ship", "--node", "node-1", "--json", "--to", to]);
        command.arg("--data-dir").arg(self.data()).args(args);
        command
    }

    /// Removes the cursors.
    pub(crate) fn forget(&self) {
        std::fs::remove_dir_all(self.data().join("sinks")).unwrap();
    }

    /// The WAV file that `calls export` makes of a call.
    pub(crate) fn wav(&self, call: &str) -> Vec<u8> {
        let data = self.data();
        let mut command = Command::new(EXO_INGEST);
        command.env_clear().args(["calls", "export", call, "-o", "-", "--data-dir"]).arg(data);
        command.output().unwrap().stdout
    }
}

/// A command on an archive.
pub(crate) fn archive(from: &str, args: &[&str]) -> Command {
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().arg("archive").args(args).args(["--from", from]);
    command
}

/// Runs a command, and checks its exit code.
#[track_caller]
pub(crate) fn run(command: &mut Command, code: i32) -> Output {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {errors}");
    output
}

/// The document that a command prints.
#[track_caller]
pub(crate) fn json(command: &mut Command, code: i32) -> Value {
    serde_json::from_slice(&run(command, code).stdout).unwrap()
}

/// The files below a directory, sorted.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => left.push(path),
                path => found.push(path),
            }
        }
    }
    found.sort();
    found
}

/// The slices below a directory, sorted.
pub(crate) fn slices(dir: &Path) -> Vec<PathBuf> {
    let is_slice = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "exo");
    files(dir).into_iter().filter(is_slice).collect()
}
