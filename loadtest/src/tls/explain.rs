//! Errors of TLS in a sentence: what is wrong, and what to do.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::Trust;
use crate::target::Target;

/// What to try where the answer is not TLS.
const MAYBE_PLAIN: &str = "is it a port without TLS? Its URL is ws://";

/// Why a handshake before the run failed.
pub fn refusal(error: &io::Error, target: &Target, trust: Trust) -> String {
    let address = &target.host;
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("{address} does not finish a TLS handshake in time; {MAYBE_PLAIN}")
            }
            _ => format!("{address} ends the TLS handshake ({error}); {MAYBE_PLAIN}"),
        };
    };
    // BadSignature comes from a new CA with the name of an old one.
    if let Error::InvalidCertificate(
        CertificateError::UnknownIssuer | CertificateError::BadSignature,
    ) = cause
    {
        return match trust {
            Trust::Ca => {
                format!(
                    "the certificate of {address} comes from none of the CAs in --ca; give the CA \
                     that has signed it"
                )
            }
            _ => format!(
                "the certificate of {address} comes from a CA that this system does not trust; \
                 give the CA's certificate with --ca FILE"
            ),
        };
    }
    format!("{address}: {}", explain(cause))
}

/// What an error of rustls means.
pub fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(fault) => certificate(fault),
        Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "the node speaks none of the TLS versions offered (see --tls-versions)".to_owned()
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the node requires a client certificate (give --client-cert and \
             --client-key)"
                .to_owned()
        }
        Error::AlertReceived(
            alert @ (AlertDescription::UnknownCA | AlertDescription::BadCertificate),
        ) => {
            format!(
                "the node does not accept our client certificate ({alert:?}; see \
                     --client-cert)"
            )
        }
        Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "the node has no certificate for this name (see --tls-name)".to_owned()
        }
        Error::AlertReceived(alert) => format!("the node ended TLS with the alert {alert:?}"),
        Error::InvalidMessage(fault) => {
            format!("the node's answer is not TLS ({fault:?}); {MAYBE_PLAIN}")
        }
        other => format!("TLS failed: {other}"),
    }
}

fn certificate(fault: &CertificateError) -> String {
    match fault {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the node's certificate comes from a CA that is not trusted (give the CA's with --ca)"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "the node's certificate is for another name ({fault}); give its name in the URL or \
                 with --tls-name"
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the node's certificate has expired ({fault})")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!(
                "the node's certificate is not valid yet ({fault}); is this machine's clock right?"
            )
        }
        other => format!("the node's certificate is not accepted: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_ca_is_answered_with_the_flag_that_helps() {
        let target = Target::parse("wss://127.0.0.1:8443/v1/ingest").unwrap();
        let unknown =
            || io::Error::other(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        let refused = refusal(&unknown(), &target, Trust::System);
        assert!(refused.contains("127.0.0.1:8443") && refused.contains("--ca FILE"), "{refused}");
        assert!(refusal(&unknown(), &target, Trust::Ca).contains("none of the CAs in --ca"));
        let remade = io::Error::other(Error::InvalidCertificate(CertificateError::BadSignature));
        assert!(refusal(&remade, &target, Trust::Ca).contains("none of the CAs in --ca"));
        let plain = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert!(refusal(&plain, &target, Trust::System).contains("ws://"));
    }

    #[test]
    fn each_mistake_names_its_flag() {
        for (error, flag) in [
            (Error::AlertReceived(AlertDescription::ProtocolVersion), "--tls-versions"),
            (Error::AlertReceived(AlertDescription::CertificateRequired), "--client-cert"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "--client-cert"),
            (Error::AlertReceived(AlertDescription::UnrecognisedName), "--tls-name"),
            (Error::InvalidCertificate(CertificateError::NotValidForName), "--tls-name"),
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), "--ca"),
        ] {
            assert!(explain(&error).contains(flag), "{error}");
        }
    }
}
