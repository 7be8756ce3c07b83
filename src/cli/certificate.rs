#![forbid(unsafe_code)]
//! The certificate of `dev --tls`: a CA and a certificate for this machine's own names, made on
//! first use.
//!
//! The private key of the CA is never written. A user may have told a browser to trust the CA, and
//! then it must not sign anything else. So CA and certificate are always made together.

use super::Failure;
use crate::tls::certificate::Certificate;
use exo_output::{PRIVATE, PUBLIC};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The names and addresses by which clients on this machine reach a node.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// How long the certificate is valid, days. Some clients refuse one that is valid for more than
/// 398.
const VALID_DAYS: u64 = 365;

/// With fewer days left, it is made again.
const RENEWED_DAYS: u64 = 7;

const DAY_SECS: u64 = 24 * 60 * 60;

/// Paths of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CertificateFiles {
    /// The certificate that clients are told to trust.
    pub(crate) ca: PathBuf,
    /// The node's own certificate, followed by the CA's.
    pub(crate) certificate: PathBuf,
    /// PKCS#8, mode 0600.
    pub(crate) key: PathBuf,
}

impl CertificateFiles {
    /// The files in `directory`, whether they exist or not.
    pub(crate) fn in_dir(directory: &Path) -> CertificateFiles {
        CertificateFiles {
            ca: directory.join("tls-ca.pem"),
            certificate: directory.join("tls-cert.pem"),
            key: directory.join("tls-key.pem"),
        }
    }

    fn paths(&self) -> [&Path; 3] {
        [&self.ca, &self.certificate, &self.key]
    }

    /// Makes the files in their directory, which exists, unless they are there and valid for some
    /// days more. Returns whether it made them.
    pub(crate) fn make(&self) -> Result<bool, Failure> {
        if self.is_good(now_secs()) {
            return Ok(false);
        }
        let failed = |error: rcgen::Error| {
            Failure::Run(format!("no certificate was made ({error}): try again"))
        };
        let texts = generate(now_secs()).map_err(failed)?;
        for (path, (text, mode)) in self.paths().into_iter().zip(texts) {
            replace(path, &text, mode).map_err(|error| {
                Failure::Run(format!("cannot write {}: {error}", path.display()))
            })?;
        }
        Ok(true)
    }

    fn is_good(&self, now: u64) -> bool {
        let said = std::fs::read(&self.certificate).ok().and_then(|text| {
            let block = pem::parse(text).ok()?;
            Certificate::parse(block.contents())
        });
        let is_valid = said.is_some_and(|said| said.not_after > now + RENEWED_DAYS * DAY_SECS);
        is_valid && self.paths().into_iter().all(Path::exists)
    }
}

/// CA, chain, key: texts, and the modes of their files.
fn generate(now: u64) -> Result<[(String, u32); 3], rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = name("exo-ingest dev CA");
    set_dates(&mut params, now);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
    params.distinguished_name = name("localhost");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    set_dates(&mut params, now);
    let certificate = params.signed_by(&key, &authority)?;
    let ca = pem("CERTIFICATE", authority.der().to_vec());
    let chain = pem("CERTIFICATE", certificate.der().to_vec()) + &ca;
    Ok([(ca, PUBLIC), (chain, PUBLIC), (pem("PRIVATE KEY", key.serialize_der()), PRIVATE)])
}

fn pem(label: &str, der: Vec<u8>) -> String {
    pem::encode(&pem::Pem::new(label, der))
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Valid from yesterday on, because the clock of a phone or a container on this machine may be
/// slow.
fn set_dates(params: &mut CertificateParams, now: u64) {
    let epoch = date_time_ymd(1970, 1, 1);
    let at = |secs: u64| epoch + std::time::Duration::from_secs(secs);
    params.not_before = at(now.saturating_sub(DAY_SECS));
    params.not_after = at(now + VALID_DAYS * DAY_SECS);
}

/// Complete or not at all. The old files are ours, and out of date.
fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    exo_output::write_new(path, text.as_bytes(), mode)
}

fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// How clients on this machine can trust the CA: for each a name, and a command to paste that asks
/// for `/health`. `ca` is quoted for a shell.
pub(super) fn trust(ca: &str, address: std::net::SocketAddr) -> [(&'static str, String); 3] {
    let url = format!("https://{address}/health");
    [
        ("curl", format!("curl --cacert {ca} {url}")),
        (
            "Node",
            format!(
                "NODE_EXTRA_CA_CERTS={ca} node -e 'require(\"https\").get(\"{url}\", answer => \
                 answer.pipe(process.stdout))'"
            ),
        ),
        (
            "Python",
            format!(
                "SSL_CERT_FILE={ca} python3 -c 'import urllib.request as r; \
                 print(r.urlopen(\"{url}\").read().decode())'"
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::identity::Identity;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_made_once_and_again_before_it_expires() {
        let directory = tempfile::tempdir().unwrap();
        let files = CertificateFiles::in_dir(directory.path());
        assert!(files.make().unwrap());
        let read = |path: &Path| std::fs::read(path).unwrap();
        let before = files.paths().map(read);
        assert!(!files.make().unwrap());
        assert_eq!(files.paths().map(read), before);
        let mode = std::fs::metadata(&files.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let left = VALID_DAYS - RENEWED_DAYS;
        assert!(
            files.is_good(now_secs() + (left - 1) * DAY_SECS)
                && !files.is_good(now_secs() + (left + 1) * DAY_SECS)
        );
        std::fs::remove_file(&files.ca).unwrap();
        assert!(files.make().unwrap());
        assert!(
            files.paths().map(read).iter().zip(&before).all(|(now, before)| now != before),
            "all of them are new"
        );
    }

    #[test]
    fn it_names_this_machine_and_gets_no_warning() {
        let [_, (chain, _), (key, _)] = generate(now_secs()).unwrap();
        let provider = rustls::crypto::ring::default_provider();
        let identity = Identity::parse(chain.as_bytes(), key.as_bytes(), &provider).unwrap();
        assert_eq!(identity.warnings, [""; 0]);
        assert_eq!(identity.certificate.dns_names, ["localhost"]);
        assert_eq!(
            identity.certificate.addresses,
            ["127.0.0.1", "::1"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap())
        );
    }
}
