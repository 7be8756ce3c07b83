//! The journal's headers and call records, written from the description in
//! `docs/journal-format.md`, not from the code of the node.

/// Segment headers, and the unit of batches, bytes.
pub const BLOCK_SIZE: usize = 4_096;

/// Batch and record headers, and the unit of records, bytes.
pub const LINE_SIZE: usize = 64;

/// Largest batch, bytes.
pub const BATCH_SIZE_MAX: usize = 1 << 20;

/// What is wrong with bytes of a journal, in words.
pub type Fault = &'static str;

/// Names one use of a segment file.
pub type Uuid = [u8; 16];

/// Names one connection of a call: boot number, microseconds since the boot, shard. Compared in
/// this order.
pub type Epoch = (u32, u64, u16);

/// A segment's first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The shard that writes it.
    pub shard: u16,
    /// Its run.
    pub run: u64,
    /// Number of the segment in its shard and run, from 1.
    pub id: u64,
    /// Uuid of this use of the file.
    pub uuid: Uuid,
    /// The segment before.
    pub predecessor: Uuid,
    /// Where that one ended. Bytes from there on do not count.
    pub predecessor_end: u64,
    /// Position of the first byte of this header.
    pub start: u64,
}

impl SegmentHeader {
    /// From a block.
    pub fn decode(block: &[u8]) -> Result<Self, Fault> {
        if block.len() < BLOCK_SIZE {
            return Err("segment header cut off");
        }
        if block[..8] != *b"XSEGMENT" {
            return Err("no segment header");
        }
        if u32_at(block, 4_092) != crc32c::crc32c(&block[..4_092]) {
            return Err("segment header's checksum wrong");
        }
        if !matches!(u16_at(block, 8), 1 | 2) || u32_at(block, 12) as usize != BLOCK_SIZE {
            return Err("segment header of an unknown version");
        }
        if block[96..4_092].iter().any(|byte| *byte != 0) {
            return Err("segment header's reserved bytes are not zero");
        }
        Ok(Self {
            shard: u16_at(block, 10),
            run: u64_at(block, 16),
            id: u64_at(block, 24),
            uuid: at(block, 32),
            predecessor: at(block, 48),
            predecessor_end: u64_at(block, 64),
            start: u64_at(block, 72),
        })
    }
}

/// The first line of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Size of the batch, bytes: whole blocks.
    pub size: usize,
    /// Number of records without pads.
    pub record_count: u16,
    /// Blocks before it that no completed sync covered when its header was made. 65,535 means that
    /// many or more.
    pub unsynced: u16,
    /// The segment's uuid.
    pub segment: Uuid,
    /// Number of the batch in its shard and run, from 1; 0 for repeated call records.
    pub number: u64,
    /// Position of this header.
    pub lsn: u64,
    /// Unix time, microseconds.
    pub sealed_at: u64,
    /// Checksum over the header checksums of all records, in order.
    pub records_crc: u32,
}

impl BatchHeader {
    /// From the first bytes of a batch.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() < LINE_SIZE {
            return Err("batch header cut off");
        }
        if bytes[..4] != *b"XBAT" {
            return Err("no batch header");
        }
        if u32_at(bytes, 60) != crc32c::crc32c(&bytes[..60]) {
            return Err("batch header's checksum wrong");
        }
        if bytes[4] != 1 || bytes[5] != 0 || usize::from(u16_at(bytes, 6)) != LINE_SIZE {
            return Err("batch header of an unknown version");
        }
        let size = u32_at(bytes, 8) as usize;
        if size == 0 || !size.is_multiple_of(BLOCK_SIZE) || size > BATCH_SIZE_MAX {
            return Err("batch of an impossible size");
        }
        Ok(Self {
            size,
            record_count: u16_at(bytes, 12),
            unsynced: u16_at(bytes, 14),
            segment: at(bytes, 16),
            number: u64_at(bytes, 32),
            lsn: u64_at(bytes, 40),
            sealed_at: u64_at(bytes, 48),
            records_crc: u32_at(bytes, 56),
        })
    }
}

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The ids of a call.
    Call,
    /// A chunk of a frame.
    Audio,
    /// How a connection ended.
    End,
    /// Zeros.
    Pad,
}

