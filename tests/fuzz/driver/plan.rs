//! From a script to a stream of records: good ones, and every kind of bad one.
//!
//! ```text
//!  combination │ n, n receive sizes │ operation, arguments │ operation, arguments │ …
//!    1 byte      1 byte, 2 each       1 byte
//! ```
//! Every script means something: numbers are taken modulo what is possible, and a missing argument
//! is 0. So whatever a fuzzer changes, the rest of the script keeps its meaning.

use super::session::Session;
use exo_ingest::tls::keys::{RecordKeys, Suite, Version};
use exo_ingest::tls::records::{HEADER_SIZE, PAYLOAD_SIZE_MAX};
use ring::aead::{Aad, Nonce};
use std::collections::HashMap;

/// Types of content (RFC 8446 §5.1).
pub mod content {
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const DATA: u8 = 23;
}

/// A KeyUpdate up to its last byte, which says whether the peer must answer.
pub const KEY_UPDATE_HEADER: [u8; 4] = [24, 0, 0, 1];

/// Longest stream, and most records: enough for each limit, and short enough to play thousands of
/// scripts in a second.
const STREAM_SIZE_MAX: usize = 80_000;
const RECORDS_MAX: usize = 200;

/// Most repetitions of an operation: more than the 32 records without data that are allowed.
const REPEATS_MAX: u8 = 40;

/// Number of operations; see [`Builder::operation`].
const OPERATIONS: u8 = 16;

/// What a script says.
#[derive(Debug)]
pub struct Plan {
    /// Which version and suite.
    pub combination: u8,
    /// Sizes in which the stream is received, used in turn.
    pub receive_sizes: Vec<usize>,
    pub stream: Vec<u8>,
    /// The type and content of sealed records that carry no payload, by their bytes on the wire. A
    /// record that is not in here, and carries no payload, does not open.
    pub contents: HashMap<Vec<u8>, (u8, Vec<u8>)>,
}

impl Plan {
    /// Reads a script.
    pub fn read(script: &[u8]) -> Plan {
        let mut script = Script(script);
        let combination = script.byte();
        let receive_sizes = match script.byte() % 5 {
            0 => vec![usize::MAX],
            count => (0..count).map(|_| script.number().max(1)).collect(),
        };
        let keys = Session::of(combination).keys;
        let mut builder = Builder { keys, records: Vec::new(), size: 0, contents: HashMap::new() };
        while !script.0.is_empty() && builder.has_room() {
            let operation = script.byte() % (OPERATIONS + 1);
            if operation < OPERATIONS {
                builder.operation(operation, &mut script);
                continue;
            }
            let (times, repeated) = (script.byte() % REPEATS_MAX, script.byte() % OPERATIONS);
            let arguments = script.0;
            for _ in 0..times {
                script.0 = arguments;
                builder.operation(repeated, &mut script);
            }
        }
        let Builder { records, contents, .. } = builder;
        Plan { combination, receive_sizes, stream: records.concat(), contents }
    }
}

/// The rest of a script.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn number(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

struct Builder {
    /// Of the server: `receive` is what the client seals with.
    keys: RecordKeys,
    records: Vec<Vec<u8>>,
    /// Bytes in all records that were added.
    size: usize,
    contents: HashMap<Vec<u8>, (u8, Vec<u8>)>,
}

impl Builder {
    fn has_room(&self) -> bool {
        self.records.len() < RECORDS_MAX && self.size < STREAM_SIZE_MAX
    }

