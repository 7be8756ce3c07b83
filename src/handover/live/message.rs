//! A message for the engine, and its headers.
//!
//! | header | in | content |
//! | --- | --- | --- |
//! | `Nats-Msg-Id` | all | the same whenever the message is made again |
//! | `Exo-Node` | all | the node that received the audio |
//! | `Exo-Epoch` | all | the connection: boot, microseconds since then, shard |
//! | `Exo-Started` | all | when the epoch started, Unix time in microseconds |
//! | `Exo-Rate` | audio | samples a second |
//! | `Exo-Seq` | audio | number of the first frame |
//! | `Exo-Frames` | audio | sizes of the frames in bytes: `9600x10`, or `9600x4,640x1` |
//! | `Exo-Received` | audio | when the first frame had arrived, Unix time in microseconds |
//!
//! The payload of an audio message is the frames, one after the other, as 16-bit little-endian
//! samples. The payload of an event is one JSON object.

#![forbid(unsafe_code)]

use crate::call::{CallIdentity, Epoch};
use crate::clock::UnixMicros;
use crate::format::Lsn;
use bytes::Bytes;
use std::fmt;
use std::str::FromStr;

pub(crate) const NODE: &str = "Exo-Node";
pub(crate) const EPOCH: &str = "Exo-Epoch";
pub(crate) const STARTED: &str = "Exo-Started";
pub(crate) const RATE: &str = "Exo-Rate";
pub(crate) const SEQ: &str = "Exo-Seq";
pub(crate) const FRAMES: &str = "Exo-Frames";
pub(crate) const RECEIVED: &str = "Exo-Received";

/// A message, before the engine has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveMessage {
    /// The call it belongs to.
    pub(crate) identity: CallIdentity,
    /// The call's number in journal records.
    pub(crate) call: u64,
    /// The epoch it belongs to.
    pub(crate) epoch: EpochName,
    /// What it says.
    pub(crate) content: Content,
    /// Position in the shard's journal from which it could be made again.
    pub(crate) from: Lsn,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Frames of the epoch, in order and without a gap.
    Audio(Chunk),
    /// An event: its name, its number within the epoch for events that can occur twice, and JSON.
    Event {
        /// `started`, `gap`, `ended`, `erased` or `recording_ready`.
        name: &'static str,
        /// The frame it is about; 0 for none.
        seq: u64,
        /// The payload.
        json: Bytes,
    },
}

/// Frames of an epoch, in order and without a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Number of the first frame.
    pub(crate) seq: u64,
    /// Sizes of the frames.
    pub(crate) sizes: FrameSizes,
    /// Samples a second.
    pub(crate) sample_rate: u32,
    /// When the first frame had arrived.
    pub(crate) received_at: UnixMicros,
    /// The frames.
    pub(crate) audio: Bytes,
}

impl LiveMessage {
    /// The same whenever the message is made again from the same position: the engine drops a
    /// message whose id it has seen a short time ago.
    pub(crate) fn id(&self) -> String {
        let call = super::subject::call(&self.identity);
        let epoch = &self.epoch;
        match &self.content {
            // A chunk that waited for frames may end elsewhere when it is made again: then it is
            // another message, and must not be dropped.
            Content::Audio(chunk) => format!("{call}.{epoch}.{}-{}", chunk.seq, chunk.last_seq()),
            Content::Event { name, seq, .. } => format!("{call}.{epoch}.{name}.{seq}"),
        }
    }

    /// The payload.
    pub(crate) fn payload(&self) -> Bytes {
        match &self.content {
            Content::Audio(chunk) => chunk.audio.clone(),
            Content::Event { json, .. } => json.clone(),
        }
    }

    /// Its headers but for the id.
    pub(crate) fn headers(&self) -> Vec<(&'static str, String)> {
        let EpochName { node, epoch, started_at } = &self.epoch;
        let mut headers = vec![
            (NODE, node.to_string()),
            (EPOCH, epoch_text(*epoch)),
            (STARTED, started_at.0.to_string()),
        ];
        if let Content::Audio(chunk) = &self.content {
            headers.extend([
                (RATE, chunk.sample_rate.to_string()),
                (SEQ, chunk.seq.to_string()),
                (FRAMES, chunk.sizes.to_string()),
                (RECEIVED, chunk.received_at.0.to_string()),
            ]);
        }
        headers
    }
}