/// The first line of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// The part of this header in the batch's checksum over all headers.
    pub chained_crc: u32,
    /// Checksum over the payload. In an erased record: the header's checksum from before.
    pub payload_crc: u32,
    /// Size of the payload, bytes.
    pub length: usize,
    /// What it holds.
    pub kind: Kind,
    /// Whether it completes its frame.
    pub is_last: bool,
    /// Whether it was overwritten with zeros on demand.
    pub is_erased: bool,
    /// Low half of the call key.
    pub call: u64,
    /// The connection.
    pub epoch: Epoch,
    /// Frame number.
    pub seq: u64,
    /// Place of this chunk in its frame, bytes.
    pub offset: u32,
    /// Low half of the batch's number.
    pub batch: u32,
}

impl RecordHeader {
    /// From the first bytes of a record.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() < LINE_SIZE {
            return Err("record header cut off");
        }
        let bytes = &bytes[..LINE_SIZE];
        let header_crc = u32_at(bytes, 0);
        if header_crc != crc32c::crc32c(&bytes[4..]) {
            return Err("record header's checksum wrong");
        }
        let kind = match bytes[12] {
            1 => Kind::Call,
            2 => Kind::Audio,
            3 => Kind::End,
            4 => Kind::Pad,
            _ => return Err("record of an unknown kind"),
        };
        if bytes[14] != 1 {
            return Err("record of an unknown version");
        }
        let (flags, is_erased) = (bytes[13], bytes[13] & 2 != 0);
        if flags > 3
            || bytes[15] != 0
            || u16_at(bytes, 38) != 0
            || (is_erased && kind != Kind::Audio)
        {
            return Err("record header's reserved bits are not zero");
        }
        let payload_crc = u32_at(bytes, 4);
        let header = Self {
            chained_crc: if is_erased { payload_crc } else { header_crc },
            payload_crc,
            length: u32_at(bytes, 8) as usize,
            kind,
            is_last: flags & 1 != 0,
            is_erased,
            call: u64_at(bytes, 16),
            epoch: (u32_at(bytes, 32), u64_at(bytes, 24), u16_at(bytes, 36)),
            seq: u64_at(bytes, 40),
            offset: u32_at(bytes, 48),
            batch: u32_at(bytes, 52),
        };
        let is_blank = header.call == 0
            && header.epoch == (0, 0, 0)
            && header.offset == 0
            && u64_at(bytes, 56) == 0;
        if kind == Kind::Pad
            && !(is_blank && header.seq == 0 && header.length <= BLOCK_SIZE - LINE_SIZE)
        {
            return Err("pad that is not blank");
        }
        if (kind == Kind::Audio) != (header.seq > 0) {
            return Err("frame number in a record without audio, or none in one with audio");
        }
        Ok(header)
    }

    /// Bytes from this record to the next.
    pub fn record_size(&self) -> usize {
        LINE_SIZE + self.length.next_multiple_of(LINE_SIZE)
    }

    /// Whether the payload and its padding are what was written.
    pub fn check_payload(&self, payload: &[u8], padding: &[u8]) -> Result<(), Fault> {
        if padding.iter().any(|byte| *byte != 0) {
            return Err("padding is not zero");
        }
        match self.is_erased {
            true if payload.iter().any(|byte| *byte != 0) => Err("marked as erased, but is not"),
            false if crc32c::crc32c(payload) != self.payload_crc => Err("payload's checksum wrong"),
            _ => Ok(()),
        }
    }
}

/// Payload of a call record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallRecord<'a> {
    /// Low half of the call key.
    pub call: u64,
    /// The customer's id.
    pub tenant: &'a str,
    /// The call's id.
    pub interaction: &'a str,
    /// Hz.
    pub sample_rate: u32,
    /// Unix time, microseconds.
    pub started_at: u64,
}

