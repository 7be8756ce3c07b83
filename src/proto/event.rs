//! Our events: the JSON texts of a call, read from the peer ([`parse`]) and written to it. Framing
//! is in [`super::frame`]; the session decides what the events mean.
//!
//! Reading borrows from the peer's text unless JSON escapes prevent it. Unknown members are
//! ignored, and a known member that appears twice is refused. Deep nesting needs no stack, because
//! the values of unknown members are skipped and not built.

#![forbid(unsafe_code)]

use super::ECHOED_TEXT_MAX;
use crate::call::valid_id;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// The one encoding we take: 16-bit samples, mono, little-endian.
pub(crate) const ENCODING_PCM16: &str = "pcm16";

/// Largest size of an ACK text, bytes: the text around the number, and the 20 digits of the largest
/// number.
pub(crate) const ACK_TEXT_SIZE_MAX: usize = ACK_OPENING.len() + 20 + 1;

const ACK_OPENING: &[u8] = b"{\"event\":\"ack\",\"seq\":";

/// What a peer's text says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PeerEvent<'a> {
    /// A sound `start`.
    Start(Start<'a>),
    /// `stop`: the peer sends no more audio.
    Stop,
    /// An unknown event; the session ignores it.
    Unknown,
}

/// A `start` with all members present and valid. Its encoding is [`ENCODING_PCM16`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Start<'a> {
    /// The call, as its tenant names it; a [`valid_id`].
    pub(crate) interaction_id: Cow<'a, str>,
    /// The tenant; a [`valid_id`].
    pub(crate) tenant_id: Cow<'a, str>,
    /// Hz; one of the rates given to [`parse`].
    pub(crate) sample_rate: u32,
}

/// The members of a peer's event that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Member {
    /// `event`
    Event,
    /// `interaction_id`
    InteractionId,
    /// `tenant_id`
    TenantId,
    /// `sample_rate`
    SampleRate,
    /// `encoding`
    Encoding,
}

impl Member {
    const COUNT: usize = 5;

    const ALL: [Member; Member::COUNT] = [
        Member::Event,
        Member::InteractionId,
        Member::TenantId,
        Member::SampleRate,
        Member::Encoding,
    ];

    /// The name in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Member::Event => "event",
            Member::InteractionId => "interaction_id",
            Member::TenantId => "tenant_id",
            Member::SampleRate => "sample_rate",
            Member::Encoding => "encoding",
        }
    }
}

/// Why a peer's text is not a valid event: always a fault of the peer. `Display` gives the sentence
/// for the peer, which names the member and says what to send instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EventError {
    /// Not JSON, or more than one JSON value.
    NotJson {
        /// Line in the text, from 1.
        line: usize,
        /// Column in the line, from 1; 0 at its start.
        column: usize,
    },
    /// JSON, but not an object.
    NotObject,
    /// A required member is missing.
    Missing(Member),
    /// A member appears twice; we do not guess which one counts.
    Duplicate(Member),
    /// A member has the wrong JSON type.
    Mistyped {
        /// Which.
        member: Member,
        /// The JSON type that is required.
        expected: &'static str,
        /// The JSON type that was sent.
        found: &'static str,
    },
    /// An integer that is not one of the configured sample rates.
    BadRate {
        /// The rate that was sent; negative and very large numbers are clamped.
        found: i64,
        /// The allowed rates, Hz.
        allowed: Vec<u32>,
    },
    /// An encoding other than [`ENCODING_PCM16`].
    BadEncoding(String),
    /// An id that is empty, longer than 256 bytes, or contains control characters.
    BadId(Member),
}

impl std::error::Error for EventError {}

impl fmt::Display for EventError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventError::NotJson { line, column } => {
                write!(
                    out,
                    "the text is not JSON (line {line}, column {column}): send one JSON object \
                     per text message"
                )
            }
            EventError::NotObject => {
                write!(out, "the text is JSON but no object: send an object with an event member")
            }
            EventError::Missing(member) => write!(out, "{} is missing: add it", member.name()),
            EventError::Duplicate(member) => {
                write!(out, "{} appears twice: send it once", member.name())
            }
            EventError::Mistyped { member, expected, found } => {
                write!(out, "{} is {found}: send {expected}", member.name())
            }
            EventError::BadRate { found, allowed } => {
                write!(out, "sample_rate {found} is not supported: send one of ")?;
                for (index, rate) in allowed.iter().enumerate() {
                    write!(out, "{}{rate}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            EventError::BadEncoding(found) => {
                write!(out, "encoding {found} is not supported: send {ENCODING_PCM16}")
            }
            EventError::BadId(member) => {
                write!(
                    out,
                    "{} has to be 1 to 256 bytes without control characters: send another id",
                    member.name()
                )
            }
        }
    }
}

