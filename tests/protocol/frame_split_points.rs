//! The frame decoder gives the same result wherever its input is cut, and the same result as
//! another implementation.
//!
//! tungstenite's frame coder plays the client. Its server role reads the same bytes in one piece.

use exo_ingest::proto::frame::{Decoder, FrameLimits, WsEvent};
use exo_ingest::proto::text::TextBuffer;
use exo_ingest::proto::{Control, MessageKind, Violation};
use proptest::prelude::*;
use proptest::sample::Index;
use std::io::{Cursor, Read, Write};
use tungstenite::protocol::frame::coding::{Control as OpControl, Data as OpData, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Bytes, Message};

const SIZE_MAX: usize = 100_000;
const LIMITS: FrameLimits =
    FrameLimits { message_size_max: SIZE_MAX, text_size_max: SIZE_MAX, fragments_max: 64 };

#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    BetweenMessages,
    MidMessage,
    Closed,
    Violation(Violation),
}

/// Puts our decoder's pieces together, and checks that they are in order.
#[derive(Default)]
struct Ours {
    decoder: Decoder,
    text: TextBuffer,
    binary: Vec<u8>,
    /// Kind and size so far of the message under way.
    open: Option<(MessageKind, usize)>,
    seen: Vec<Seen>,
}

impl Ours {
    /// The result of `bytes` in reads that end at `cuts` (ascending).
    fn read(bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> (Vec<Seen>, End) {
        let mut ours = Ours::default();
        let mut start = 0;
        for end in cuts.into_iter().chain([bytes.len()]) {
            match ours.receive(&mut bytes[start..end].to_vec()) {
                Ok(false) => start = end,
                Ok(true) => return (ours.seen, End::Closed),
                Err(violation) => return (ours.seen, End::Violation(violation)),
            }
        }
        let end =
            if ours.decoder.is_mid_message() { End::MidMessage } else { End::BetweenMessages };
        (ours.seen, end)
    }

    /// One read. `true` once the peer has closed.
    fn receive(&mut self, received: &mut [u8]) -> Result<bool, Violation> {
        let mut at = 0;
        while at < received.len() {
            let (taken, event) = self.decoder.decode(&mut received[at..], &LIMITS)?;
            assert!(taken > 0, "no progress");
            at += taken;
            match event {
                Some(WsEvent::Data(piece)) => {
                    let (kind, offset) = self.open.unwrap_or((piece.kind, 0));
                    assert_eq!(
                        (piece.first, piece.kind, piece.offset),
                        (self.open.is_none(), kind, offset)
                    );
                    let last = piece.last;
                    self.open = (!last).then_some((kind, offset + piece.payload.len()));
                    if kind == MessageKind::Text {
                        let text = self.text.push(piece)?;
                        assert_eq!(text.is_some(), last);
                        self.seen.extend(text.map(|text| Seen::Text(text.into_owned())));
                        continue;
                    }
                    piece.key.apply(piece.payload);
                    self.binary.extend_from_slice(piece.payload);
                    if last {
                        self.seen.push(Seen::Binary(std::mem::take(&mut self.binary)));
                    }
                }
                Some(WsEvent::Control(Control::Ping(bytes))) => {
                    self.seen.push(Seen::Ping(bytes.to_vec()))
                }
                Some(WsEvent::Control(Control::Pong(bytes))) => {
                    self.seen.push(Seen::Pong(bytes.to_vec()))
                }
                Some(WsEvent::Control(Control::Close { code, reason })) => {
                    self.seen.push(Seen::Close(code.map(|code| (code, reason.to_string()))));
                    return Ok(true);
                }
                None => assert_eq!(at, received.len(), "None means that all was taken"),
            }
        }
        Ok(false)
    }
}

/// Reads give its bytes; what is written to it is dropped.
struct Peer(Cursor<Vec<u8>>);

impl Read for Peer {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(out)
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What tungstenite's server role reads from `bytes`, up to a Close or an error.
fn theirs(bytes: &[u8]) -> Vec<Seen> {
    let config =
        WebSocketConfig::default().max_message_size(Some(SIZE_MAX)).max_frame_size(Some(SIZE_MAX));
    let mut socket =
        WebSocket::from_raw_socket(Peer(Cursor::new(bytes.to_vec())), Role::Server, Some(config));
    let mut seen = Vec::new();
    while let Ok(message) = socket.read() {
        seen.push(match message {
            Message::Text(text) => Seen::Text(text.to_string()),
            Message::Binary(bytes) => Seen::Binary(bytes.to_vec()),
            Message::Ping(bytes) => Seen::Ping(bytes.to_vec()),
            Message::Pong(bytes) => Seen::Pong(bytes.to_vec()),
            Message::Close(close) => {
                Seen::Close(close.map(|close| (close.code.into(), close.reason.to_string())))
            }
            Message::Frame(_) => unreachable!("reading gives no raw frames"),
        });
    }
    seen
}

/// A client's frame as tungstenite writes it.
fn frame(opcode: OpCode, is_final: bool, mask: [u8; 4], payload: Vec<u8>) -> Vec<u8> {
    let header = FrameHeader { is_final, opcode, mask: Some(mask), ..FrameHeader::default() };
    let mut bytes = Vec::new();
    Frame::from_payload(header, Bytes::from(payload)).format(&mut bytes).expect("writes to memory");
    bytes
}

fn control() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![Just(OpControl::Ping), Just(OpControl::Pong)];
    let size = prop_oneof![0usize..4, 120usize..=125];
    (
        opcode,
        any::<[u8; 4]>(),
        size.prop_flat_map(|size| proptest::collection::vec(any::<u8>(), size)),
    )
        .prop_map(|(opcode, mask, payload)| frame(OpCode::Control(opcode), true, mask, payload))
}

fn close() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![Just(1000u16), 1000u16..1020, 2990u16..3010, 4990u16..5010];
    let payload = proptest::option::of((code, "[a-zé€𝄞]{0,20}"));
    (any::<[u8; 4]>(), payload).prop_map(|(mask, payload)| {
        let payload = payload
            .map_or(Vec::new(), |(code, reason)| [&code.to_be_bytes(), reason.as_bytes()].concat());
        frame(OpCode::Control(OpControl::Close), true, mask, payload)
    })
}