/// An epoch among those of all nodes. Epochs of a call are in order of their starts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochName {
    /// When the epoch started.
    pub started_at: UnixMicros,
    /// The node.
    pub node: Box<str>,
    /// The node's own name of it.
    pub epoch: Epoch,
}

impl EpochName {
    /// From a message's headers. The error names the header that is missing or not valid.
    pub(crate) fn from_headers<'a>(
        header: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<EpochName, &'static str> {
        Ok(EpochName {
            started_at: UnixMicros(number(&header, STARTED)?),
            node: header(NODE).ok_or(NODE)?.into(),
            epoch: header(EPOCH).and_then(epoch_from_text).ok_or(EPOCH)?,
        })
    }
}

impl EpochName {
    /// The node's own name of the epoch: boot, microseconds since the boot, and shard.
    pub(super) fn epoch_text(&self) -> String {
        epoch_text(self.epoch)
    }
}

impl fmt::Display for EpochName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = super::subject::token(&self.node);
        write!(formatter, "{node}.{}", epoch_text(self.epoch))
    }
}

impl Chunk {
    /// From a message's headers and payload. The error names the header that is missing or not
    /// valid.
    pub(crate) fn from_message<'a>(
        header: impl Fn(&str) -> Option<&'a str>,
        audio: Bytes,
    ) -> Result<Chunk, &'static str> {
        let sizes = header(FRAMES).and_then(|text| text.parse().ok());
        let chunk = Chunk {
            seq: number(&header, SEQ)?,
            sizes: sizes.ok_or(FRAMES)?,
            sample_rate: number(&header, RATE)?,
            received_at: UnixMicros(number(&header, RECEIVED)?),
            audio,
        };
        match chunk.sizes.bytes() == Some(chunk.audio.len() as u64) && chunk.seq > 0 {
            true => Ok(chunk),
            false => Err(FRAMES),
        }
    }

    /// Number of the last frame.
    pub(crate) fn last_seq(&self) -> u64 {
        (self.seq + self.sizes.count()).saturating_sub(1)
    }

    /// Its frames with their numbers.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (u64, Bytes)> {
        let mut offset = 0;
        (self.seq..).zip(self.sizes.iter()).map(move |(seq, size)| {
            let start = offset;
            offset += size as usize;
            (seq, self.audio.slice(start..offset))
        })
    }
}

/// A header's number.
fn number<'a, N: FromStr>(
    header: impl Fn(&str) -> Option<&'a str>,
    name: &'static str,
) -> Result<N, &'static str> {
    header(name).and_then(|text| text.parse().ok()).ok_or(name)
}

/// Boot, microseconds since the boot, and shard.
fn epoch_text(epoch: Epoch) -> String {
    format!("{}-{}-{}", epoch.boot, epoch.micros, epoch.shard)
}

fn epoch_from_text(text: &str) -> Option<Epoch> {
    let mut parts = text.splitn(3, '-');
    Some(Epoch {
        boot: parts.next()?.parse().ok()?,
        micros: parts.next()?.parse().ok()?,
        shard: parts.next()?.parse().ok()?,
    })
}

/// Most frames of a message that a reader takes. Ours have ten.
const FRAMES_MAX: u64 = 10_000;

/// Sizes of frames, equal neighbours together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrameSizes(Vec<(u32, u32)>);

impl FrameSizes {
    /// Adds a frame's size, bytes.
    pub(crate) fn push(&mut self, size: u32) {
        match self.0.last_mut() {
            Some((last, count)) if *last == size => *count += 1,
            _ => self.0.push((size, 1)),
        }
    }

