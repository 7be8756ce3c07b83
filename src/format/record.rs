//! The record header: see the [picture](super).

#![forbid(unsafe_code)]

use super::{FormatError, HEADER_SIZE, HeaderBytes, field, record_size, set};
use crate::call::{Epoch, Seq};
use crate::clock::UnixMicros;
use crate::constants::{BATCH_SIZE_MAX, BLOCK_SIZE, RECORD_ALIGNMENT};

/// Version of the record header.
pub(crate) const VERSION: u8 = 1;

/// Largest payload of a record, bytes: it fills a batch alone.
pub(crate) const PAYLOAD_SIZE_MAX: usize = BATCH_SIZE_MAX - 2 * HEADER_SIZE;

const HEADER_CRC: usize = 0;
const PAYLOAD_CRC: usize = 4;
const LENGTH: usize = 8;
const KIND: usize = 12;
const FLAGS: usize = 13;
const VERSION_AT: usize = 14;
const RESERVED_BYTE: usize = 15;
const CALL: usize = 16;
const EPOCH_MICROS: usize = 24;
const EPOCH_BOOT: usize = 32;
const EPOCH_SHARD: usize = 36;
const RESERVED_HALF: usize = 38;
const SEQ: usize = 40;
const OFFSET: usize = 48;
const BATCH: usize = 52;
const RECEIVED_AT: usize = 56;

const FLAG_LAST: u8 = 1;
const FLAG_ERASED: u8 = 2;

const _: () = assert!(RECEIVED_AT + 8 == HEADER_SIZE);
const _: () = assert!(record_size(PAYLOAD_SIZE_MAX) + HEADER_SIZE == BATCH_SIZE_MAX);

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// Identity of a call: ids, rate, claims.
    Call,
    /// A chunk of an audio frame.
    Audio,
    /// How an epoch of a call ended.
    End,
    /// Nothing: fills a batch up to the end of its block.
    Pad,
}

impl RecordKind {
    const fn code(self) -> u8 {
        match self {
            RecordKind::Call => 1,
            RecordKind::Audio => 2,
            RecordKind::End => 3,
            RecordKind::Pad => 4,
        }
    }

    const fn from_code(code: u8) -> Option<RecordKind> {
        match code {
            1 => Some(RecordKind::Call),
            2 => Some(RecordKind::Audio),
            3 => Some(RecordKind::End),
            4 => Some(RecordKind::Pad),
            _ => None,
        }
    }
}

/// The header of a record, without its own checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// CRC-32C of the payload. In an erased record, the checksum of the header before it was erased
    /// ([`RecordHeader::erase`]).
    pub(crate) payload_crc: u32,
    /// Bytes of payload, at most [`PAYLOAD_SIZE_MAX`].
    pub(crate) length: u32,
    /// What the payload is.
    pub kind: RecordKind,
    /// Whether it completes its frame.
    pub last: bool,
    /// Whether its payload was overwritten with zeros on demand. Only audio can be erased.
    pub(crate) erased: bool,
    /// The call's record number ([`crate::call::CallKey::record_number`]).
    pub(crate) call: u64,
    /// The epoch: one connection's share of the call.
    pub epoch: Epoch,
    /// Number of the frame; 0 if this is not audio.
    pub seq: Seq,
    /// Offset of the payload in its frame, bytes.
    pub(crate) offset: u32,
    /// Low half of the number of the batch it is in.
    pub(crate) batch: u32,
    /// When the payload arrived.
    pub(crate) received_at: UnixMicros,
}

impl RecordHeader {
    /// The header of the pad that fills `size` bytes, header included: a positive multiple of 64,
    /// at most a block.
    pub const fn pad(size: usize, batch: u32) -> RecordHeader {
        let length = size - HEADER_SIZE;
        RecordHeader {
            payload_crc: CRC_OF_ZERO_LINES[length / RECORD_ALIGNMENT],
            length: length as u32,
            kind: RecordKind::Pad,
            last: false,
            erased: false,
            call: 0,
            epoch: Epoch { boot: 0, micros: 0, shard: 0 },
            seq: Seq(0),
            offset: 0,
            batch,
            received_at: UnixMicros(0),
        }
    }

    /// Bytes the record takes up in ring and file.
    pub(crate) const fn record_size(&self) -> usize {
        record_size(self.length as usize)
    }

    /// The header after its payload was overwritten with zeros. It keeps its old checksum for the
    /// running checksum of the batch, so the batch header does not change. One write within a line
    /// erases a record, so a power failure cannot leave half of it.
    pub fn erase(&self) -> RecordHeader {
        if self.erased {
            *self
        } else {
            RecordHeader { payload_crc: header_crc(&self.encode()), erased: true, ..*self }
        }
    }

    /// What the record adds to the running checksum of its batch: the checksum of its header as
    /// first written.
    pub(crate) fn chained_crc(&self, encoded: &HeaderBytes) -> u32 {
        if self.erased { self.payload_crc } else { header_crc(encoded) }
    }