/// Text with characters of every length, or bytes, of about `size`.
fn content(size: usize) -> impl Strategy<Value = (OpData, Vec<u8>)> {
    let text = proptest::collection::vec(prop_oneof![8 => Just('a'), 1 => any::<char>()], size)
        .prop_map(move |chars| {
            let mut bytes = String::from_iter(chars).into_bytes();
            bytes.truncate(size);
            let valid =
                std::str::from_utf8(&bytes).map_or_else(|error| error.valid_up_to(), str::len);
            bytes.truncate(valid);
            bytes.resize(size, b'z');
            (OpData::Text, bytes)
        });
    // A pattern shows bytes at a wrong place.
    let binary = any::<u8>().prop_map(move |seed| {
        let byte = |index: usize| (index.wrapping_mul(31) >> 3) as u8 ^ index as u8 ^ seed;
        (OpData::Binary, (0..size).map(byte).collect())
    });
    prop_oneof![text, binary]
}

/// A message in one to five frames, with control frames between them.
fn message(size: impl Strategy<Value = usize>) -> impl Strategy<Value = Vec<u8>> {
    let fragments = proptest::collection::vec(
        (any::<Index>(), any::<[u8; 4]>(), proptest::option::of(control())),
        0..5,
    );
    (size.prop_flat_map(content), fragments, any::<[u8; 4]>()).prop_map(
        |((kind, content), mut fragments, mask)| {
            fragments.sort_by_key(|(cut, ..)| cut.index(content.len() + 1));
            let mut bytes = Vec::new();
            let (mut start, mut opcode) = (0, kind);
            for (cut, mask, control) in fragments {
                let end = cut.index(content.len() + 1);
                bytes.extend(frame(
                    OpCode::Data(opcode),
                    false,
                    mask,
                    content[start..end].to_vec(),
                ));
                bytes.extend(control.into_iter().flatten());
                (start, opcode) = (end, OpData::Continue);
            }
            bytes.extend(frame(OpCode::Data(opcode), true, mask, content[start..].to_vec()));
            bytes
        },
    )
}

/// Messages and control frames, perhaps with a Close at the end.
fn conversation(
    size: impl Strategy<Value = usize> + Clone,
    messages_max: usize,
) -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![3 => message(size), 1 => control()];
    (proptest::collection::vec(part, 1..=messages_max), proptest::option::of(close()))
        .prop_map(|(parts, close)| [parts.concat(), close.unwrap_or_default()].concat())
}

fn small() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![4 => 0usize..12, 1 => 120usize..130]
}

fn large() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![3 => 0usize..200, 2 => 65_530usize..65_540, 1 => Just(9_600usize)]
}

/// One change to good bytes.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Replace(Index, u8),
    Remove(Index),
    Insert(Index, Vec<u8>),
    Truncate(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        any::<Index>().prop_map(Damage::Remove),
        (any::<Index>(), proptest::collection::vec(any::<u8>(), 1..12))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        any::<Index>().prop_map(Damage::Truncate),
    ]
}

