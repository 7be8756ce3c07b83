//! An epoch while what its segments' indexes say is put together. It stays small however many
//! segments the epoch has, and can be put away as bytes and continued.

#![forbid(unsafe_code)]

use super::catalog::{CallEpoch, EpochState, Gap, GapReason, Parts};
use super::{Absence, JournalError, ShardJournal};
use crate::archive::index::places::{put, take};
use crate::archive::index::{CallFacts, EpochIndex};
use crate::archive::ranges::{SeqRange, SeqRanges};
use crate::call::Epoch;
use crate::clock::UnixMicros;
use crate::format::payload::END_SIZE;
use crate::format::{EndRecord, FormatError};

/// What is known of an epoch so far. Segments are added in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gathered {
    facts: Option<CallFacts>,
    end: Option<EndRecord>,
    /// Completed frames.
    spans: Vec<Span>,
    bytes: u64,
    erased: u64,
    broken: u64,
    /// Completed frames in all segments; those in two segments count twice.
    completed: u64,
    has_audio: bool,
    open_seq: u64,
    first_received_at: UnixMicros,
    last_received_at: UnixMicros,
    parts: Parts,
    is_live: bool,
}

/// A range of completed frames, and the numbers of the segments that hold its ends. They tell why
/// the frames before and after it are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    range: SeqRange,
    /// The first segment with the first frame.
    first_id: u64,
    /// The last segment with the last frame.
    last_id: u64,
}

impl Gathered {
    /// Adds what a segment says, which is at `position` and has the number `id`.
    pub(super) fn add(&mut self, position: usize, id: u64, call_epoch: EpochIndex) {
        let mut next = Gathered {
            facts: call_epoch.facts,
            end: call_epoch.end,
            spans: Vec::new(),
            bytes: call_epoch.bytes,
            erased: call_epoch.erased,
            broken: call_epoch.broken,
            completed: call_epoch.frames.count(),
            has_audio: call_epoch.first_seq > 0,
            open_seq: call_epoch.open_seq,
            first_received_at: call_epoch.first_received_at,
            last_received_at: call_epoch.last_received_at,
            parts: Parts::default(),
            is_live: false,
        };
        next.parts.add(position);
        for range in call_epoch.frames.iter() {
            next.spans.push(Span { range, first_id: id, last_id: id });
        }
        self.append(next);
    }

    /// Adds what was gathered of later segments.
    pub(super) fn append(&mut self, next: Gathered) {
        if self.parts.is_empty() {
            *self = next;
            return;
        }
        self.first_received_at = self.first_received_at.min(next.first_received_at);
        self.last_received_at = self.last_received_at.max(next.last_received_at);
        self.parts.append(&next.parts);
        for span in next.spans {
            self.add_span(span);
        }
        self.completed += next.completed;
        self.bytes += next.bytes;
        self.erased += next.erased;
        self.broken += next.broken;
        if next.has_audio {
            self.open_seq = next.open_seq;
        }
        self.has_audio |= next.has_audio;
        self.facts = next.facts.or(self.facts.take());
        self.end = next.end.or(self.end.take());
        self.is_live |= next.is_live;
    }

    fn add_span(&mut self, mut span: Span) {
        let (first, last) = (span.range.first, span.range.last);
        let from = self.spans.partition_point(|known| known.range.last.saturating_add(1) < first);
        let to = self.spans.partition_point(|known| known.range.first <= last.saturating_add(1));
        for known in self.spans.get(from..to).unwrap_or_default() {
            match known.range.first.cmp(&span.range.first) {
                std::cmp::Ordering::Less => {
                    (span.range.first, span.first_id) = (known.range.first, known.first_id);
                }
                std::cmp::Ordering::Equal => span.first_id = span.first_id.min(known.first_id),
                std::cmp::Ordering::Greater => {}
            }
            match known.range.last.cmp(&span.range.last) {
                std::cmp::Ordering::Greater => {
                    (span.range.last, span.last_id) = (known.range.last, known.last_id);
                }
                std::cmp::Ordering::Equal => span.last_id = span.last_id.max(known.last_id),
                std::cmp::Ordering::Less => {}
            }
        }
        self.spans.splice(from..to, [span]);
    }

