#![forbid(unsafe_code)]
//! The key file: read at start, on SIGHUP, and when it changes. A set is taken whole or not at all.
//!
//! It is read by `tokio_uring::fs`, so everything here runs inside the control plane's runtime, and a disk that does not answer
//! holds up nobody else there.

use crate::auth::{KeySet, TokenPolicy, Verifier};
use rustix::fs::FileType;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use tokio_uring::fs::{File, StatxBuilder};

/// Read at once: most key files are smaller.
const READ_SIZE: usize = 16 << 10;

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
    pub async fn open(path: PathBuf, policy: TokenPolicy) -> Result<(KeyFile, Verifier), KeyFileError> {
        let mut file = KeyFile { path, policy, settled: None, changing: None };
        let verifier = file.reload().await?;
        Ok((file, verifier))
    }

    /// Reads the file now.
    pub async fn reload(&mut self) -> Result<Verifier, KeyFileError> {
        // Taken first: whatever is written while we read shows as a change in the next poll.
        self.settled = fingerprint(&self.path).await;
        self.changing = None;
        let text = read(&self.path).await?;
        let keys = KeySet::parse(&text)
            .map_err(|error| KeyFileError::Refused { path: self.path.clone(), reason: error.to_string() })?;
        Ok(Verifier::new(keys, self.policy.clone()))
    }

    /// To be called about once a second: reads the file if it has changed since the last attempt and looked the same in two
    /// polls, so that a file being written in place is not read half. A refused file is tried again when it changes again.
    pub async fn poll(&mut self) -> Option<Result<Verifier, KeyFileError>> {
        let current = fingerprint(&self.path).await;
        if current == self.settled {
            self.changing = None;
            return None;
        }
        if self.changing != Some(current) {
            self.changing = Some(current);
            return None;
        }
        Some(self.reload().await)
    }
}

/// What tells one state of a file from another. A rename over the path changes the inode, writing in place the times; the
/// path is followed through symbolic links, which is how Kubernetes swaps a mounted secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    device: (u32, u32),
    inode: u64,
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
    mode: u32,
}

impl Fingerprint {
    fn is_file(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::RegularFile
    }
}

async fn look(path: &Path) -> io::Result<Fingerprint> {
    let found = StatxBuilder::new().pathname(path)?.statx().await?;
    Ok(Fingerprint {
        device: (found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        size: found.stx_size,
        modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
        changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
        mode: found.stx_mode.into(),
    })
}

async fn fingerprint(path: &Path) -> Option<Fingerprint> {
    look(path).await.ok()
}

async fn read(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    let unreadable = |reason: String| KeyFileError::Unreadable { path: path.to_owned(), reason };
    // Asked before opening: opening a pipe would wait until somebody writes to it. (O_NONBLOCK is no way out: reads of such a
    // file fail on file systems without NOWAIT where they would have to wait for the disk.)
    let found = look(path).await.map_err(|error| unreadable(error.to_string()))?;
    if !found.is_file() {
        return Err(unreadable("it is not a regular file".into()));
    }
    let file = File::open(path).await.map_err(|error| unreadable(error.to_string()))?;
    let read = read_to_end(&file).await;
    // What a close could still say of a file that was read is of no use.
    let _ = file.close().await;
    let text = read.map_err(|error| unreadable(error.to_string()))?;
    match text.len() as u64 > KEY_FILE_SIZE_MAX {
        true => Err(unreadable(format!("it is over {KEY_FILE_SIZE_MAX} bytes"))),
        false => Ok(text),
    }
}

/// All of it, or more than [`KEY_FILE_SIZE_MAX`] bytes of it.
async fn read_to_end(file: &File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut buffer = Vec::with_capacity(READ_SIZE);
    while text.len() as u64 <= KEY_FILE_SIZE_MAX {
        buffer.clear();
        let (size, filled) = file.read_at(buffer, text.len() as u64).await;
        if size? == 0 {
            break;
        }
        text.extend_from_slice(&filled);
        buffer = filled;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::keygen::{KeyBits, generate_into};
    use std::time::Duration;
    use tokio_uring::start;

    fn policy() -> TokenPolicy {
        TokenPolicy { issuer: None, audience: None, leeway: Duration::ZERO }
    }

    #[test]
    fn a_file_is_read_once_it_has_changed_and_holds_still() {
        start(async {
            let directory = tempfile::tempdir().unwrap();
            generate_into(directory.path(), KeyBits::Bits2048).unwrap();
            let path = directory.path().join("public.pem");
            let (mut keys, _) = KeyFile::open(path.clone(), policy()).await.unwrap();
            assert!(keys.poll().await.is_none());

            // By rename.
            std::fs::copy(&path, directory.path().join("next.pem")).unwrap();
            std::fs::rename(directory.path().join("next.pem"), &path).unwrap();
            assert!(keys.poll().await.is_none(), "a change seen once may still be going on");
            assert!(keys.poll().await.unwrap().is_ok());
            assert!(keys.poll().await.is_none());

            // In place, still growing between two polls, and no keys in it.
            let good = std::fs::read(&path).unwrap();
            std::fs::write(&path, b"-----BEGIN").unwrap();
            assert!(keys.poll().await.is_none());
            std::fs::write(&path, b"-----BEGIN PUBLIC KEY-----").unwrap();
            assert!(keys.poll().await.is_none());
            assert!(matches!(keys.poll().await, Some(Err(KeyFileError::Refused { .. }))));
            assert!(keys.poll().await.is_none(), "one refusal is said once");

            // Gone, and back.
            std::fs::remove_file(&path).unwrap();
            assert!(keys.poll().await.is_none());
            assert!(matches!(keys.poll().await, Some(Err(KeyFileError::Unreadable { .. }))));
            assert!(keys.poll().await.is_none());
            std::fs::write(&path, good).unwrap();
            assert!(keys.poll().await.is_none());
            assert!(keys.poll().await.unwrap().is_ok());
        });
    }

    #[test]
    fn a_reload_settles_what_a_poll_has_seen() {
        start(async {
            let directory = tempfile::tempdir().unwrap();
            generate_into(directory.path(), KeyBits::Bits2048).unwrap();
            let path = directory.path().join("public.pem");
            let (mut keys, _) = KeyFile::open(path.clone(), policy()).await.unwrap();
            std::fs::write(&path, b"no keys").unwrap();
            assert!(keys.poll().await.is_none());
            assert!(keys.reload().await.is_err());
            assert!(keys.poll().await.is_none());
        });
    }

    #[test]
    fn what_is_no_regular_file_of_reasonable_size_is_not_read() {
        start(async {
            let directory = tempfile::tempdir().unwrap();
            let big = directory.path().join("big");
            std::fs::File::create(&big).unwrap().set_len(KEY_FILE_SIZE_MAX + 1).unwrap();
            for path in [directory.path().to_owned(), "/dev/zero".into(), "/nonexistent".into(), big] {
                let error = KeyFile::open(path.clone(), policy()).await.unwrap_err();
                assert!(matches!(error, KeyFileError::Unreadable { .. }), "{error}");
                assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            }
        });
    }
}
