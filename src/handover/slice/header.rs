//! The header of a slice: see the [picture](super).

#![forbid(unsafe_code)]

use super::{HEADER_SIZE, NodeName};
use crate::archive::layout::RunName;
use crate::clock::UnixMicros;
use crate::format::{FormatError, Lsn, SegmentHeader, SegmentUuid};

/// First bytes of every slice.
const MAGIC: [u8; 8] = *b"XJNSLICE";

/// Version of the header.
const VERSION: u16 = 1;

const IS_LAST: u32 = 1;

const NODE_AT: usize = 124;
const CRC_AT: usize = HEADER_SIZE - 4;

const _: () = assert!(NODE_AT + NodeName::SIZE_MAX <= CRC_AT);

/// What a slice is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceHeader {
    /// The node that wrote the journal.
    pub node: NodeName,
    /// The run.
    pub run: RunName,
    /// The segment. Its `size` is not kept: 0.
    pub segment: SegmentHeader,
    /// Position of its first batch.
    pub first: Lsn,
    /// Position of the byte after its last batch.
    pub end: Lsn,
    /// Up to here it is known to have been durable. Less than `end` only at the end of a node that
    /// crashed.
    pub durable_end: Lsn,
    /// The segment ends with this slice.
    pub is_last: bool,
}

impl SliceHeader {
    /// Encodes the header, with its checksum.
    pub(super) fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut out = Vec::with_capacity(HEADER_SIZE);
        let segment = &self.segment;
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(segment.shard.to_le_bytes());
        out.extend(self.run.boot.to_le_bytes());
        out.extend(self.run.started_at.0.to_le_bytes());
        out.extend(self.run.pid.to_le_bytes());
        out.extend((u32::from(self.is_last) * IS_LAST).to_le_bytes());
        out.extend(segment.uuid.0);
        out.extend(segment.predecessor.0);
        let (first, end, durable_end) = (self.first.0, self.end.0, self.durable_end.0);
        for number in [
            segment.predecessor_end.0,
            segment.start.0,
            segment.id,
            segment.created_at.0,
            first,
            end,
            durable_end,
        ] {
            out.extend(number.to_le_bytes());
        }
        out.extend(segment.version.to_le_bytes());
        out.extend((self.node.as_str().len() as u16).to_le_bytes());
        out.extend(self.node.as_str().as_bytes());
        out.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&out);
        out.extend(crc.to_le_bytes());
        let mut bytes = [0; HEADER_SIZE];
        bytes.copy_from_slice(&out);
        bytes
    }

    /// Decodes the header at the start of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<SliceHeader, FormatError> {
        let bytes = bytes.first_chunk::<HEADER_SIZE>().ok_or(FormatError::Truncated)?;
        if bytes[..8] != MAGIC {
            return Err(FormatError::Magic);
        }
        if bytes[CRC_AT..] != crc32c::crc32c(&bytes[..CRC_AT]).to_le_bytes() {
            return Err(FormatError::HeaderCrc);
        }
        let half = |at: usize| bytes[at..].first_chunk().map_or(0, |it| u16::from_le_bytes(*it));
        let word = |at: usize| bytes[at..].first_chunk().map_or(0, |it| u32::from_le_bytes(*it));
        let long = |at: usize| bytes[at..].first_chunk().map_or(0, |it| u64::from_le_bytes(*it));
        let uuid = |at: usize| SegmentUuid(*bytes[at..].first_chunk().unwrap_or(&[0; 16]));
        if half(8) != VERSION {
            return Err(FormatError::Version(half(8)));
        }
        let node = bytes
            .get(NODE_AT..NODE_AT + usize::from(half(122)))
            .and_then(|node| NodeName::parse(std::str::from_utf8(node).ok()?).ok());
        let run = RunName { boot: word(12), started_at: UnixMicros(long(16)), pid: word(24) };
        let header = SliceHeader {
            node: node.ok_or(FormatError::Id)?,
            run,
            segment: SegmentHeader {
                version: half(120),
                shard: half(10),
                run: run.number(),
                id: long(80),
                uuid: uuid(32),
                predecessor: uuid(48),
                predecessor_end: Lsn(long(64)),
                start: Lsn(long(72)),
                size: 0,
                created_at: UnixMicros(long(88)),
            },
            first: Lsn(long(96)),
            end: Lsn(long(104)),
            durable_end: Lsn(long(112)),
            is_last: match word(28) {
                0 => false,
                IS_LAST => true,
                _ => return Err(FormatError::Reserved),
            },
        };
        let is_ordered = header.segment.start < header.first && header.first < header.end;
        if is_ordered { Ok(header) } else { Err(FormatError::Size(header.end.0)) }
    }
}