    /// Whether `payload` is as it was written, or all zeros if it was erased.
    pub(crate) fn check_payload(&self, payload: &[u8]) -> Result<(), FormatError> {
        match self.erased {
            true if payload.iter().any(|byte| *byte != 0) => Err(FormatError::Erasure),
            false if crc32c::crc32c(payload) != self.payload_crc => Err(FormatError::PayloadCrc),
            _ => Ok(()),
        }
    }

    /// Encodes the header, with its checksum.
    pub fn encode(&self) -> HeaderBytes {
        let mut bytes = [0; HEADER_SIZE];
        set(&mut bytes, PAYLOAD_CRC, self.payload_crc.to_le_bytes());
        set(&mut bytes, LENGTH, self.length.to_le_bytes());
        bytes[KIND] = self.kind.code();
        bytes[FLAGS] = (FLAG_LAST * u8::from(self.last)) | (FLAG_ERASED * u8::from(self.erased));
        bytes[VERSION_AT] = VERSION;
        set(&mut bytes, CALL, self.call.to_le_bytes());
        set(&mut bytes, EPOCH_MICROS, self.epoch.micros.to_le_bytes());
        set(&mut bytes, EPOCH_BOOT, self.epoch.boot.to_le_bytes());
        set(&mut bytes, EPOCH_SHARD, self.epoch.shard.to_le_bytes());
        set(&mut bytes, SEQ, self.seq.0.to_le_bytes());
        set(&mut bytes, OFFSET, self.offset.to_le_bytes());
        set(&mut bytes, BATCH, self.batch.to_le_bytes());
        set(&mut bytes, RECEIVED_AT, self.received_at.0.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[PAYLOAD_CRC..]);
        set(&mut bytes, HEADER_CRC, crc.to_le_bytes());
        bytes
    }

    /// Decodes a header. Does not look at the payload: its length is possible, but its bytes may
    /// not be there.
    pub fn decode(bytes: &HeaderBytes) -> Result<RecordHeader, FormatError> {
        if header_crc(bytes) != crc32c::crc32c(&bytes[PAYLOAD_CRC..]) {
            return Err(FormatError::HeaderCrc);
        }
        if bytes[VERSION_AT] != VERSION {
            return Err(FormatError::Version(u16::from(bytes[VERSION_AT])));
        }
        let kind = RecordKind::from_code(bytes[KIND]).ok_or(FormatError::Kind(bytes[KIND]))?;
        let reserved = bytes[RESERVED_BYTE] != 0 || field::<2>(bytes, RESERVED_HALF) != [0; 2];
        let erased = bytes[FLAGS] & FLAG_ERASED != 0;
        if reserved
            || bytes[FLAGS] & !(FLAG_LAST | FLAG_ERASED) != 0
            || (erased && kind != RecordKind::Audio)
        {
            return Err(FormatError::Reserved);
        }
        let length = u32::from_le_bytes(field(bytes, LENGTH));
        let length_max =
            if kind == RecordKind::Pad { BLOCK_SIZE - HEADER_SIZE } else { PAYLOAD_SIZE_MAX };
        if length as usize > length_max {
            return Err(FormatError::Size(u64::from(length)));
        }
        Ok(RecordHeader {
            payload_crc: u32::from_le_bytes(field(bytes, PAYLOAD_CRC)),
            length,
            kind,
            last: bytes[FLAGS] & FLAG_LAST != 0,
            erased,
            call: u64::from_le_bytes(field(bytes, CALL)),
            epoch: Epoch {
                boot: u32::from_le_bytes(field(bytes, EPOCH_BOOT)),
                micros: u64::from_le_bytes(field(bytes, EPOCH_MICROS)),
                shard: u16::from_le_bytes(field(bytes, EPOCH_SHARD)),
            },
            seq: Seq(u64::from_le_bytes(field(bytes, SEQ))),
            offset: u32::from_le_bytes(field(bytes, OFFSET)),
            batch: u32::from_le_bytes(field(bytes, BATCH)),
            received_at: UnixMicros(u64::from_le_bytes(field(bytes, RECEIVED_AT))),
        })
    }
}

/// The checksum that an encoded record header carries.
pub(crate) fn header_crc(bytes: &HeaderBytes) -> u32 {
    u32::from_le_bytes(field(bytes, HEADER_CRC))
}

/// Adds a record's header checksum to the running one over all records of its batch, which starts
/// at 0.
pub(crate) fn chain_crc(records_crc: u32, header_crc: u32) -> u32 {
    crc32c::crc32c_append(records_crc, &header_crc.to_le_bytes())
}

