//! Session tickets (RFC 8446 §4.6.1, RFC 5077): a client returns one to skip the signature.
//!
//! ```text
//!  name 16 │ nonce 12 │ AES-256-GCM( issued_at 8 │ rustls' state … ) │ tag 16
//!          └ random                 associated data: the name
//! ```
//! Name and AES key are derived from a line of the file, so the line may have any length from 32
//! bytes on. Nonces are random. Change the first key long before it has made 2^32 tickets (NIST SP
//! 800-38D §8.3): at a thousand handshakes a second that takes 50 days.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;
use rustls::ticketer::TicketRotator;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use std::fmt;
use std::sync::Arc;

/// How long a ticket is valid. A day is common; half a day halves what a stolen key can open.
pub(crate) const LIFETIME_SECS: u32 = 12 * 60 * 60;

/// How far the clocks of a fleet may differ.
const CLOCK_SKEW_SECS: u64 = 60;

/// How often a node without a file makes a new key. The previous key stays valid for the same time,
/// so each ticket is valid for at least half of its lifetime.
const ROTATION_SECS: u32 = LIFETIME_SECS / 2;

/// Minimum size of a key in the file, bytes: the size of an AES-256 key.
const KEY_SIZE_MIN: usize = 32;

/// Most keys in the file. A ticket with an unknown name is compared with each of them.
const KEYS_MAX: usize = 16;

const NAME_SIZE: usize = 16;
const TIME_SIZE: usize = 8;
const HEADER_SIZE: usize = NAME_SIZE + NONCE_LEN;

/// Keys of a file: the first one makes tickets, and each of them opens tickets.
pub(crate) struct TicketKeys {
    keys: Vec<TicketKey>,
    clock: Arc<dyn TimeProvider>,
    random: SystemRandom,
}

/// Why a file contains no valid ticket keys. None of these contains the text of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketKeysError {
    /// It contains no key.
    Empty,
    /// It contains more than `KEYS_MAX`.
    TooMany,
    /// This line is not base64.
    NotBase64(usize),
    /// This line has too few bytes.
    TooShort(usize),
    /// This line repeats an earlier one.
    Repeated(usize),
}

impl fmt::Display for TicketKeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TicketKeysError::Empty => {
                write!(
                    f,
                    "it holds no key: write one base64 key per line, made with `openssl rand \
                     -base64 {KEY_SIZE_MIN}`"
                )
            }
            TicketKeysError::TooMany => {
                write!(
                    f,
                    "it holds over {KEYS_MAX} keys: remove the oldest ones at the end of the file"
                )
            }
            TicketKeysError::NotBase64(line) => {
                write!(
                    f,
                    "line {line} is not base64: make a key with `openssl rand -base64 \
                     {KEY_SIZE_MIN}`"
                )
            }
            TicketKeysError::TooShort(line) => write!(
                f,
                "line {line} has under {KEY_SIZE_MIN} bytes: make a key with `openssl rand \
                 -base64 {KEY_SIZE_MIN}`"
            ),
            TicketKeysError::Repeated(line) => {
                write!(f, "line {line} repeats an earlier key: remove it")
            }
        }
    }
}

impl std::error::Error for TicketKeysError {}