impl<'a> CallRecord<'a> {
    /// From a payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Fault> {
        let (head, texts) = payload.split_at_checked(56).ok_or("call record cut off")?;
        let [tenant_size, interaction_size, peer_size] =
            [2, 4, 6].map(|at| usize::from(u16_at(head, at)));
        // Version 1 has no peer.
        let is_known = head[0] == 2 || (head[0] == 1 && peer_size == 0);
        if !is_known || head[1] != 1 || u32_at(head, 12) != 0 {
            return Err("call record of an unknown version");
        }
        if texts.len() != tenant_size + interaction_size + peer_size {
            return Err("call record of a wrong size");
        }
        let text = |bytes| {
            std::str::from_utf8(bytes).map_err(|_| "call record with an id that is not UTF-8")
        };
        let (tenant, texts) = texts.split_at(tenant_size);
        let (interaction, peer) = texts.split_at(interaction_size);
        text(peer)?;
        Ok(Self {
            call: u64_at(head, 16),
            tenant: text(tenant)?,
            interaction: text(interaction)?,
            sample_rate: u32_at(head, 8),
            started_at: u64_at(head, 32),
        })
    }
}

/// Payload of an end record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndRecord {
    /// Complete frames.
    pub frames: u64,
    /// Bytes of whole samples in them.
    pub bytes: u64,
}

impl EndRecord {
    /// From a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, Fault> {
        if payload.len() != 32 {
            return Err("end record of a wrong size");
        }
        if payload[0] != 1 || payload[1] != 0 || u32_at(payload, 4) != 0 {
            return Err("end record of an unknown version");
        }
        Ok(Self { frames: u64_at(payload, 8), bytes: u64_at(payload, 16) })
    }
}

