//! Files with the certificates of CAs, for servers whose own are not signed by one that the system
//! knows.

#![forbid(unsafe_code)]

use std::path::Path;

/// Every error about a certificate that is not trusted has these words in it.
pub(super) const UNTRUSTED: &str = "invalid peer certificate";

/// What to do then, after the error.
pub(super) fn hint(flag: &str, setting: &str) -> String {
    format!(
        ": check the server's certificate, and name its CA with {flag} (for serve: {setting}), or \
         add it to the system"
    )
}

/// The certificates in a PEM file, in DER. The error says what is wrong with the file.
pub(super) fn read(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let bytes = std::fs::read(path)
        .map_err(|error| format!("cannot read the certificates {}: {error}", path.display()))?;
    let parts = pem::parse_many(&bytes)
        .map_err(|error| format!("{} is not in PEM: {error}", path.display()))?;
    let is_certificate = |part: &pem::Pem| part.tag() == "CERTIFICATE";
    let found = parts.into_iter().filter(is_certificate).map(pem::Pem::into_contents);
    let found: Vec<_> = found.collect();
    match found.is_empty() {
        true => Err(format!("{} holds no certificate in PEM", path.display())),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let told = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path).unwrap_err()
        };
        assert!(told("").contains("holds no certificate"));
        assert!(told("nothing").contains("holds no certificate"));
        let key = pem::encode(&pem::Pem::new("PRIVATE KEY", vec![1; 40]));
        assert!(told(&key).contains("holds no certificate"));
        let one = pem::encode(&pem::Pem::new("CERTIFICATE", vec![7; 40]));
        std::fs::write(&path, format!("# a comment\n{one}{key}{one}")).unwrap();
        assert_eq!(read(&path).unwrap(), [vec![7; 40], vec![7; 40]]);
        assert!(read(&dir.path().join("none")).unwrap_err().contains("cannot read"));
    }
}
