//! The node under test: its URL, parsed and resolved once.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};

use tungstenite::http::Uri;

/// Where the calls go.
#[derive(Debug, Clone)]
pub struct Target {
    /// First address that the host resolves to; all calls use it.
    pub address: SocketAddr,
    /// The URL as the upgrade request needs it.
    pub uri: Uri,
    /// `Host` header: host, and port where the URL names one.
    pub host: String,
}

/// Why a URL cannot be used.
#[derive(Debug)]
pub enum TargetError {
    /// Not a URL, or without a host.
    Malformed(String),
    /// A scheme other than `ws` and `wss`.
    Scheme(String),
    /// The host has no address.
    Unresolved(String, String),
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(url) => {
                write!(
                    f,
                    "--url '{url}' is no WebSocket URL; give one like ws://127.0.0.1:8443/v1/ingest"
                )
            }
            Self::Scheme(scheme) => {
                write!(
                    f,
                    "--url: the scheme '{scheme}' is not ws or wss; give a URL like \
                     ws://127.0.0.1:8443/v1/ingest"
                )
            }
            Self::Unresolved(host, error) => {
                write!(f, "--url: the host '{host}' has no address ({error}); check its name")
            }
        }
    }
}

impl std::error::Error for TargetError {}

impl Target {
    /// Parses a URL like `ws://host[:port]/path` or `wss://…`, and looks up its host.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let malformed = || TargetError::Malformed(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| malformed())?;
        let port = match uri.scheme_str() {
            Some("ws") => 80,
            Some("wss") => 443,
            Some(scheme) => return Err(TargetError::Scheme(scheme.to_owned())),
            None => return Err(malformed()),
        };
        let authority = uri.authority().ok_or_else(malformed)?;
        let host = authority.as_str().rsplit('@').next().unwrap_or_default().to_owned();
        uri.host().filter(|name| !name.is_empty()).ok_or_else(malformed)?;
        let name = bare_name(&uri);
        let unresolved = |error: String| TargetError::Unresolved(name.to_owned(), error);
        let address = (name, uri.port_u16().unwrap_or(port))
            .to_socket_addrs()
            .map_err(|error| unresolved(error.to_string()))?
            .next()
            .ok_or_else(|| unresolved("no address".to_owned()))?;
        Ok(Self { address, host, uri })
    }

    /// Whether the URL asks for TLS.
    pub fn is_secure(&self) -> bool {
        self.uri.scheme_str() == Some("wss")
    }

    /// The URL's host without its port, and without the brackets of an IPv6 address.
    pub fn name(&self) -> &str {
        bare_name(&self.uri)
    }
}

fn bare_name(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_url_apart() {
        let target = Target::parse("ws://127.0.0.1:8443/v1/ingest").unwrap();
        assert_eq!(target.address, "127.0.0.1:8443".parse().unwrap());
        assert_eq!(target.host, "127.0.0.1:8443");
        assert_eq!(target.uri.path(), "/v1/ingest");
        assert_eq!(Target::parse("ws://127.0.0.1/x").unwrap().address.port(), 80);
        let bracketed = Target::parse("ws://[::1]:9/x").unwrap();
        assert_eq!((bracketed.address, bracketed.name()), ("[::1]:9".parse().unwrap(), "::1"));
        let secure = Target::parse("wss://127.0.0.1/x").unwrap();
        assert_eq!(
            (secure.address.port(), secure.is_secure(), target.is_secure()),
            (443, true, false)
        );
    }

    #[test]
    fn refuses_with_a_remedy() {
        for (url, part) in [
            ("http://localhost/", "not ws"),
            ("https://localhost/", "not ws"),
            ("localhost:8443", "no WebSocket URL"),
            ("", "no WebSocket URL"),
            ("ws://no-such-host.invalid/x", "no address"),
        ] {
            let error = Target::parse(url).unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
    }
}
