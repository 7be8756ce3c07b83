//! Flags of `wss://`: which CAs to trust, which versions to offer.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TlsVersion {
    /// TLS 1.2
    #[value(name = "1.2")]
    V12,
    /// TLS 1.3
    #[value(name = "1.3")]
    V13,
}

/// The flags, for every command that connects.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "TLS, for wss:// URLs")]
pub struct TlsArgs {
    /// Certificates of the CAs to trust (PEM) [default: those of the system]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Do not check the node's certificate: an impostor could then take the tokens. The result says
    /// so
    #[arg(long, conflicts_with = "ca")]
    pub insecure: bool,
    /// Offer only these versions: 1.2, or 1.3 [default: both]
    #[arg(long, value_name = "VERSION", value_delimiter = ',')]
    pub tls_versions: Vec<TlsVersion>,
    /// When a call connects again, use a ticket of the node. This saves both sides the signature
    /// and the certificate. Without this flag every handshake is a full one
    #[arg(long)]
    pub tls_resume: bool,
    /// Name in the node's certificate, and in SNI [default: the host of the URL]
    #[arg(long, value_name = "NAME")]
    pub tls_name: Option<String>,
    /// Certificate chain (PEM) to show to a node that asks for one (mTLS)
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// Private key of --client-cert (PEM)
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
}

impl TlsArgs {
    /// The first of these flags that was given. With a `ws://` URL it is a mistake.
    pub fn first_given(&self) -> Option<&'static str> {
        let given = [
            (self.ca.is_some(), "--ca"),
            (self.insecure, "--insecure"),
            (!self.tls_versions.is_empty(), "--tls-versions"),
            (self.tls_resume, "--tls-resume"),
            (self.tls_name.is_some(), "--tls-name"),
            (self.client_cert.is_some(), "--client-cert"),
        ];
        given.into_iter().find(|(is_given, _)| *is_given).map(|(_, flag)| flag)
    }
}