    /// The position of the last segment that was added.
    pub(super) fn last_position(&self) -> Option<usize> {
        self.parts.last().map(|part| part.segment)
    }

    /// The position of the first segment that was added.
    pub(super) fn first_position(&self) -> Option<usize> {
        self.parts.first().map(|part| part.segment)
    }

    /// Its last segment is being written, and its call goes on unless its end is there.
    pub(super) fn set_live(&mut self) {
        self.is_live = true;
    }

    /// Identity of the call; `None` if no call record was found.
    pub(super) fn facts(&self) -> Option<&CallFacts> {
        self.facts.as_ref()
    }

    /// About how many bytes of memory it takes.
    pub(super) fn size(&self) -> usize {
        let ids = self
            .facts
            .as_ref()
            .map_or(0, |facts| facts.identity.tenant.len() + facts.identity.interaction.len());
        size_of::<Gathered>() + 64 + ids + self.spans.len() * 32 + self.parts.size()
    }

    /// All that the journal has of the epoch.
    pub(super) fn finish(
        self,
        (shard, journal): (usize, &ShardJournal),
        (call, epoch): (u64, Epoch),
    ) -> CallEpoch {
        let state = match self.end {
            Some(end) => EpochState::Ended(end),
            None if self.is_live => EpochState::Live,
            None => EpochState::Cut,
        };
        let mut frames = SeqRanges::default();
        self.spans.iter().for_each(|span| frames.add(span.range));
        let expected = self.end.map_or(0, |end| end.frames);
        let gaps = frames.gaps(expected);
        let gaps = gaps.into_iter().map(|range| Gap { range, reason: self.reason(range, journal) });
        CallEpoch {
            call,
            epoch,
            state,
            gaps: gaps.collect(),
            bytes: self.bytes,
            erased: self.erased,
            cut: self.broken + u64::from(self.open_seq > frames.last()),
            doubles: self.completed.saturating_sub(frames.count()),
            first_received_at: self.first_received_at,
            last_received_at: self.last_received_at,
            shard,
            parts: self.parts,
            facts: self.facts,
            frames,
        }
    }

    /// Why frames are missing: a segment between those with the frames on both sides may be gone.
    fn reason(&self, gap: SeqRange, journal: &ShardJournal) -> GapReason {
        let before = self.spans.iter().rfind(|span| span.range.last < gap.first);
        let behind = self.spans.iter().find(|span| span.range.first > gap.last);
        let from = before.map_or(0, |span| span.last_id);
        let to = behind.map_or_else(|| journal.last_id(), |span| span.first_id);
        match journal.absence(from, to) {
            Absence::Expired => GapReason::Expired,
            Absence::Lost => GapReason::Lost,
            Absence::None => GapReason::Damaged,
        }
    }

    /// Appends it as bytes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let flags = u64::from(self.facts.is_some())
            + 2 * u64::from(self.end.is_some())
            + 4 * u64::from(self.has_audio)
            + 8 * u64::from(self.is_live);
        for number in [
            flags,
            self.bytes,
            self.erased,
            self.broken,
            self.completed,
            self.open_seq,
            self.first_received_at.0,
            self.last_received_at.0,
            self.spans.len() as u64,
        ] {
            put(out, number);
        }
        for Span { range, first_id, last_id } in &self.spans {
            for number in [range.first, range.last, *first_id, *last_id] {
                put(out, number);
            }
        }
        self.parts.encode(out);
        if let Some(facts) = &self.facts {
            facts.encode(out);
        }
        if let Some(end) = &self.end {
            out.extend(end.encode());
        }
    }

    /// Decodes what [`Gathered::encode`] has made, and moves on.
    pub(super) fn decode(rest: &mut &[u8]) -> Result<Gathered, FormatError> {
        let mut number = || take(rest).ok_or(FormatError::Truncated);
        let flags = number()?;
        let mut gathered = Gathered {
            has_audio: flags & 4 != 0,
            is_live: flags & 8 != 0,
            bytes: number()?,
            erased: number()?,
            broken: number()?,
            completed: number()?,
            open_seq: number()?,
            first_received_at: UnixMicros(number()?),
            last_received_at: UnixMicros(number()?),
            ..Gathered::default()
        };
        for _ in 0..number()? {
            let range = SeqRange { first: number()?, last: number()? };
            gathered.spans.push(Span { range, first_id: number()?, last_id: number()? });
        }
        gathered.parts = Parts::decode(rest)?;
        if flags & 1 != 0 {
            gathered.facts = Some(CallFacts::decode(rest)?);
        }
        if flags & 2 != 0 {
            let (end, behind) =
                rest.split_first_chunk::<END_SIZE>().ok_or(FormatError::Truncated)?;
            gathered.end = Some(EndRecord::decode(end)?);
            *rest = behind;
        }
        Ok(gathered)
    }
}

