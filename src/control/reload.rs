#![forbid(unsafe_code)]
//! The key file: read at start, on SIGHUP, and when it changes. A set of keys is taken whole or not
//! at all.

use super::watched::{self, WatchedFiles};
use crate::auth::{KeySet, TokenPolicy, Verifier};
use std::fmt;
use std::path::{Path, PathBuf};

/// Largest key file, bytes: a JWKS with 4096-bit keys for over a thousand tenants.
const KEY_FILE_SIZE_MAX: u64 = 1 << 20;

/// The key file, and its state when it was last read or refused.
#[derive(Debug)]
pub(crate) struct KeyFile {
    path: PathBuf,
    policy: TokenPolicy,
    watched: WatchedFiles,
}

/// Why a file gave no keys. No variant contains the text of a key.
#[derive(Debug)]
pub enum KeyFileError {
    /// It cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason, as the system or this program names it.
        reason: String,
        /// Whether another attempt may succeed without any change.
        may_pass: bool,
    },
    /// It can be read, but is not a set of keys.
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
            KeyFileError::Unreadable { path, reason, .. } => write!(
                f,
                "cannot read the key file {} ({reason}): give --jwt-key a PEM or JWKS file; \
                 `exo-ingest keygen` makes one",
                path.display()
            ),
            KeyFileError::Refused { path, reason } => {
                write!(f, "the key file {} is refused: {reason}", path.display())
            }
        }
    }
}

impl std::error::Error for KeyFileError {}

impl KeyFileError {
    /// Whether another attempt may succeed without a change of the file or its path.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, KeyFileError::Unreadable { may_pass: true, .. })
    }
}

impl KeyFile {
    /// Reads the keys for the first time.
    pub(crate) async fn open(
        path: PathBuf,
        policy: TokenPolicy,
    ) -> Result<(KeyFile, Verifier), KeyFileError> {
        let watched = WatchedFiles::new(vec![path.clone()]);
        let mut file = KeyFile { path, policy, watched };
        let verifier = file.reload().await?;
        Ok((file, verifier))
    }

    /// Reads the file now.
    pub(crate) async fn reload(&mut self) -> Result<Verifier, KeyFileError> {
        self.watched.settle().await;
        let text = read(&self.path).await?;
        let keys = KeySet::parse(&text).map_err(|error| KeyFileError::Refused {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        Ok(Verifier::new(keys, self.policy.clone()))
    }

    /// Call it about once a second. Reads the file if it has changed since the last attempt and was
    /// the same in two polls. So a file that is being written in place is not read half. A refused
    /// file is tried again when it changes again.
    pub(crate) async fn poll(&mut self) -> Option<Result<Verifier, KeyFileError>> {
        match self.watched.have_changed().await {
            true => Some(self.reload().await),
            false => None,
        }
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    let unreadable = |watched::Unreadable { reason, may_pass }| KeyFileError::Unreadable {
        path: path.to_owned(),
        reason,
        may_pass,
    };
    watched::read(path, KEY_FILE_SIZE_MAX).await.map(|file| file.text).map_err(unreadable)
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

            // A change by rename.
            std::fs::copy(&path, directory.path().join("next.pem")).unwrap();
            std::fs::rename(directory.path().join("next.pem"), &path).unwrap();
            assert!(keys.poll().await.is_none(), "a change seen once may still continue");
            assert!(keys.poll().await.unwrap().is_ok());
            assert!(keys.poll().await.is_none());

            // A change in place, still growing between two polls, and without keys.
            let good = std::fs::read(&path).unwrap();
            std::fs::write(&path, b"-----BEGIN").unwrap();
            assert!(keys.poll().await.is_none());
            std::fs::write(&path, b"-----BEGIN PUBLIC KEY-----").unwrap();
            assert!(keys.poll().await.is_none());
            assert!(matches!(keys.poll().await, Some(Err(KeyFileError::Refused { .. }))));
            assert!(keys.poll().await.is_none(), "a refusal is reported once");

            // The file goes and returns.
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
    fn only_a_regular_file_of_reasonable_size_is_read() {
        start(async {
            let directory = tempfile::tempdir().unwrap();
            let big = directory.path().join("big");
            std::fs::File::create(&big).unwrap().set_len(KEY_FILE_SIZE_MAX + 1).unwrap();
            for path in
                [directory.path().to_owned(), "/dev/zero".into(), "/nonexistent".into(), big]
            {
                let error = KeyFile::open(path.clone(), policy()).await.unwrap_err();
                assert!(matches!(error, KeyFileError::Unreadable { .. }), "{error}");
                assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            }
        });
    }
}
