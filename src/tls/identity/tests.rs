use super::*;
use exo_ingest_harness::certificates::{Authority, Issued};
use pkcs8::PrivateKeyInfo;

fn parse(certificates: &str, key: &str) -> Result<Identity, IdentityError> {
    Identity::parse(
        certificates.as_bytes(),
        key.as_bytes(),
        &rustls::crypto::ring::default_provider(),
    )
}

fn issued() -> Issued {
    Authority::new("test CA").issue(&["exo.example", "127.0.0.1"])
}

/// A certificate with an RSA key.
fn rsa() -> Issued {
    Issued::self_signed(&["rsa.example"], include_str!("../../../tests/keys/first-private.pem"))
}

/// The key in a PKCS#8 PEM, under another label: SEC1 or PKCS#1.
fn bare(key_pem: &str, label: &str) -> String {
    let der = pem::parse(key_pem).unwrap().into_contents();
    let inner = PrivateKeyInfo::try_from(&der[..]).unwrap().private_key.to_vec();
    pem::encode(&pem::Pem::new(label, inner))
}

#[test]
fn keys_are_read_in_all_three_forms() {
    let (p256, rsa) = (issued(), rsa());
    for (issued, key) in [
        (&p256, p256.key_pem.clone()),
        (&p256, bare(&p256.key_pem, "EC PRIVATE KEY")),
        // `openssl ecparam -genkey` writes the curve before the key.
        (
            &p256,
            format!("{}{}", pem::encode(&pem::Pem::new("EC PARAMETERS", [6, 0])), p256.key_pem),
        ),
        (&rsa, rsa.key_pem.clone()),
        (&rsa, bare(&rsa.key_pem, "RSA PRIVATE KEY")),
    ] {
        let identity = parse(&issued.chain_pem, &key).unwrap();
        assert_eq!(identity.key.keys_match(), Ok(()));
    }
    // Both in one file.
    let one = format!("{}{}", p256.chain_pem, p256.key_pem);
    let identity = parse(&one, &one).unwrap();
    assert_eq!((identity.key.cert.len(), identity.warnings.len()), (2, 0));
    assert_eq!(identity.certificate.dns_names, ["exo.example"]);
}

#[test]
fn errors_name_the_file_to_change() {
    let (good, other, rsa) = (issued(), issued(), rsa());
    let public = include_str!("../../../tests/keys/first-public.pem");
    let encrypted = pem::encode(&pem::Pem::new("ENCRYPTED PRIVATE KEY", [0; 8]));
    let legacy = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
                  DEK-Info: AES-128-CBC,00\n\nAAAA\n\
                  -----END EC PRIVATE KEY-----\n";
    let blocks = pem::parse_many(&good.chain_pem).unwrap();
    let reversed: String = blocks.iter().rev().map(pem::encode).collect();
    let damaged = pem::encode(&pem::Pem::new("CERTIFICATE", [0x30, 0]));
    let broken = good.key_pem.replace("-----END", "----END");
    let (chain, key) = (&good.chain_pem[..], &good.key_pem[..]);
    for (chain, key, error) in [
        (chain, &other.key_pem[..], IdentityError::Mismatch),
        (chain, &rsa.key_pem[..], IdentityError::Mismatch),
        (&reversed, key, IdentityError::Order),
        (chain, &encrypted, IdentityError::Encrypted),
        (chain, legacy, IdentityError::Encrypted),
        (chain, public, IdentityError::PublicKey),
        (chain, chain, IdentityError::NoKey),
        (chain, "", IdentityError::NoKey),
        (chain, &format!("{key}{key}"), IdentityError::SeveralKeys),
        (chain, &pem::encode(&pem::Pem::new("PRIVATE KEY", [0; 8])), IdentityError::Unusable),
        (chain, &broken, IdentityError::NotPem(File::Key)),
        (key, key, IdentityError::NoCertificate),
        ("", key, IdentityError::NoCertificate),
        (&damaged, key, IdentityError::Certificate),
    ] {
        let refused = parse(chain, key).unwrap_err();
        assert_eq!(refused, error);
        let sentence = refused.to_string();
        assert!(sentence.contains(':') && !sentence.contains("BEGIN PRIVATE"), "{sentence}");
    }
}

#[test]
fn unwise_certificates_get_warnings() {
    let rsa = rsa();
    let identity = parse(&rsa.chain_pem, &rsa.key_pem).unwrap();
    assert!(
        identity.warnings.len() == 1 && identity.warnings[0].contains("RSA"),
        "{:?}",
        identity.warnings
    );
    let good = issued();
    let stranger = Authority::new("another CA").pem;
    let blocks = pem::parse_many(&good.chain_pem).unwrap();
    let gap = format!("{}{stranger}", pem::encode(&blocks[0]));
    let identity = parse(&gap, &good.key_pem).unwrap();
    assert!(
        identity.warnings.len() == 1 && identity.warnings[0].contains("out of order"),
        "{:?}",
        identity.warnings
    );
    let nameless = Authority::new("test CA").issue(&[]);
    let identity = parse(&nameless.chain_pem, &nameless.key_pem).unwrap();
    assert!(identity.warnings[0].contains("subjectAltName"), "{:?}", identity.warnings);
}