impl TicketKeys {
    /// From the text of a file: one base64 key per line, the newest first. `#` begins a comment.
    pub(crate) fn parse(
        text: &[u8],
        clock: Arc<dyn TimeProvider>,
    ) -> Result<TicketKeys, TicketKeysError> {
        let mut keys: Vec<TicketKey> = Vec::new();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
            if line.is_empty() {
                continue;
            }
            let number = index + 1;
            let secret = decode(line).ok_or(TicketKeysError::NotBase64(number))?;
            if secret.len() < KEY_SIZE_MIN {
                return Err(TicketKeysError::TooShort(number));
            }
            let key = TicketKey::derive(&secret);
            if keys.iter().any(|other| other.name == key.name) {
                return Err(TicketKeysError::Repeated(number));
            }
            keys.push(key);
        }
        match keys.len() {
            0 => Err(TicketKeysError::Empty),
            1..=KEYS_MAX => Ok(TicketKeys { keys, clock, random: SystemRandom::new() }),
            _ => Err(TicketKeysError::TooMany),
        }
    }

    /// Number of keys.
    pub(crate) fn count(&self) -> usize {
        self.keys.len()
    }

    /// One random key that no other process has; `None` if the system has no random numbers.
    fn random() -> Option<TicketKeys> {
        let random = SystemRandom::new();
        let mut secret = [0; KEY_SIZE_MIN];
        random.fill(&mut secret).ok()?;
        Some(TicketKeys {
            keys: vec![TicketKey::derive(&secret)],
            clock: Arc::new(DefaultTimeProvider),
            random,
        })
    }

    fn now_secs(&self) -> Option<u64> {
        self.clock.current_time().map(|time| time.as_secs())
    }
}

/// Standard base64, padded or not.
fn decode(line: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine;
    use base64::alphabet::STANDARD;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&STANDARD, config).decode(line).ok()
}

/// Ticket keys that no other process has: made at start, changed every six hours, and used by all
/// shards of the process. `None` if the system has no random numbers.
pub(crate) fn of_this_process() -> Option<Arc<dyn ProducesTickets>> {
    let make = || match TicketKeys::random() {
        Some(keys) => Ok(Box::new(keys) as Box<dyn ProducesTickets>),
        None => Err(rustls::crypto::GetRandomFailed),
    };
    TicketRotator::new(ROTATION_SECS, make)
        .ok()
        .map(|tickets| Arc::new(tickets) as Arc<dyn ProducesTickets>)
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut body = Vec::with_capacity(TIME_SIZE + plain.len() + AES_256_GCM.tag_len());
        body.extend_from_slice(&self.now_secs()?.to_be_bytes());
        body.extend_from_slice(plain);
        let (nonce_sealed, name) = (Nonce::assume_unique_for_key(nonce), Aad::from(key.name));
        key.aead.seal_in_place_append_tag(nonce_sealed, name, &mut body).ok()?;
        Some([&key.name[..], &nonce, &body].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (header, body) = ticket.split_at_checked(HEADER_SIZE)?;
        let (name, nonce) = header.split_at_checked(NAME_SIZE)?;
        let key = self.keys.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = body.to_vec();
        let opened = key.aead.open_in_place(nonce, Aad::from(key.name), &mut body).ok()?;
        let (issued_at, plain) = opened.split_first_chunk::<TIME_SIZE>()?;
        let (issued_at, now) = (u64::from_be_bytes(*issued_at), self.now_secs()?);
        let is_fresh = issued_at <= now.saturating_add(CLOCK_SKEW_SECS)
            && now.saturating_sub(issued_at) <= u64::from(LIFETIME_SECS);
        is_fresh.then(|| plain.to_vec())
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").field("count", &self.keys.len()).finish_non_exhaustive()
    }
}

struct TicketKey {
    /// Identifies the key of a ticket, and reveals nothing about it.
    name: [u8; NAME_SIZE],
    aead: LessSafeKey,
}

impl TicketKey {
    fn derive(secret: &[u8]) -> TicketKey {
        let secret = Salt::new(HKDF_SHA256, b"exo-ingest session tickets").extract(secret);
        let (mut name, mut key) = ([0; NAME_SIZE], [0; KEY_SIZE_MIN]);
        for (purpose, out) in [(b"name", &mut name[..]), (b"aes ", &mut key[..])] {
            let purpose = [&purpose[..]];
            let expanded = secret.expand(&purpose, Length(out.len())).and_then(|okm| okm.fill(out));
            expanded.expect("it fails only for more than 255 blocks of the hash, and this is one");
        }
        let key = UnboundKey::new(&AES_256_GCM, &key).expect("32 bytes are an AES-256 key");
        TicketKey { name, aead: LessSafeKey::new(key) }
    }
}