/// Byte order mark, U+FEFF. Some encoders put it before a text to say that it is UTF-8.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Bytes of a message that [`looks_like_event`] looks at.
pub(crate) const EVENT_OPENING_SIZE: usize = 16;

/// Whether a binary message begins like an event: some clients send text as bytes.
pub(crate) fn looks_like_event(opening: &[u8]) -> bool {
    let opening = opening.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(opening);
    let member = opening.trim_ascii_start().strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    member.is_some_and(|member| member.is_empty() || member.starts_with(b"\""))
}

/// Reads a peer's text. `sample_rates` are the rates a `start` may name, Hz.
pub(crate) fn parse<'a>(text: &'a str, sample_rates: &[u32]) -> Result<PeerEvent<'a>, EventError> {
    // RFC 8259 §8.1: a parser may ignore the mark.
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let event: RawEvent<'a> = serde_json::from_str(text).map_err(|error| explain(text, error))?;
    match &*event.text(Member::Event)? {
        "start" => event.start(sample_rates).map(PeerEvent::Start),
        "stop" => Ok(PeerEvent::Stop),
        _ => Ok(PeerEvent::Unknown),
    }
}

/// What is wrong with a text that is no object.
fn explain(text: &str, error: serde_json::Error) -> EventError {
    // A value of another type ends the parse at its first byte. Read it to learn whether the whole
    // text is JSON.
    let error = match error.is_data().then(|| serde_json::from_str::<Value<'_>>(text)) {
        Some(Ok(_)) => return EventError::NotObject,
        Some(Err(error)) => error,
        None => error,
    };
    EventError::NotJson { line: error.line(), column: error.column() }
}

/// Appends `{"event":"started","interaction_id":"…"}` to `out`.
pub(crate) fn push_started(interaction_id: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"event\":\"started\",\"interaction_id\":");
    push_string(interaction_id, out);
    out.push(b'}');
}

/// Writes `{"event":"ack","seq":…}` to the start of `out` and returns its length. Does not
/// allocate.
pub(crate) fn write_ack(seq: u64, out: &mut [u8; ACK_TEXT_SIZE_MAX]) -> usize {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(seq).as_bytes();
    let number_end = ACK_OPENING.len() + digits.len();
    out[..ACK_OPENING.len()].copy_from_slice(ACK_OPENING);
    out[ACK_OPENING.len()..number_end].copy_from_slice(digits);
    out[number_end] = b'}';
    number_end + 1
}

/// Content of a `stopped` event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopped<'a> {
    /// The call, as its tenant names it.
    pub(crate) interaction_id: &'a str,
    /// Number of the last complete frame; 0 if there was none.
    pub(crate) seq: u64,
    /// Bytes of whole samples kept.
    pub(crate) bytes: u64,
    /// Length of the audio in milliseconds, rounded down.
    pub(crate) duration_ms: u64,
    /// Number of the last frame known to be durable; `None` without a journal.
    pub(crate) durable_seq: Option<u64>,
    /// Name of the level at which the promise of the last frame holds.
    pub(crate) level: &'static str,
}

/// Appends `{"event":"stopped",…}` to `out`.
pub(crate) fn push_stopped(stopped: &Stopped<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"event\":\"stopped\",\"interaction_id\":");
    push_string(stopped.interaction_id, out);
    out.extend_from_slice(b",\"seq\":");
    push_number(stopped.seq, out);
    out.extend_from_slice(b",\"bytes\":");
    push_number(stopped.bytes, out);
    out.extend_from_slice(b",\"duration_ms\":");
    push_number(stopped.duration_ms, out);
    out.extend_from_slice(b",\"durable_seq\":");
    match stopped.durable_seq {
        Some(seq) => push_number(seq, out),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"level\":");
    push_string(stopped.level, out);
    out.push(b'}');
}