fn apply(damage: &Damage, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let size = bytes.len();
    match damage {
        Damage::Flip(at, bit) => bytes[at.index(size)] ^= 1 << bit,
        Damage::Replace(at, byte) => bytes[at.index(size)] = *byte,
        Damage::Remove(at) => drop(bytes.remove(at.index(size))),
        Damage::Insert(at, more) => {
            drop(bytes.splice(at.index(size)..at.index(size), more.iter().copied()))
        }
        Damage::Truncate(at) => bytes.truncate(at.index(size)),
    }
}

/// Compares our reading of a good or bad conversation with tungstenite's. Ours may be stricter and
/// give less, but nothing else and nothing more.
///
/// One known difference: IANA has registered code 1014. tungstenite refuses it.
fn compare_with_theirs(bytes: &[u8], (seen, end): &(Vec<Seen>, End)) {
    let theirs = theirs(bytes);
    let mut seen = seen.clone();
    if let Some(Seen::Close(Some(close))) = seen.last_mut()
        && close.0 == 1014
    {
        *close = (1002, "Protocol violation".to_string());
    }
    match end {
        End::Violation(_) => assert!(theirs.starts_with(&seen), "{theirs:?}\n{seen:?}"),
        _ => assert_eq!(theirs, seen),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn short_conversations_at_every_split_point(bytes in conversation(small(), 5)) {
        let whole = Ours::read(&bytes, []);
        prop_assert!(!matches!(
            whole.1,
            End::MidMessage | End::Violation(Violation::NotUtf8 | Violation::TooBig(_))
        ));
        if let End::Violation(Violation::Protocol(reason)) = whole.1 {
            prop_assert_eq!(reason, "close code that may not be sent", "the rest is good");
        }
        compare_with_theirs(&bytes, &whole);
        for cut in 0..=bytes.len() {
            prop_assert_eq!(&Ours::read(&bytes, [cut]), &whole, "cut at {}", cut);
        }
        prop_assert_eq!(&Ours::read(&bytes, 1..bytes.len()), &whole, "byte by byte");
    }

    #[test]
    fn damaged_conversations_at_every_split_point(
        mut bytes in conversation(small(), 4),
        damages in proptest::collection::vec(damage(), 1..4),
    ) {
        damages.iter().for_each(|damage| apply(damage, &mut bytes));
        let whole = Ours::read(&bytes, []);
        compare_with_theirs(&bytes, &whole);
        for cut in 0..=bytes.len() {
            prop_assert_eq!(&Ours::read(&bytes, [cut]), &whole, "cut at {}", cut);
        }
        prop_assert_eq!(&Ours::read(&bytes, 1..bytes.len()), &whole, "byte by byte");
    }

    #[test]
    fn garbage_at_every_split_point(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let whole = Ours::read(&bytes, []);
        compare_with_theirs(&bytes, &whole);
        for cut in 0..=bytes.len() {
            prop_assert_eq!(&Ours::read(&bytes, [cut]), &whole, "cut at {}", cut);
        }
        prop_assert_eq!(&Ours::read(&bytes, 1..bytes.len()), &whole, "byte by byte");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn long_conversations_in_random_cuts(
        bytes in conversation(large(), 4),
        cuts in proptest::collection::vec(any::<Index>(), 0..40),
        segment in 1usize..3000,
    ) {
        let whole = Ours::read(&bytes, []);
        compare_with_theirs(&bytes, &whole);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert!(Ours::read(&bytes, cuts) == whole, "random cuts");
        let read = Ours::read(&bytes, (segment..bytes.len()).step_by(segment));
        prop_assert!(read == whole, "segments of {segment}");
        prop_assert!(Ours::read(&bytes, 1..bytes.len()) == whole, "byte by byte");
    }
}

/// Sizes at which the header grows, each in every form of a message, cut within and next to the
/// header.
#[test]
fn header_sizes_at_every_split_point_of_the_header() {
    for size in [0, 1, 125, 126, 127, 65_535, 65_536] {
        let payload: Vec<u8> = (0..size).map(|index| index as u8).collect();
        let bytes = frame(OpCode::Data(OpData::Binary), true, [1, 2, 3, 4], payload.clone());
        let expected = (vec![Seen::Binary(payload)], End::BetweenMessages);
        assert_eq!(theirs(&bytes), expected.0);
        for cut in (0..bytes.len().min(20)).chain(bytes.len().saturating_sub(3)..=bytes.len()) {
            assert_eq!(Ours::read(&bytes, [cut]), expected, "{size} bytes cut at {cut}");
        }
    }
}