    /// Number of frames.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    /// Bytes of all frames; `None` if they are more than can be counted.
    fn bytes(&self) -> Option<u64> {
        let mut sizes = self.0.iter().map(|(size, count)| u64::from(*size) * u64::from(*count));
        sizes.try_fold(0u64, u64::checked_add)
    }

    /// The size of each frame.
    fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(|(size, count)| std::iter::repeat_n(*size, *count as usize))
    }
}

impl fmt::Display for FrameSizes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (size, count)) in self.0.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(formatter, "{comma}{size}x{count}")?;
        }
        Ok(())
    }
}

impl FromStr for FrameSizes {
    type Err = ();

    fn from_str(text: &str) -> Result<FrameSizes, ()> {
        let run = |run: &str| {
            let (size, count) = run.split_once('x')?;
            Some((size.parse().ok()?, count.parse().ok().filter(|count| *count > 0)?))
        };
        let sizes = text.split(',').map(run).collect::<Option<Vec<_>>>().map(FrameSizes);
        sizes.filter(|sizes| sizes.count() <= FRAMES_MAX).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(content: Content) -> LiveMessage {
        LiveMessage {
            identity: CallIdentity { tenant: "acme".into(), interaction: "a.b".into() },
            epoch: EpochName {
                started_at: UnixMicros(1_700_000_000_000_001),
                node: "node.7".into(),
                epoch: Epoch { boot: 3, micros: 500, shard: 1 },
            },
            call: 1,
            content,
            from: Lsn(0),
        }
    }

    fn chunk() -> Chunk {
        let mut sizes = FrameSizes::default();
        [4, 4, 2].into_iter().for_each(|size| sizes.push(size));
        let audio = Bytes::from_static(b"aaaabbbbcc");
        Chunk { seq: 11, sizes, sample_rate: 8_000, received_at: UnixMicros(7), audio }
    }

    #[test]
    fn a_message_comes_back_from_its_headers() {
        let message = message(Content::Audio(chunk()));
        assert_eq!(message.id(), "acme.a%2Eb.node%2E7.3-500-1.11-13");
        let headers = message.headers();
        let header = |name: &str| {
            headers.iter().find(|(header, _)| *header == name).map(|(_, value)| value.as_str())
        };
        assert_eq!(header(FRAMES), Some("4x2,2x1"));
        assert_eq!(EpochName::from_headers(header).as_ref(), Ok(&message.epoch));
        let back = Chunk::from_message(header, message.payload()).expect("a chunk");
        assert_eq!(back, chunk());
        let frames: Vec<_> = back.frames().collect();
        assert_eq!(frames[1], (12, Bytes::from_static(b"bbbb")));
        assert_eq!(frames[2], (13, Bytes::from_static(b"cc")));
    }

    #[test]
    fn a_payload_that_the_headers_do_not_fit_is_refused() {
        let message = message(Content::Audio(chunk()));
        let headers = message.headers();
        let cut = |left_out: &'static str| {
            let headers = &headers;
            move |name: &str| {
                let mut found = headers.iter().filter(|(header, _)| *header != left_out);
                found.find(|(header, _)| *header == name).map(|(_, value)| value.as_str())
            }
        };
        let short = Bytes::from_static(b"aaaabbbb");
        assert_eq!(Chunk::from_message(cut(""), short), Err(FRAMES));
        for left_out in [SEQ, FRAMES, RATE, RECEIVED] {
            assert_eq!(Chunk::from_message(cut(left_out), message.payload()), Err(left_out));
        }
        for left_out in [NODE, EPOCH, STARTED] {
            assert_eq!(EpochName::from_headers(cut(left_out)), Err(left_out));
        }
        for text in ["", "4", "x2", "4x0", "4x2,", "4x-1", "5000000000x1", "0x10001"] {
            assert_eq!(text.parse::<FrameSizes>(), Err(()), "{text}");
        }
    }

    #[test]
    fn events_have_ids_of_their_own() {
        let event = |name, seq| message(Content::Event { name, seq, json: Bytes::new() }).id();
        assert_ne!(event("gap", 3), event("gap", 4));
        assert_ne!(event("started", 0), event("ended", 0));
    }
}