/// Appends `{"event":"error","code":…,"reason":"…","message":"…","retryable":…}` to `out`.
pub(crate) fn push_error(
    code: u16,
    reason: &str,
    message: &str,
    retryable: bool,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"event\":\"error\",\"code\":");
    push_number(u64::from(code), out);
    out.extend_from_slice(b",\"reason\":");
    push_string(reason, out);
    out.extend_from_slice(b",\"message\":");
    push_string(message, out);
    out.extend_from_slice(b",\"retryable\":");
    out.extend_from_slice(if retryable { b"true" } else { b"false" });
    out.push(b'}');
}

fn push_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text)
        .expect("a Vec takes every byte, and a str is always valid JSON text");
}

fn push_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A peer's event. Only its syntax was checked.
#[derive(Default)]
struct RawEvent<'a> {
    values: [Option<Value<'a>>; Member::COUNT],
    repeated: [bool; Member::COUNT],
}

impl<'a> RawEvent<'a> {
    fn value(&self, member: Member) -> Result<&Value<'a>, EventError> {
        if self.repeated[member as usize] {
            return Err(EventError::Duplicate(member));
        }
        self.values[member as usize].as_ref().ok_or(EventError::Missing(member))
    }

    fn text(&self, member: Member) -> Result<Cow<'a, str>, EventError> {
        match self.value(member)? {
            Value::Text(text) => Ok(text.clone()),
            other => {
                Err(EventError::Mistyped { member, expected: "a string", found: other.kind() })
            }
        }
    }

    fn id(&self, member: Member) -> Result<Cow<'a, str>, EventError> {
        self.text(member)
            .and_then(|id| if valid_id(&id) { Ok(id) } else { Err(EventError::BadId(member)) })
    }

    fn start(&self, sample_rates: &[u32]) -> Result<Start<'a>, EventError> {
        let interaction_id = self.id(Member::InteractionId)?;
        let tenant_id = self.id(Member::TenantId)?;
        let sample_rate = self.sample_rate(sample_rates)?;
        let encoding = self.text(Member::Encoding)?;
        if encoding != ENCODING_PCM16 {
            return Err(EventError::BadEncoding(echo(&encoding).to_owned()));
        }
        Ok(Start { interaction_id, tenant_id, sample_rate })
    }

    /// Requires an integer as JSON writes it. `24000.0` and `"24000"` are refused: such a client
    /// does not send the value that it computes its audio with.
    fn sample_rate(&self, allowed: &[u32]) -> Result<u32, EventError> {
        let found = match self.value(Member::SampleRate)? {
            Value::Integer(found) => *found,
            other => {
                let (member, expected) =
                    (Member::SampleRate, "an integer without quotes or fraction");
                return Err(EventError::Mistyped { member, expected, found: other.kind() });
            }
        };
        let rate = allowed.iter().copied().find(|rate| i64::from(*rate) == found);
        rate.ok_or_else(|| EventError::BadRate { found, allowed: allowed.to_vec() })
    }
}

/// The start of a peer's text, short enough to repeat it in an answer.
fn echo(text: &str) -> &str {
    &text[..text.floor_char_boundary(ECHOED_TEXT_MAX)]
}

impl<'de> Deserialize<'de> for RawEvent<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EventVisitor)
    }
}

struct EventVisitor;

impl<'de> Visitor<'de> for EventVisitor {
    type Value = RawEvent<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut event = RawEvent::default();
        while let Some(Name(member)) = members.next_key()? {
            let Some(member) = member else {
                members.next_value::<IgnoredAny>()?;
                continue;
            };
            event.repeated[member as usize] |= event.values[member as usize].is_some();
            event.values[member as usize] = Some(members.next_value()?);
        }
        Ok(event)
    }
}

/// The name of a member, with its escapes resolved: `None` if it is not one of ours.
struct Name(Option<Member>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a member name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(Member::ALL.into_iter().find(|member| member.name() == name)))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// The value of a member, as far as one of our members needs it.
enum Value<'a> {
    Text(Cow<'a, str>),
    Integer(i64),
    Fraction,
    Boolean,
    Null,
    List,
    Object,
}

impl Value<'_> {
    const fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "a number",
            Value::Fraction => "a number with a fraction or exponent",
            Value::Boolean => "a boolean",
            Value::Null => "null",
            Value::List => "a list",
            Value::Object => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Value::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Value::Integer(i64::try_from(number).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Value::Fraction)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Value::Boolean)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Object)
    }
}

#[cfg(test)]
mod tests;