/// The error of bytes that this process wrote and cannot read back.
pub(super) fn unreadable(
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> JournalError {
    JournalError { path: std::env::temp_dir(), error: std::io::Error::other(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::PeerAddress;
    use crate::call::CallIdentity;
    use proptest::prelude::*;

    fn facts() -> CallFacts {
        let identity = CallIdentity { tenant: "acme".into(), interaction: "one/two".into() };
        CallFacts {
            key: identity.key(),
            identity,
            sample_rate: 8_000,
            started_at: UnixMicros(5),
            token_issued_at: 6,
            token_expires_at: u64::MAX,
            peer: PeerAddress::parse(b"192.0.2.1:7"),
        }
    }

    /// What a segment says about an epoch: a few ranges of frames.
    fn index_of(ranges: &[(u64, u64)], has_facts: bool, has_end: bool) -> EpochIndex {
        let mut frames = SeqRanges::default();
        for (first, more) in ranges {
            frames.add(SeqRange { first: *first, last: first + more });
        }
        EpochIndex {
            first_seq: ranges.first().map_or(0, |range| range.0),
            facts: has_facts.then(facts),
            end: has_end.then_some(EndRecord {
                frames: 9,
                bytes: 8,
                ending: 1,
                ended_at: UnixMicros(7),
            }),
            bytes: frames.count() * 10,
            frames,
            ..EpochIndex::default()
        }
    }

    /// Ranges of a segment, and whether it has the call's facts and its end.
    type Sample = (Vec<(u64, u64)>, bool, bool);

    proptest! {
        /// Putting an epoch away in the middle, as bytes, changes nothing.
        #[test]
        fn it_is_the_same_in_one_piece_and_in_several(
            segments in prop::collection::vec(
                (prop::collection::vec((1u64..40, 0u64..6), 0..4), any::<bool>(), any::<bool>()),
                1..8,
            ),
            cut in 0usize..8,
        ) {
            let cut = cut.min(segments.len());
            let gather = |segments: &[Sample], from: usize| {
                let mut gathered = Gathered::default();
                for (at, (ranges, has_facts, has_end)) in segments.iter().enumerate() {
                    let index = index_of(ranges, *has_facts, *has_end);
                    gathered.add(from + at, (from + at) as u64 * 2 + 1, index);
                }
                gathered
            };
            let whole = gather(&segments, 0);
            let mut pieces = gather(&segments[..cut], 0);
            let rest = gather(&segments[cut..], cut);
            let mut bytes = Vec::new();
            rest.encode(&mut bytes);
            let mut bytes = &bytes[..];
            if cut < segments.len() {
                pieces.append(Gathered::decode(&mut bytes).unwrap());
                prop_assert!(bytes.is_empty());
            }
            prop_assert_eq!(pieces, whole);
        }
    }

    #[test]
    fn the_ends_of_a_range_name_the_segments_around_a_gap() {
        let mut gathered = Gathered::default();
        for (id, ranges) in [(1, vec![(1, 9)]), (2, vec![(8, 4)]), (5, vec![(20, 3)])] {
            gathered.add(id as usize, id, index_of(&ranges, true, false));
        }
        let spans: Vec<_> = gathered
            .spans
            .iter()
            .map(|span| (span.range.first, span.range.last, span.first_id, span.last_id))
            .collect();
        assert_eq!(spans, [(1, 12, 1, 2), (20, 23, 5, 5)]);
    }
}
