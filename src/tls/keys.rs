//! The keys of a connection, as plain bytes: all that the record layer needs, and all that another
//! process would need to continue the connection.
#![forbid(unsafe_code)]

use ring::aead::{self, LessSafeKey, NONCE_LEN, UnboundKey};
use ring::hkdf;

/// The largest secret: SHA-384.
pub(crate) const SECRET_SIZE_MAX: usize = 48;

/// The largest key: AES-256 and ChaCha20.
const KEY_SIZE_MAX: usize = 32;

/// Records that AES-GCM may seal under one key: RFC 8446 §5.5 allows 2^24.5 full ones.
const GCM_RECORDS_MAX: u64 = 1 << 24;

/// The protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2, with an AEAD suite.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// The AEAD, and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// AES-128-GCM, SHA-256.
    Aes128Gcm,
    /// AES-256-GCM, SHA-384.
    Aes256Gcm,
    /// ChaCha20-Poly1305, SHA-256.
    ChaCha20Poly1305,
}

impl Suite {
    fn aead(self) -> &'static aead::Algorithm {
        match self {
            Suite::Aes128Gcm => &aead::AES_128_GCM,
            Suite::Aes256Gcm => &aead::AES_256_GCM,
            Suite::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Suite::Aes128Gcm | Suite::ChaCha20Poly1305 => hkdf::HKDF_SHA256,
            Suite::Aes256Gcm => hkdf::HKDF_SHA384,
        }
    }

    fn secret_size(self) -> usize {
        match self {
            Suite::Aes128Gcm | Suite::ChaCha20Poly1305 => 32,
            Suite::Aes256Gcm => 48,
        }
    }

    /// Records that one key may seal.
    pub(crate) fn records_max(self) -> u64 {
        match self {
            Suite::Aes128Gcm | Suite::Aes256Gcm => GCM_RECORDS_MAX,
            Suite::ChaCha20Poly1305 => u64::MAX,
        }
    }
}

/// Keys of one direction.
#[derive(Clone, Copy)]
pub struct DirectionKeys {
    /// TLS 1.3: the traffic secret, from which the next keys are derived. Zeros in TLS 1.2.
    pub(crate) secret: [u8; SECRET_SIZE_MAX],
    key: [u8; KEY_SIZE_MAX],
    iv: [u8; NONCE_LEN],
    /// Number of the next record.
    pub sequence: u64,
}

impl DirectionKeys {
    /// From what rustls returns. The length of `key` is that of the suite, and the length of
    /// `secret` that of its hash.
    pub(crate) fn new(secret: [u8; SECRET_SIZE_MAX], key: &[u8], iv: &[u8], sequence: u64) -> Self {
        let mut keys =
            DirectionKeys { secret, key: [0; KEY_SIZE_MAX], iv: [0; NONCE_LEN], sequence };
        keys.key[..key.len()].copy_from_slice(key);
        keys.iv.copy_from_slice(iv);
        keys
    }

    /// The key in the form that the AEAD works with. It has 544 bytes for AES and takes some 100 ns
    /// to make. So it is kept for receiving, and made anew for each record that we send.
    pub fn expand(&self, suite: Suite) -> LessSafeKey {
        let algorithm = suite.aead();
        let key = UnboundKey::new(algorithm, &self.key[..algorithm.key_len()]);
        LessSafeKey::new(key.expect("it is cut to the algorithm's length"))
    }

    /// The nonce of the next record (RFC 8446 §5.3). In TLS 1.2, rustls makes the explicit nonces
    /// of AES-GCM in the same way. So the nonces of its records and of ours never collide.
    pub fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, sequence) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        nonce
    }

    /// TLS 1.2 with AES-GCM: the nonce of a received record, in which the peer chooses 8 bytes.
    pub(crate) fn nonce_with(&self, explicit: [u8; 8]) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        nonce[NONCE_LEN - 8..].copy_from_slice(&explicit);
        nonce
    }

    /// Moves to the next generation of keys (RFC 8446 §7.2).
    pub fn update(&mut self, suite: Suite) {
        let size = suite.secret_size();
        let mut next = [0; SECRET_SIZE_MAX];
        expand_label(suite, &self.secret[..size], b"traffic upd", &mut next[..size]);
        self.key = [0; KEY_SIZE_MAX];
        expand_label(suite, &next[..size], b"key", &mut self.key[..suite.aead().key_len()]);
        expand_label(suite, &next[..size], b"iv", &mut self.iv);
        self.secret = next;
        self.sequence = 0;
    }
}

/// Hides the keys, so that they never get into a log.
impl std::fmt::Debug for DirectionKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectionKeys").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// Everything that a record layer starts with.
#[derive(Clone, Copy, Debug)]
pub struct RecordKeys {
    /// The version.
    pub version: Version,
    /// The AEAD.
    pub suite: Suite,
    /// Keys of the peer's records.
    pub receive: DirectionKeys,
    /// Keys of our records.
    pub(crate) send: DirectionKeys,
}

struct Size(usize);

impl hkdf::KeyType for Size {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 §7.1).
fn expand_label(suite: Suite, secret: &[u8], label: &[u8], out: &mut [u8]) {
    const PREFIX: &[u8] = b"tls13 ";
    let size = (out.len() as u16).to_be_bytes();
    let label_size = [(PREFIX.len() + label.len()) as u8];
    let info = [&size[..], &label_size, PREFIX, label, &[0]];
    let prk = hkdf::Prk::new_less_safe(suite.hkdf(), secret);
    prk.expand(&info, Size(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("a hash is as long as the longest key");
}
