//! What a PEM file holds, decided by its labels before anything in it is decoded.
//!
//! jsonwebtoken decodes keys, but takes the first block of any file and the first bit string of any structure, certificates
//! included; so the label is judged here.

const BEGIN: &[u8] = b"-----BEGIN ";
const DASHES: &[u8] = b"-----";

/// Whether `text` looks like PEM at all.
pub(super) fn is_pem(text: &[u8]) -> bool {
    memchr::memmem::find(text, BEGIN).is_some()
}

/// The labels of all blocks of `text`, in order; `None` stands for one that does not end on its line or is not ASCII.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_wherever_blocks_stand() {
        assert!(!is_pem(b"{\"keys\":[]}"));
        assert!(is_pem(b"comment\n-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n"));
        let text =
            b"x\r\n-----BEGIN PUBLIC KEY-----\r\nAA==\r\n-----END PUBLIC KEY-----\r\n-----BEGIN B-----\n-----BEGIN C\n-----";
        assert_eq!(labels(text), [Some("PUBLIC KEY"), Some("B"), None]);
        assert_eq!(labels(b"-----BEGIN "), [None]);
        assert_eq!(labels(b"-----BEGIN \xff-----"), [None]);
    }
}
