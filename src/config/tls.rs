#![forbid(unsafe_code)]
//! `tls.*`: the files of certificates and keys, and what clients must do.

use super::format::Format;
use crate::auth::ClientTenant;
use crate::declare::settings_struct;
use crate::tls::client_auth::ClientAuth;
use crate::tls::load::TlsSettings;
use std::path::PathBuf;

/// The rows of [`TlsChoices`], for the macro that is named first.
macro_rules! tls_settings {
    ($macro:ident! $($head:tt)*) => {
        $macro! {
            $($head)*
            certs: Vec<PathBuf> = Vec::new();
            {
                "tls.cert" flag "tls-cert", FILES,
                "Certificate and chain for wss://, PEM; repeatable: SNI picks one, else the \
                 first; unset: plain ws://"
            }
            keys: Vec<PathBuf> = Vec::new();
            {
                "tls.key" flag "tls-key", FILES,
                "Private key of each `tls.cert`, in the same order: PEM"
            }
            ticket_keys: Option<PathBuf> = None;
            {
                "tls.ticket_keys", PATH,
                "Shared session ticket keys, one base64 key per line, newest first; unset: the \
                 process makes its own"
            }
            client_ca: Option<PathBuf> = None;
            { "tls.client_ca", PATH, "CAs to check client certificates against: PEM" }
            client_auth: ClientAuth = ClientAuth::default();
            {
                "tls.client_auth", CLIENT_AUTH,
                "Whether clients must show a certificate, when `tls.client_ca` is set"
            }
            client_tenant: ClientTenant = ClientTenant::default();
            {
                "tls.client_tenant", CLIENT_TENANT,
                "Name in a client certificate that must equal the `tenant_id`: common name, DNS \
                 name, URI"
            }
        }
    };
}
pub(super) use tls_settings;

tls_settings! { settings_struct!
    /// `tls.*`: the files of certificates and keys, and what clients must do.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct TlsChoices;
}

impl TlsChoices {
    /// Settings for a port that speaks TLS; `None` if it speaks plain HTTP.
    pub(crate) fn settings(&self) -> Option<TlsSettings> {
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