/// CRC-32C of 0, 1, 2 … lines of zeros. A pad's payload is zeros, so its checksum needs no pass
/// over it.
const CRC_OF_ZERO_LINES: [u32; BLOCK_SIZE / RECORD_ALIGNMENT] = {
    let mut table = [0; BLOCK_SIZE / RECORD_ALIGNMENT];
    let mut remainder = u32::MAX;
    let mut line = 1;
    while line < table.len() {
        let mut bit = 0;
        while bit < RECORD_ALIGNMENT * 8 {
            // The polynomial of CRC-32C, reflected.
            remainder = (remainder >> 1) ^ (0x82F6_3B78 * (remainder & 1));
            bit += 1;
        }
        table[line] = !remainder;
        line += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> RecordHeader {
        RecordHeader {
            payload_crc: 0x0403_0201,
            length: 9_600,
            kind: RecordKind::Audio,
            last: true,
            erased: false,
            call: 0x1817_1615_1413_1211,
            epoch: Epoch { boot: 0x2423_2221, micros: 0x3837_3635_3433_3231, shard: 0x4241 },
            seq: Seq(0x5857_5655_5453_5251),
            offset: 0x6463_6261,
            batch: 0x7473_7271,
            received_at: UnixMicros(0x8887_8685_8483_8281),
        }
    }

    #[test]
    fn every_field_has_its_place() {
        let bytes = header().encode();
        let mut expected = vec![0x01, 0x02, 0x03, 0x04, 0x80, 0x25, 0, 0, 2, 1, 1, 0];
        expected.extend([0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
        expected.extend([0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38]);
        expected.extend([0x21, 0x22, 0x23, 0x24, 0x41, 0x42, 0, 0]);
        expected.extend([0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58]);
        expected.extend([0x61, 0x62, 0x63, 0x64, 0x71, 0x72, 0x73, 0x74]);
        expected.extend([0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88]);
        assert_eq!(bytes[4..], expected);
        assert_eq!(bytes[..4], crc32c::crc32c(&expected).to_le_bytes());
        assert_eq!(RecordHeader::decode(&bytes), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = header().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHeader::decode(&damaged), Err(FormatError::HeaderCrc));
        }
        assert_eq!(RecordHeader::decode(&[0; 64]), Err(FormatError::HeaderCrc));
        assert_eq!(RecordHeader::decode(&[0xFF; 64]), Err(FormatError::HeaderCrc));
    }

    /// Changes a byte and corrects the checksum.
    fn forged(at: usize, value: u8) -> Result<RecordHeader, FormatError> {
        let mut bytes = header().encode();
        bytes[at] = value;
        let crc = crc32c::crc32c(&bytes[4..]);
        set(&mut bytes, HEADER_CRC, crc.to_le_bytes());
        RecordHeader::decode(&bytes)
    }

    #[test]
    fn impossible_fields_are_named() {
        assert_eq!(forged(KIND, 0), Err(FormatError::Kind(0)));
        assert_eq!(forged(KIND, 5), Err(FormatError::Kind(5)));
        assert_eq!(forged(FLAGS, 5), Err(FormatError::Reserved));
        assert_eq!(forged(RESERVED_BYTE, 1), Err(FormatError::Reserved));
        assert_eq!(forged(RESERVED_HALF + 1, 1), Err(FormatError::Reserved));
        assert_eq!(forged(VERSION_AT, 2), Err(FormatError::Version(2)));
        assert_eq!(forged(LENGTH + 2, 0x10), Err(FormatError::Size(0x10_2580)));
        assert_eq!(forged(KIND, 4), Err(FormatError::Size(9_600)), "a pad stays within a block");
    }

    #[test]
    fn an_erased_record_keeps_its_place_in_the_chain() {
        let (before, after) = (header(), header().erase());
        assert_eq!(after.encode()[FLAGS], 3);
        assert_eq!(after.payload_crc, header_crc(&before.encode()));
        assert_eq!(after.chained_crc(&after.encode()), before.chained_crc(&before.encode()));
        assert_eq!(
            (after.erase(), RecordHeader::decode(&after.encode())),
            (after, Ok(after)),
            "erasing twice changes nothing more"
        );
        assert_eq!(after.check_payload(&[0; 9_600]), Ok(()));
        assert_eq!(after.check_payload(&[0, 0, 1]), Err(FormatError::Erasure));
        let end = RecordHeader { kind: RecordKind::End, ..after };
        assert_eq!(
            RecordHeader::decode(&end.encode()),
            Err(FormatError::Reserved),
            "only audio can be erased"
        );
    }

    #[test]
    fn pads_carry_the_checksum_of_zeros() {
        for size in (HEADER_SIZE..=BLOCK_SIZE).step_by(RECORD_ALIGNMENT) {
            let pad = RecordHeader::pad(size, 0x7473_7271);
            assert_eq!(pad.record_size(), size);
            assert_eq!(pad.payload_crc, crc32c::crc32c(&vec![0; size - HEADER_SIZE]));
            assert_eq!(RecordHeader::decode(&pad.encode()), Ok(pad));
        }
    }
}
