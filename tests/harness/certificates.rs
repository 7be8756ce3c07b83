//! Real certificates for tests, from a new CA.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType, SignatureAlgorithm,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A CA.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its certificate.
    pub pem: String,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, then that of its CA.
    pub chain_pem: String,
    /// PKCS#8.
    pub key_pem: String,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = subject(name);
        let key = KeyPair::generate().expect("random numbers");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        Authority { pem: encode("CERTIFICATE", issuer.der().to_vec()), issuer }
    }

    /// A certificate for hosts, with a key on P-256.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// A certificate for hosts, with another kind of key.
    pub fn issue_with(&self, names: &[&str], algorithm: &'static SignatureAlgorithm) -> Issued {
        self.sign(params(names), KeyPair::generate_for(algorithm).expect("random numbers"))
    }

    /// A certificate for hosts, valid from `ago` days ago for `days` days.
    pub fn issue_for_days(&self, names: &[&str], ago: u64, days: u64) -> Issued {
        let mut params = params(names);
        let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(crate::now_secs());
        params.not_before = now - day(ago);
        params.not_after = now - day(ago) + day(days);
        self.sign(params, KeyPair::generate().expect("random numbers"))
    }

    /// A client's certificate with this common name, and `NAME.client.example` as its DNS name.
    pub fn issue_to_client(&self, name: &str) -> Issued {
        let mut params = params(&[&format!("{name}.client.example")]);
        params.distinguished_name = subject(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, KeyPair::generate().expect("random numbers"))
    }

    fn sign(&self, params: CertificateParams, key: KeyPair) -> Issued {
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let certificate = encode("CERTIFICATE", certificate.der().to_vec());
        Issued {
            chain_pem: certificate + &self.pem,
            key_pem: encode("PRIVATE KEY", key.serialize_der()),
        }
    }
}

impl Issued {
    /// A self-signed certificate, with a private key in PKCS#8 PEM.
    pub fn self_signed(names: &[&str], key_pem: &str) -> Issued {
        let key = KeyPair::try_from(pem::parse(key_pem).expect("a PEM").contents())
            .expect("a private key");
        let certificate = params(names).self_signed(&key).expect("a certificate");
        Issued {
            chain_pem: encode("CERTIFICATE", certificate.der().to_vec()),
            key_pem: key_pem.to_owned(),
        }
    }

    /// Writes certificate and key into a directory as `STEM.pem` and `STEM-key.pem`, each by a
    /// rename. Returns the two paths.
    pub fn write(&self, directory: &Path, stem: &str) -> [PathBuf; 2] {
        let paths =
            [format!("{stem}.pem"), format!("{stem}-key.pem")].map(|name| directory.join(name));
        for (path, text) in paths.iter().zip([&self.chain_pem, &self.key_pem]) {
            write_private(path, text);
        }
        paths
    }
}

/// Writes a file that only its owner may read. It is renamed into place, so that no process reads
/// half of it.
pub fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let next = path.with_extension("next");
    std::fs::write(&next, text).expect("a directory of ours");
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o600)).expect("ours");
    std::fs::rename(&next, path).expect("ours");
}

/// A certificate with these names, in DER.
pub fn named(common_name: &str, dns_names: &[&str], uris: &[&str]) -> Vec<u8> {
    let mut params = params(dns_names);
    params.distinguished_name = subject(common_name);
    params
        .subject_alt_names
        .extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("ASCII"))));
    params
        .self_signed(&KeyPair::generate().expect("random numbers"))
        .expect("a certificate")
        .der()
        .to_vec()
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("names")
}

fn subject(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn encode(label: &str, der: Vec<u8>) -> String {
    pem::encode(&pem::Pem::new(label, der))
}

fn day(count: u64) -> Duration {
    Duration::from_secs(count * 24 * 60 * 60)
}
