#![forbid(unsafe_code)]
//! The key file: read at start, on SIGHUP, and when it changes. A set is taken whole or not at all.

use crate::auth::{KeySet, TokenPolicy, Verifier};
use std::fmt;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Largest key file, bytes: a JWKS with 4096-bit keys for over a thousand tenants.
const KEY_FILE_SIZE_MAX: u64 = 1 << 20;

/// The file that keys come from, and what it looked like when they were last read or refused.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    policy: TokenPolicy,
    /// As of the last attempt; `None`: there was no file.
    settled: Option<Fingerprint>,
    /// A change seen in the last poll, which may still be going on.
    changing: Option<Option<Fingerprint>>,
}

/// Why no keys came out of a file. The text of a key is in none of these.
#[derive(Debug)]
pub enum KeyFileError {
    /// It cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words, or ours.
        reason: String,
    },
    /// It can be read and is no set of keys.
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyFileError::Unreadable { path, reason } => write!(
                f,
                "cannot read the key file {} ({reason}): give --jwt-key a PEM or JWKS file; `exo-ingest keygen` makes one",
                path.display()
            ),
            KeyFileError::Refused { path, reason } => write!(f, "the key file {} is refused: {reason}", path.display()),
        }
    }
}

impl std::error::Error for KeyFileError {}

impl KeyFile {
    /// Reads the keys for the first time.
    pub fn open(path: PathBuf, policy: TokenPolicy) -> Result<(KeyFile, Verifier), KeyFileError> {
        let mut file = KeyFile { path, policy, settled: None, changing: None };
        let verifier = file.reload()?;
        Ok((file, verifier))
    }

    /// Reads the file now.
    pub fn reload(&mut self) -> Result<Verifier, KeyFileError> {
        // Taken first: whatever is written while we read shows as a change in the next poll.
        self.settled = fingerprint(&self.path);
        self.changing = None;
        let text = read(&self.path)?;
        let keys = KeySet::parse(&text)
            .map_err(|error| KeyFileError::Refused { path: self.path.clone(), reason: error.to_string() })?;
        Ok(Verifier::new(keys, self.policy.clone()))
    }

    /// To be called about once a second: reads the file if it has changed since the last attempt and looked the same in two
    /// polls, so that a file being written in place is not read half. A refused file is tried again when it changes again.
    pub fn poll(&mut self) -> Option<Result<Verifier, KeyFileError>> {
        let current = fingerprint(&self.path);
        if current == self.settled {
            self.changing = None;
            return None;
        }
        if self.changing != Some(current) {
            self.changing = Some(current);
            return None;
        }
        Some(self.reload())
    }
}

/// What tells one state of a file from another. A rename over the path changes the inode, writing in place the times; the
/// path is followed through symbolic links, which is how Kubernetes swaps a mounted secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let of = |metadata: Metadata| Fingerprint {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    };
    std::fs::metadata(path).ok().map(of)
}

fn read(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    let unreadable = |reason: String| KeyFileError::Unreadable { path: path.to_owned(), reason };
    // Asked before opening: opening a pipe would block until somebody writes to it.
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    if !metadata.is_file() {
        return Err(unreadable("it is not a regular file".into()));
    }
    let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut text = Vec::new();
    file.take(KEY_FILE_SIZE_MAX + 1).read_to_end(&mut text).map_err(|error| unreadable(error.to_string()))?;
    match text.len() as u64 > KEY_FILE_SIZE_MAX {
        true => Err(unreadable(format!("it is over {KEY_FILE_SIZE_MAX} bytes"))),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::keygen::{KeyBits, generate_into};
    use std::time::Duration;

    fn policy() -> TokenPolicy {
        TokenPolicy { issuer: None, audience: None, leeway: Duration::ZERO }
    }

    #[test]
    fn a_file_is_read_once_it_has_changed_and_holds_still() {
        let directory = tempfile::tempdir().unwrap();
        generate_into(directory.path(), KeyBits::Bits2048).unwrap();
        let path = directory.path().join("public.pem");
        let (mut keys, _) = KeyFile::open(path.clone(), policy()).unwrap();
        assert!(keys.poll().is_none());

        // By rename.
        std::fs::copy(&path, directory.path().join("next.pem")).unwrap();
        std::fs::rename(directory.path().join("next.pem"), &path).unwrap();
        assert!(keys.poll().is_none(), "a change seen once may still be going on");
        assert!(keys.poll().unwrap().is_ok());
        assert!(keys.poll().is_none());

        // In place, still growing between two polls, and no keys in it.
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, b"-----BEGIN").unwrap();
        assert!(keys.poll().is_none());
        std::fs::write(&path, b"-----BEGIN PUBLIC KEY-----").unwrap();
        assert!(keys.poll().is_none());
        assert!(matches!(keys.poll(), Some(Err(KeyFileError::Refused { .. }))));
        assert!(keys.poll().is_none(), "one refusal is said once");

        // Gone, and back.
        std::fs::remove_file(&path).unwrap();
        assert!(keys.poll().is_none());
        assert!(matches!(keys.poll(), Some(Err(KeyFileError::Unreadable { .. }))));
        assert!(keys.poll().is_none());
        std::fs::write(&path, good).unwrap();
        assert!(keys.poll().is_none());
        assert!(keys.poll().unwrap().is_ok());
    }

    #[test]
    fn a_reload_settles_what_a_poll_has_seen() {
        let directory = tempfile::tempdir().unwrap();
        generate_into(directory.path(), KeyBits::Bits2048).unwrap();
        let path = directory.path().join("public.pem");
        let (mut keys, _) = KeyFile::open(path.clone(), policy()).unwrap();
        std::fs::write(&path, b"no keys").unwrap();
        assert!(keys.poll().is_none());
        assert!(keys.reload().is_err());
        assert!(keys.poll().is_none());
    }

    #[test]
    fn what_is_no_regular_file_of_reasonable_size_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let big = directory.path().join("big");
        File::create(&big).unwrap().set_len(KEY_FILE_SIZE_MAX + 1).unwrap();
        for path in [directory.path().to_owned(), "/dev/zero".into(), "/nonexistent".into(), big] {
            let error = KeyFile::open(path.clone(), policy()).unwrap_err();
            assert!(matches!(error, KeyFileError::Unreadable { .. }), "{error}");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
    }
}
