//! RSA keys in PEM files: the labels decide which kind a file holds; then the PKCS#1 structure
//! inside is read.
//!
//! The reader of jsonwebtoken is not used. It takes the first block of any file and the first bit
//! string of any structure, even of a certificate. Its ASN.1 parser recurses as deep as the file
//! says, beyond the end of the stack. The typed parsers here expect exactly one structure.

use pkcs8::{PrivateKeyInfo, SubjectPublicKeyInfoRef};

const BEGIN: &[u8] = b"-----BEGIN ";
const DASHES: &[u8] = b"-----";

/// Whether `text` looks like PEM at all.
pub(super) fn is_pem(text: &[u8]) -> bool {
    memchr::memmem::find(text, BEGIN).is_some()
}

/// The labels of all blocks of `text`, in order; `None` for a label that does not end on its line
/// or is not ASCII.
pub(super) fn labels(text: &[u8]) -> Vec<Option<&str>> {
    memchr::memmem::find_iter(text, BEGIN)
        .map(|start| {
            let rest = text.get(start + BEGIN.len()..)?;
            let line = rest.split(|&byte| byte == b'\n' || byte == b'\r').next()?;
            let label = line.get(..memchr::memmem::find(line, DASHES)?)?;
            std::str::from_utf8(label).ok().filter(|label| label.is_ascii())
        })
        .collect()
}

/// The PKCS#1 `RSAPublicKey` in a block labelled `RSA PUBLIC KEY`, or `PUBLIC KEY` (SPKI). `None`:
/// it does not decode, or is another kind of key.
pub(super) fn rsa_public_key(text: &[u8]) -> Option<Vec<u8>> {
    let block = pem::parse(text).ok()?;
    match block.tag() {
        "RSA PUBLIC KEY" => Some(block.into_contents()),
        "PUBLIC KEY" => {
            let key = SubjectPublicKeyInfoRef::try_from(block.contents()).ok()?;
            key.algorithm.assert_algorithm_oid(pkcs1::ALGORITHM_OID).ok()?;
            key.subject_public_key.as_bytes().map(<[u8]>::to_vec)
        }
        _ => None,
    }
}

/// The PKCS#1 `RSAPrivateKey` in a block labelled `RSA PRIVATE KEY`, or `PRIVATE KEY` (PKCS#8).
/// `None`: it does not decode, or is another kind of key.
pub(super) fn rsa_private_key(text: &[u8]) -> Option<Vec<u8>> {
    let block = pem::parse(text).ok()?;
    match block.tag() {
        "RSA PRIVATE KEY" => Some(block.into_contents()),
        "PRIVATE KEY" => {
            let key = PrivateKeyInfo::try_from(block.contents()).ok()?;
            key.algorithm.assert_algorithm_oid(pkcs1::ALGORITHM_OID).ok()?;
            Some(key.private_key.to_vec())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_all_blocks_are_found() {
        assert!(!is_pem(b"{\"keys\":[]}"));
        assert!(is_pem(b"comment\n-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n"));
        let text = b"x\r\n-----BEGIN PUBLIC KEY-----\r\nAA==\r\n-----END PUBLIC KEY-----\r\n\
              -----BEGIN B-----\n-----BEGIN C\n-----";
        assert_eq!(labels(text), [Some("PUBLIC KEY"), Some("B"), None]);
        assert_eq!(labels(b"-----BEGIN "), [None]);
        assert_eq!(labels(b"-----BEGIN \xff-----"), [None]);
    }
}