/// Bytes at an offset that is known to be within.
fn at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[offset..offset + N]);
    out
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(at(bytes, offset))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(at(bytes, offset))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(at(bytes, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as the format's page lays them out, one field after the other.
    fn put(bytes: &mut [u8], fields: &[(usize, &[u8])]) {
        fields.iter().for_each(|(at, field)| bytes[*at..at + field.len()].copy_from_slice(field));
    }

    fn record() -> Vec<u8> {
        let mut bytes = vec![0; LINE_SIZE];
        put(
            &mut bytes,
            &[
                (4, &[1, 2, 3, 4]),
                (8, &[0x80, 0x25]),
                (12, &[2, 1, 1]),
                (16, &[5; 8]),
                (24, &[6; 8]),
            ],
        );
        put(
            &mut bytes,
            &[(32, &[7; 4]), (36, &[8; 2]), (40, &[9]), (48, &[10]), (52, &[11]), (56, &[12; 8])],
        );
        seal_record(&mut bytes);
        bytes
    }

    fn seal_record(bytes: &mut [u8]) {
        let crc = crc32c::crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn a_records_fields_are_where_the_page_says() {
        let bytes = record();
        let header = RecordHeader::decode(&bytes).unwrap();
        assert_eq!(
            (header.payload_crc, header.length, header.kind),
            (0x0403_0201, 9_600, Kind::Audio)
        );
        assert_eq!(
            (header.is_last, header.is_erased, header.chained_crc),
            (true, false, u32_at(&bytes, 0))
        );
        assert_eq!(
            (header.call, header.seq, header.offset, header.batch),
            (0x0505_0505_0505_0505, 9, 10, 11)
        );
        assert_eq!(header.epoch, (0x0707_0707, 0x0606_0606_0606_0606, 0x0808));
        assert_eq!(header.record_size(), 64 + 9_600);
    }

    #[test]
    fn a_batchs_fields_are_where_the_page_says() {
        let mut bytes = vec![0; LINE_SIZE];
        put(
            &mut bytes,
            &[
                (0, b"XBAT"),
                (4, &[1]),
                (6, &[64]),
                (8, &[0, 0x30, 2]),
                (12, &[1, 2]),
                (14, &[3, 4]),
            ],
        );
        put(
            &mut bytes,
            &[(16, &[5; 16]), (32, &[6; 8]), (40, &[7; 8]), (48, &[8; 8]), (56, &[9; 4])],
        );
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        let expected = BatchHeader {
            size: 0x0002_3000,
            record_count: 0x0201,
            unsynced: 0x0403,
            segment: [5; 16],
            number: 0x0606_0606_0606_0606,
            lsn: 0x0707_0707_0707_0707,
            sealed_at: 0x0808_0808_0808_0808,
            records_crc: 0x0909_0909,
        };
        assert_eq!(BatchHeader::decode(&bytes), Ok(expected));
    }

    #[test]
    fn a_call_record_has_a_peer_since_version_2() {
        let mut bytes = vec![0; 56];
        put(&mut bytes, &[(0, &[2, 1, 4, 0, 3, 0, 9]), (8, &[0x40, 0x1F]), (16, &[5; 8])]);
        bytes.extend(b"acmeone[::1]:443");
        let record = CallRecord::decode(&bytes).unwrap();
        let ids = (record.tenant, record.interaction);
        assert_eq!((ids, record.sample_rate), (("acme", "one"), 8_000));
        bytes[0] = 1;
        assert!(CallRecord::decode(&bytes).is_err(), "version 1 has no peer");
        bytes.truncate(56 + 7);
        bytes[6] = 0;
        let record = CallRecord::decode(&bytes).unwrap();
        assert_eq!((record.tenant, record.interaction), ("acme", "one"));
        bytes[0] = 3;
        assert!(CallRecord::decode(&bytes).is_err());
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let mut segment = vec![0; BLOCK_SIZE];
        put(&mut segment, &[(0, b"XSEGMENT"), (8, &[1]), (12, &[0, 0x10]), (16, &[3; 80])]);
        let crc = crc32c::crc32c(&segment[..4_092]);
        segment[4_092..].copy_from_slice(&crc.to_le_bytes());
        let mut batch = vec![0; LINE_SIZE];
        put(&mut batch, &[(0, b"XBAT"), (4, &[1]), (6, &[64]), (8, &[0, 0x10]), (12, &[4; 48])]);
        let crc = crc32c::crc32c(&batch[..60]);
        batch[60..].copy_from_slice(&crc.to_le_bytes());
        type IsSound = fn(&[u8]) -> bool;
        let readers: [(Vec<u8>, IsSound); 3] = [
            (segment, |bytes| SegmentHeader::decode(bytes).is_ok()),
            (batch, |bytes| BatchHeader::decode(bytes).is_ok()),
            (record(), |bytes| RecordHeader::decode(bytes).is_ok()),
        ];
        for (mut bytes, is_sound) in readers {
            assert!(is_sound(&bytes) && !is_sound(&bytes[..bytes.len() - 1]));
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_sound(&bytes), "bit {bit} of {} bytes", bytes.len());
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused_whatever_its_checksum() {
        for (at, value, fault) in [
            (12, 0, "unknown kind"),
            (12, 5, "unknown kind"),
            (12, 4, "pad that is not blank"),
            (12, 3, "frame number in a record without audio"),
            (13, 4, "reserved bits"),
            (14, 2, "unknown version"),
            (15, 1, "reserved bits"),
            (38, 1, "reserved bits"),
            (40, 0, "frame number"),
        ] {
            let mut bytes = record();
            bytes[at] = value;
            seal_record(&mut bytes);
            let found = RecordHeader::decode(&bytes).unwrap_err();
            assert!(found.contains(fault), "{at} {value}: {found}");
        }
        let mut erased = record();
        erased[13] = 3;
        seal_record(&mut erased);
        let erased = RecordHeader::decode(&erased).unwrap();
        assert_eq!(
            (erased.is_erased, erased.chained_crc),
            (true, 0x0403_0201),
            "the checksum from before goes on to count"
        );
        assert!(erased.check_payload(&[0; 9], &[0]).is_ok());
        assert!(
            erased.check_payload(&[0, 1], &[]).is_err()
                && erased.check_payload(&[0], &[1]).is_err()
        );
    }
}
