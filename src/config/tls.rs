#![forbid(unsafe_code)]
//! `tls.*`: the files of certificates and keys, and what clients must do.

use super::format::Format;
use crate::auth::ClientTenant;
use crate::tls::client_auth::ClientAuth;
use crate::tls::load::TlsSettings;
use std::path::PathBuf;

/// The settings below `tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsChoices {
    /// `tls.cert`: if empty, the port is plain.
    pub certs: Vec<PathBuf>,
    /// `tls.key`: as many as certificates, in the same order.
    pub keys: Vec<PathBuf>,
    /// `tls.ticket_keys`.
    pub ticket_keys: Option<PathBuf>,
    /// `tls.client_ca`.
    pub client_ca: Option<PathBuf>,
    /// `tls.client_auth`.
    pub client_auth: ClientAuth,
    /// `tls.client_tenant`.
    pub client_tenant: ClientTenant,
}

impl TlsChoices {
    /// Settings for a port that speaks TLS; `None` if it speaks plain HTTP.
    pub fn settings(&self) -> Option<TlsSettings> {
        let identities: Vec<_> =
            self.certs.iter().cloned().zip(self.keys.iter().cloned()).collect();
        (!identities.is_empty()).then(|| TlsSettings {
            identities,
            ticket_keys: self.ticket_keys.clone(),
            client_ca: self.client_ca.clone(),
            client_auth: self.client_auth,
        })
    }
}

/// Paths separated by commas; a flag of this format may be repeated.
pub(super) const FILES: Format<Vec<PathBuf>> = Format {
    shape: "FILE[,FILE]",
    parse: |text| {
        let files: Vec<PathBuf> = text.split(',').map(|path| path.trim().into()).collect();
        match files.iter().any(|path: &PathBuf| path.as_os_str().is_empty()) {
            true => Err("write the path of a file, or several paths separated by commas".into()),
            false => Ok(files),
        }
    },
    show: |files| {
        let files: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
        (!files.is_empty()).then(|| files.join(","))
    },
};
