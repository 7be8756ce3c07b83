#![forbid(unsafe_code)]
//! The files of TLS: certificates, keys, ticket keys, CAs of clients. They are read at start, on
//! SIGHUP, and when one of them changes. All must be valid, or none is taken.

use super::watched::{self, Unreadable, WatchedFiles};
use crate::tls::load::{Loaded, TlsError, TlsLoader, TlsSettings, TlsTexts};
use std::fmt;
use std::path::PathBuf;

/// Largest file, bytes. A chain has a few KiB, a bundle of CAs a few hundred.
const FILE_SIZE_MAX: u64 = 1 << 20;

/// The files of a TLS configuration.
#[derive(Debug)]
pub(crate) struct TlsFiles {
    loader: TlsLoader,
    watched: WatchedFiles,
}

/// Why the files gave no configuration. No variant contains the text of a key.
#[derive(Debug)]
pub enum TlsFileError {
    /// One of them cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason, as the system or this program names it.
        reason: String,
        /// Whether another attempt may succeed without any change.
        may_pass: bool,
    },
    /// All can be read, but they are not a valid configuration.
    Refused(TlsError),
}

impl TlsFileError {
    /// Whether another attempt may succeed without a change of a file or its path.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, TlsFileError::Unreadable { may_pass: true, .. })
    }
}

impl fmt::Display for TlsFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsFileError::Unreadable { path, reason, .. } => write!(
                f,
                "cannot read {} ({reason}): check the paths of tls.cert, tls.key, tls.ticket_keys \
                 and tls.client_ca",
                path.display()
            ),
            TlsFileError::Refused(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TlsFileError {}

impl TlsFiles {
    /// Reads them for the first time.
    pub(crate) async fn open(settings: TlsSettings) -> Result<(TlsFiles, Loaded), TlsFileError> {
        let watched = WatchedFiles::new(settings.files());
        let mut files =
            TlsFiles { loader: TlsLoader::new(settings).map_err(TlsFileError::Refused)?, watched };
        let loaded = files.reload().await?;
        Ok((files, loaded))
    }

    /// Reads them now.
    pub(crate) async fn reload(&mut self) -> Result<Loaded, TlsFileError> {
        self.watched.settle().await;
        let secrets = self.loader.settings().secret_files();
        let (mut texts, mut warnings) = (Vec::new(), Vec::new());
        for path in self.watched.paths() {
            let file = watched::read(path, FILE_SIZE_MAX).await.map_err(
                |Unreadable { reason, may_pass }| TlsFileError::Unreadable {
                    path: path.clone(),
                    reason,
                    may_pass,
                },
            )?;
            if file.is_world_readable && secrets.contains(&path) {
                warnings.push(format!(
                    "every user of this machine can read {}: run `chmod o-r` on it",
                    path.display()
                ));
            }
            texts.push(file.text);
        }
        let missing = || TlsFileError::Refused(TlsError::Other("a file is missing".into()));
        let texts = TlsTexts::from_files(self.loader.settings(), texts).ok_or_else(missing)?;
        let mut loaded = self.loader.load(&texts).map_err(TlsFileError::Refused)?;
        loaded.warnings.extend(warnings);
        Ok(loaded)
    }

    /// Call it about once a second. Reads the files if one has changed since the last attempt and
    /// all were the same in two polls. Refused files are tried again when one changes again.
    pub(crate) async fn poll(&mut self) -> Option<Result<Loaded, TlsFileError>> {
        match self.watched.have_changed().await {
            true => Some(self.reload().await),
            false => None,
        }
    }
}

#[cfg(test)]
mod tests;