    fn operation(&mut self, operation: u8, script: &mut Script<'_>) {
        if !self.has_room() {
            return;
        }
        match operation {
            // Payload of any size, up to a little more than is allowed.
            0 => {
                let size = script.number() % (PAYLOAD_SIZE_MAX + 3);
                self.seal(content::DATA, &payload(size), 0);
            }
            1 => {
                let size = usize::from(script.byte());
                self.seal(content::DATA, &payload(size), 0);
            }
            // Any type, any content.
            2 => {
                let (kind, padding) = (script.byte(), usize::from(script.byte()));
                let size = usize::from(script.byte() % 16);
                self.seal(kind, script.bytes(size), padding);
            }
            // Padding.
            3 => {
                let size = usize::from(script.byte());
                let padding = script.number() % (PAYLOAD_SIZE_MAX + 400);
                self.seal(content::DATA, &payload(size), padding);
            }
            4 => {
                let [a, b, c, d] = KEY_UPDATE_HEADER;
                self.seal(content::HANDSHAKE, &[a, b, c, d, script.byte()], 0);
                self.update();
            }
            // A KeyUpdate in pieces.
            5 => {
                let (size, last) = (usize::from(script.byte() % 4 + 1), script.byte() % 3);
                let [a, b, c, d] = KEY_UPDATE_HEADER;
                for piece in [a, b, c, d, last].chunks(size) {
                    self.seal(content::HANDSHAKE, piece, 0);
                }
                self.update();
            }
            6 => self.seal(content::ALERT, &[script.byte(), script.byte()], 0),
            // close_notify.
            7 => self.seal(content::ALERT, &[1, 0], 0),
            // Records are missing, or the keys are the wrong ones.
            8 => self.keys.receive.sequence += u64::from(script.byte()),
            9 => self.update(),
            // Bytes that are not sealed.
            10 => {
                let size = usize::from(script.byte() % 32);
                self.add(script.bytes(size).to_vec());
            }
            // Damage: to the latest records, counted from the end.
            11 => {
                let (index, at, bits) = (self.index(script), script.number(), script.byte());
                self.change(index, |record| {
                    let at = at % record.len();
                    record[at] ^= bits;
                });
            }
            12 => {
                let (index, at, value) = (self.index(script), script.byte(), script.byte());
                self.change(index, |record| {
                    let at = usize::from(at) % record.len().min(HEADER_SIZE);
                    record[at] = value;
                });
            }
            13 => {
                let (index, size) = (self.index(script), script.number());
                self.change(index, |record| record.truncate(size % record.len()));
            }
            14 => {
                if let (Some(one), Some(other)) = (self.index(script), self.index(script)) {
                    self.records.swap(one, other);
                }
            }
            _ => {
                let (index, is_copied) = (self.index(script), script.byte().is_multiple_of(2));
                let Some(index) = index else { return };
                if is_copied {
                    self.add(self.records[index].clone());
                } else {
                    self.records.remove(index);
                }
            }
        }
    }

    fn index(&self, script: &mut Script<'_>) -> Option<usize> {
        let back = usize::from(script.byte());
        let count = self.records.len();
        (count > 0).then(|| count - 1 - back % count)
    }

    fn change(&mut self, index: Option<usize>, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(index) = index
            && !self.records[index].is_empty()
        {
            change(&mut self.records[index]);
        }
    }

    fn add(&mut self, record: Vec<u8>) {
        self.size += record.len();
        self.records.push(record);
    }

    /// The client's next keys. There are none in TLS 1.2.
    fn update(&mut self) {
        if self.keys.version == Version::Tls13 {
            self.keys.receive.update(self.keys.suite);
        }
    }

    /// Seals as a client does. Padding is for TLS 1.3 alone.
    fn seal(&mut self, kind: u8, payload: &[u8], padding: usize) {
        let RecordKeys { version, suite, ref mut receive, .. } = self.keys;
        let key = receive.expand(suite);
        let nonce = receive.nonce();
        // With a type of 0, which is padding in TLS 1.3, the payload gives the type.
        let meant = match (version, kind) {
            (Version::Tls13, 0) => payload.iter().rposition(|byte| *byte != 0),
            _ => Some(payload.len()),
        };
        let meant = meant.map(|size| (payload.get(size).copied().unwrap_or(kind), size));
        let mut inner = payload.to_vec();
        let (outer, explicit) = match (version, suite) {
            (Version::Tls13, _) => {
                inner.push(kind);
                inner.resize(inner.len() + padding, 0);
                (content::DATA, &[][..])
            }
            (Version::Tls12, Suite::ChaCha20Poly1305) => (kind, &[][..]),
            (Version::Tls12, _) => (kind, &nonce[4..]),
        };
        let size = explicit.len() + inner.len() + key.algorithm().tag_len();
        let header = [&[outer, 3, 3], &(size as u16).to_be_bytes()[..]].concat();
        let aad = match version {
            Version::Tls13 => header.clone(),
            // RFC 5246 §6.2.3.3.
            Version::Tls12 => {
                let size = (inner.len() as u16).to_be_bytes();
                [&receive.sequence.to_be_bytes()[..], &header[..3], &size].concat()
            }
        };
        let unique = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(unique, Aad::from(aad), &mut inner).expect("a short record");
        receive.sequence += 1;
        let record = [&header[..], explicit, &inner].concat();
        if let Some((kind, size)) = meant.filter(|(kind, _)| *kind != content::DATA) {
            self.contents.insert(record.clone(), (kind, payload[..size].to_vec()));
        }
        self.add(record);
    }
}

fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}