/// Number of bytes to derive.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::UnixTime;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    #[derive(Debug)]
    struct Clock(AtomicU64);

    impl TimeProvider for Clock {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
        }
    }

    const NOW: u64 = 1_800_000_000;

    fn clock() -> Arc<Clock> {
        Arc::new(Clock(AtomicU64::new(NOW)))
    }

    fn line(byte: u8, size: usize) -> String {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(vec![byte; size]) + "\n"
    }

    fn keys(text: &str) -> Result<TicketKeys, TicketKeysError> {
        TicketKeys::parse(text.as_bytes(), clock())
    }

    #[test]
    fn the_first_key_makes_tickets_and_all_keys_open_them() {
        let old = keys(&line(1, 32)).unwrap();
        let both = keys(&format!("# newest first\n\n{}{}", line(2, 48), line(1, 32))).unwrap();
        let new = keys(&line(2, 48)).unwrap();
        assert_eq!((old.count(), both.count()), (1, 2));
        let [of_old, of_both] = [&old, &both].map(|keys| keys.encrypt(b"state").unwrap());
        assert_eq!(both.decrypt(&of_old).as_deref(), Some(&b"state"[..]));
        assert_eq!(new.decrypt(&of_both).as_deref(), Some(&b"state"[..]));
        assert_eq!((old.decrypt(&of_both), new.decrypt(&of_old)), (None, None));
        assert_ne!(both.encrypt(b"state"), both.encrypt(b"state"), "nonces are random");
    }

    #[test]
    fn a_ticket_is_valid_for_twelve_hours_and_not_before_its_time() {
        let clock = clock();
        let keys =
            TicketKeys::parse(line(1, 32).as_bytes(), Arc::clone(&clock) as Arc<dyn TimeProvider>)
                .unwrap();
        let ticket = keys.encrypt(b"state").unwrap();
        for (now, is_good) in [
            (NOW, true),
            (NOW + 12 * 3600, true),
            (NOW + 12 * 3600 + 1, false),
            (NOW - CLOCK_SKEW_SECS, true),
            (NOW - CLOCK_SKEW_SECS - 1, false),
        ] {
            clock.0.store(now, Ordering::Relaxed);
            assert_eq!(keys.decrypt(&ticket).is_some(), is_good, "{now}");
        }
    }

    #[test]
    fn changed_and_cut_tickets_do_not_open() {
        let keys = keys(&line(1, 32)).unwrap();
        let ticket = keys.encrypt(b"state").unwrap();
        for bit in 0..ticket.len() * 8 {
            let mut changed = ticket.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.decrypt(&changed), None, "bit {bit}");
        }
        for size in 0..ticket.len() {
            assert_eq!(keys.decrypt(&ticket[..size]), None, "{size} bytes");
        }
    }

    #[test]
    fn errors_of_key_files_name_the_line_and_repeat_no_text() {
        let many: String = (0..17).map(|byte| line(byte, 32)).collect();
        for (text, error) in [
            ("", TicketKeysError::Empty),
            ("# nothing\n", TicketKeysError::Empty),
            ("# a\nnot*base64\n", TicketKeysError::NotBase64(2)),
            (&line(1, 31), TicketKeysError::TooShort(1)),
            (
                &format!("{}{}{}", line(1, 32), line(2, 32), line(1, 32)),
                TicketKeysError::Repeated(3),
            ),
            (&many, TicketKeysError::TooMany),
        ] {
            let refused = keys(text).unwrap_err();
            assert_eq!(refused, error);
            assert!(!refused.to_string().contains("not*base64"), "{refused}");
        }
        assert!(keys(&line(1, 32).replace('=', "")).is_ok(), "padding may be left out");
    }

    #[test]
    fn a_process_has_keys_of_its_own() {
        let [one, other] = [(); 2].map(|()| of_this_process().unwrap());
        let ticket = one.encrypt(b"state").unwrap();
        assert_eq!(one.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        assert_eq!(other.decrypt(&ticket), None);
        assert!(one.lifetime() <= LIFETIME_SECS);
    }
}
