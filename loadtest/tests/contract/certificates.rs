//! A certificate authority for a test, made on the spot, and what it signs.

use std::path::{Path, PathBuf};

use pem::{Pem, encode};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_RSA_SHA256,
};
use rsa::pkcs8::EncodePrivateKey as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// What a node or a client shows, and its key.
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

/// The authority. Its certificate lies in a directory of its own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "exo-load test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"))
            .expect("a certificate");
        let directory = tempfile::tempdir().expect("a directory");
        write(&directory.path().join("ca.pem"), "CERTIFICATE", issuer.as_ref().der());
        Self { issuer, directory }
    }

    /// Its certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.issuer.as_ref().der().clone()
    }

    /// Where its certificate is, for `--ca`.
    pub fn path(&self) -> String {
        self.file("ca.pem")
    }

    /// A file beside it.
    pub fn file(&self, name: &str) -> String {
        let path: PathBuf = self.directory.path().join(name);
        path.to_str().expect("UTF-8").to_owned()
    }

    /// A certificate for these names, with a P-256 key.
    pub fn sign(&self, names: &[&str]) -> Identity {
        self.sign_key(names, &KeyPair::generate().expect("a key"))
    }

    /// With an RSA key of 2048 bits.
    pub fn sign_rsa(&self, names: &[&str]) -> Identity {
        let key = rsa::RsaPrivateKey::new(&mut rand_core::OsRng, 2_048).expect("a key");
        let der = key.to_pkcs8_der().expect("a key").as_bytes().to_vec();
        let key =
            KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), &PKCS_RSA_SHA256);
        self.sign_key(names, &key.expect("a key"))
    }

    fn sign_key(&self, names: &[&str], key: &KeyPair) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("names");
        let certificate = params.signed_by(key, &self.issuer).expect("a certificate").der().clone();
        Identity { certificate, key: key.serialize_der() }
    }

    /// A client's certificate and key as files, for `--client-cert` and `--client-key`.
    pub fn client_files(&self) -> [String; 2] {
        self.files(&self.sign(&["client.example"]))
    }

    /// Certificate and key as files.
    pub fn files(&self, identity: &Identity) -> [String; 2] {
        let paths = [self.file("identity.pem"), self.file("identity.key")];
        write(Path::new(&paths[0]), "CERTIFICATE", &identity.certificate);
        write(Path::new(&paths[1]), "PRIVATE KEY", &identity.key);
        paths
    }
}

fn write(path: &Path, tag: &str, der: &[u8]) {
    std::fs::write(path, encode(&Pem::new(tag, der))).expect("a file");
}
