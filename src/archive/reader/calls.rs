//! All calls of a journal, one after the other, in little memory for any number of them.
//!
//! ```text
//! indexes, segment by segment ──► epochs that go on, in memory ──absent, or too many──► sort by
//!                                                                                       call
//! Calls ◄── in order of their first epochs ◄── sort by first epoch ◄── pieces of an epoch joined
//! ```
//! An epoch whose segments are not all consecutive, or that had to leave the memory, is sorted in
//! pieces. They meet again in the sort. So the memory is a matter of bounds, not of the journal.

#![forbid(unsafe_code)]

use super::catalog::{Call, CallEpoch, Catalog};
use super::gathered::{Gathered, unreadable};
use super::{Journal, JournalError, ShardJournal};
use crate::archive::external_sort::{ExternalSort, Sorted};
use crate::archive::index::{IndexFile, SegmentIndex};
use crate::archive::source::{Holder, SegmentFile};
use crate::call::Epoch;
use crate::format::FormatError;
use std::collections::{BTreeMap, VecDeque};

/// Most memory of the epochs that go on, bytes.
const OPEN_SIZE_MAX: usize = 8 * 1024 * 1024;

/// An entry of a listing.
#[derive(Clone, Debug)]
pub enum Listed {
    /// A call.
    Call(Call),
    /// An epoch with no call record left: the journal does not say to which call it belongs.
    Nameless(Box<CallEpoch>),
}

/// Takes indexes, and makes a listing.
#[derive(Debug)]
pub(in crate::archive) struct CallGatherer<'a> {
    journal: &'a Journal,
    /// The shard of the indexes so far: a position in [`Journal::shards`].
    shard: usize,
    open: BTreeMap<(u64, Epoch), Gathered>,
    open_size: usize,
    open_size_max: usize,
    /// Position of the shard's last segment with an index, and whether it is being written.
    last: Option<(usize, bool)>,
    sort: ExternalSort,
}

impl<'a> CallGatherer<'a> {
    /// For a journal. Nothing of it is read yet.
    pub(in crate::archive) fn new(journal: &'a Journal) -> CallGatherer<'a> {
        CallGatherer {
            journal,
            shard: 0,
            open: BTreeMap::new(),
            open_size: 0,
            open_size_max: OPEN_SIZE_MAX,
            last: None,
            sort: ExternalSort::default(),
        }
    }

    /// Takes the index of a segment. Shards come in order, and so do the segments of each. An error
    /// comes from the temporary file.
    pub(in crate::archive) fn add(
        &mut self,
        shard: usize,
        position: usize,
        index: SegmentIndex,
        is_live: bool,
    ) -> Result<(), JournalError> {
        if shard != self.shard {
            self.end_shard()?;
            self.shard = shard;
        }
        if self.open_size > self.open_size_max {
            self.put_away(|_| true)?;
        }
        self.last = Some((position, is_live));
        for call_epoch in index.epochs {
            let gathered = self.open.entry((call_epoch.call, call_epoch.epoch)).or_default();
            gathered.add(position, index.id, call_epoch);
        }
        self.put_away(|gathered| gathered.last_position() != Some(position))?;
        self.open_size = self.open.values().map(Gathered::size).sum();
        Ok(())
    }

    /// Moves epochs from memory to the sort.
    fn put_away(&mut self, goes: impl Fn(&Gathered) -> bool) -> Result<(), JournalError> {
        let (sort, shard) = (&mut self.sort, self.shard);
        let mut value = Vec::new();
        for ((call, epoch), gathered) in self.open.extract_if(.., |_, gathered| goes(gathered)) {
            value.clear();
            gathered.encode(&mut value);
            let key = piece_key(call, epoch, shard, gathered.first_position().unwrap_or(0));
            sort.add(&key, &value).map_err(unreadable)?;
        }
        Ok(())
    }

    /// The epochs in the last segment with no end are live, if a process writes here.
    fn end_shard(&mut self) -> Result<(), JournalError> {
        if let (Some(shard), Some((position, is_live))) =
            (self.journal.shards().get(self.shard), self.last.take())
            && (is_live || shard.is_written_after(position))
        {
            let last = self.open.values_mut();
            last.filter(|gathered| gathered.last_position() == Some(position))
                .for_each(Gathered::set_live);
        }
        self.put_away(|_| true)
    }

    /// The calls of all indexes that were added.
    pub(in crate::archive) fn finish(mut self) -> Result<Listing<'a>, JournalError> {
        self.end_shard()?;
        let mut pieces = self.sort.finish().map_err(unreadable)?;
        let (mut by_start, mut call_epochs) = (ExternalSort::default(), Vec::new());
        let mut call_of_epochs = 0;
        while let Some((key, value)) = pieces.next().map_err(unreadable)? {
            let (call, epoch, shard) = read_piece_key(&key).ok_or_else(broken)?;
            let gathered = Gathered::decode(&mut &value[..]).map_err(unreadable)?;
            if call != call_of_epochs {
                sort_calls(std::mem::take(&mut call_epochs), &mut by_start)?;
            }
            call_of_epochs = call;
            match call_epochs.last_mut() {
                Some(EpochPiece { epoch: last, shard: place, gathered: known, .. })
                    if (*last, *place) == (epoch, shard) =>
                {
                    known.append(gathered);
                }
                _ => call_epochs.push(EpochPiece { shard, call, epoch, gathered }),
            }
        }
        sort_calls(call_epochs, &mut by_start)?;
        let sorted = by_start.finish().map_err(unreadable)?;
        Ok(Listing { journal: self.journal, sorted })
    }
}

/// All that is known of an epoch.
#[derive(Debug)]
pub(super) struct EpochPiece {
    pub(super) shard: usize,
    pub(super) call: u64,
    pub(super) epoch: Epoch,
    pub(super) gathered: Gathered,
}

/// Groups epochs with the same record number to calls: two calls may share one. `None` stands for
/// epochs whose call is not known.
pub(super) fn group(call_epochs: Vec<EpochPiece>) -> BTreeMap<Option<u128>, Vec<EpochPiece>> {
    let mut calls: BTreeMap<Option<u128>, Vec<EpochPiece>> = BTreeMap::new();
    for call_epoch in call_epochs {
        let key = call_epoch.gathered.facts().map(|facts| facts.key.0);
        calls.entry(key).or_default().push(call_epoch);
    }
    calls
}

/// Adds the calls that have these epochs to the sort.
fn sort_calls(
    call_epochs: Vec<EpochPiece>,
    by_start: &mut ExternalSort,
) -> Result<(), JournalError> {
    for (key, call_epochs) in group(call_epochs) {
        let is_nameless = key.is_none();
        let mut left = VecDeque::from(call_epochs);
        while !left.is_empty() {
            // Nothing joins epochs without a name.
            let count = if is_nameless { 1 } else { left.len() };
            let (mut sort_key, mut value) = (Vec::new(), vec![u8::from(is_nameless)]);
            for EpochPiece { shard, call, epoch, gathered } in left.drain(..count) {
                if sort_key.is_empty() {
                    sort_key = epoch_key(epoch).to_vec();
                    sort_key.extend((shard as u32).to_be_bytes());
                    sort_key.extend(key.unwrap_or(0).to_be_bytes());
                }
                value.extend(piece_key(call, epoch, shard, 0));
                gathered.encode(&mut value);
            }
            by_start.add(&sort_key, &value).map_err(unreadable)?;
        }
    }
    Ok(())
}

/// The calls, in order of the starts of their first epochs.
#[derive(Debug)]
pub struct Listing<'a> {
    journal: &'a Journal,
    sorted: Sorted,
}

impl Listing<'_> {
    fn read(&mut self) -> Result<Option<Listed>, JournalError> {
        let Some((_, value)) = self.sorted.next().map_err(unreadable)? else { return Ok(None) };
        let (is_nameless, mut rest) = value.split_first().ok_or_else(broken)?;
        let mut call_epochs = Vec::new();
        while !rest.is_empty() {
            let (key, behind) = rest.split_first_chunk::<PIECE_KEY>().ok_or_else(broken)?;
            rest = behind;
            let (call, epoch, shard) = read_piece_key(key).ok_or_else(broken)?;
            let gathered = Gathered::decode(&mut rest).map_err(unreadable)?;
            call_epochs.push(EpochPiece { shard, call, epoch, gathered });
        }
        self.journal.listed(*is_nameless == 1, call_epochs)
    }
}

impl Iterator for Listing<'_> {
    type Item = Result<Listed, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// The calls of a journal without the epochs that have no name.
#[derive(Debug)]
pub struct Calls<'a> {
    listing: Listing<'a>,
    nameless_count: u64,
}

impl Calls<'_> {
    /// Number of epochs with no call record left, among those that came so far. Complete at the
    /// end.
    pub fn nameless_count(&self) -> u64 {
        self.nameless_count
    }
}

impl Iterator for Calls<'_> {
    type Item = Result<Call, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.listing.next()? {
                Ok(Listed::Call(call)) => return Some(Ok(call)),
                Ok(Listed::Nameless(_)) => self.nameless_count += 1,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Journal {
    /// [`Journal::calls`] as a list: for journals that are known to be small. Calls `progress`
    /// after each segment.
    pub fn catalog(&self, progress: &mut dyn FnMut()) -> Result<Catalog, JournalError> {
        let mut catalog = Catalog::default();
        for listed in self.list(progress)? {
            match listed? {
                Listed::Call(call) => catalog.calls.push(call),
                Listed::Nameless(call_epoch) => catalog.nameless.push(*call_epoch),
            }
        }
        Ok(catalog)
    }

    /// All calls, in order of the starts of their first epochs. Reads the index of each segment, or
    /// the segment itself if it has none, before it returns. Calls `progress` after each segment.
    /// Its memory has a bound; what does not fit goes to files in the system's temporary directory
    /// that have no name.
    pub fn calls(&self, progress: &mut dyn FnMut()) -> Result<Calls<'_>, JournalError> {
        Ok(Calls { listing: self.list(progress)?, nameless_count: 0 })
    }

    /// As [`Journal::calls`], with the epochs that have no name.
    pub fn list(&self, progress: &mut dyn FnMut()) -> Result<Listing<'_>, JournalError> {
        let mut gatherer = CallGatherer::new(self);
        for (place, shard) in self.shards().iter().enumerate() {
            for position in 0..shard.segment_count() {
                if let Some((index, is_live)) = shard.index_of_calls(position)? {
                    gatherer.add(place, position, index, is_live)?;
                }
                progress();
            }
        }
        gatherer.finish()
    }

    /// A call of these epochs, or an epoch without a name. `None` if there are none.
    pub(super) fn listed(
        &self,
        is_nameless: bool,
        call_epochs: Vec<EpochPiece>,
    ) -> Result<Option<Listed>, JournalError> {
        let (mut identity, mut epochs) = (None, Vec::with_capacity(call_epochs.len()));
        for EpochPiece { shard, call, epoch, gathered } in call_epochs {
            let Some(journal) = self.shards().get(shard) else { continue };
            let mut call_epoch = gathered.finish((shard, journal), (call, epoch));
            if call_epoch.doubles > 0 {
                self.count_bytes(&mut call_epoch)?;
            }
            if identity.is_none() {
                identity = call_epoch.facts.as_ref().map(|facts| facts.identity.clone());
            }
            epochs.push(call_epoch);
        }
        Ok(match identity.filter(|_| !is_nameless) {
            Some(identity) => Some(Listed::Call(Call { identity, epochs })),
            None => epochs.pop().map(|call_epoch| Listed::Nameless(Box::new(call_epoch))),
        })
    }
}

impl ShardJournal {
    /// The index beside a segment. Its header is good, and it is one of this shard's segment. The
    /// segment itself is not looked at: its index is removed before the segment is changed.
    pub(super) fn index_file(&self, position: usize) -> Option<IndexFile> {
        let index = IndexFile::open_any(self.dir(), self.id(position)?)?;
        let place = (index.head().run, index.head().shard);
        (place == (self.run().number(), self.shard())).then_some(index)
    }

    /// As [`ShardJournal::index_file`], if it belongs to this use of the segment's file.
    pub(super) fn index_file_of_use(
        &self,
        position: usize,
    ) -> Result<Option<IndexFile>, JournalError> {
        let header = self.header(position)?;
        Ok(header.and_then(|header| IndexFile::open(self.dir(), header.id, header.uuid)))
    }

    /// As [`ShardJournal::index`], without the places of records if the index is there already.
    pub(super) fn index_of_calls(
        &self,
        position: usize,
    ) -> Result<Option<(SegmentIndex, bool)>, JournalError> {
        match self.index_file(position).map(IndexFile::into_epochs) {
            Some(Ok(index)) => Ok(Some((index, false))),
            Some(Err(_)) | None => match self.list_live(position)? {
                Some(index) => Ok(Some((index, true))),
                None => self.index(position),
            },
        }
    }

    /// Whether a process has locked a segment after this one, or this one: it is not begun yet, but
    /// its calls will continue there.
    pub(super) fn is_written_after(&self, position: usize) -> bool {
        let last = self.segment_count().saturating_sub(1);
        let last = (last > position).then(|| SegmentFile::open(&self.path(last)).ok()).flatten();
        last.is_some_and(|file| file.holder() == Holder::Writer)
    }
}

fn broken() -> JournalError {
    unreadable(FormatError::Truncated)
}

/// Bytes of the key of a piece.
const PIECE_KEY: usize = 8 + EPOCH_KEY + 4 + 4;
const EPOCH_KEY: usize = 14;

/// Compares as epochs do.
fn epoch_key(epoch: Epoch) -> [u8; EPOCH_KEY] {
    let mut key = [0; EPOCH_KEY];
    key[..4].copy_from_slice(&epoch.boot.to_be_bytes());
    key[4..12].copy_from_slice(&epoch.micros.to_be_bytes());
    key[12..].copy_from_slice(&epoch.shard.to_be_bytes());
    key
}

/// Sorts pieces by call, epoch, shard, and then in the order of the segments.
fn piece_key(call: u64, epoch: Epoch, shard: usize, position: usize) -> [u8; PIECE_KEY] {
    let mut key = [0; PIECE_KEY];
    key[..8].copy_from_slice(&call.to_be_bytes());
    key[8..22].copy_from_slice(&epoch_key(epoch));
    key[22..26].copy_from_slice(&(shard as u32).to_be_bytes());
    key[26..].copy_from_slice(&(position as u32).to_be_bytes());
    key
}

/// The call, epoch and shard of a piece.
fn read_piece_key(key: &[u8]) -> Option<(u64, Epoch, usize)> {
    let word = |at: usize| key.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word));
    let long = |at: usize| key.get(at..)?.first_chunk().map(|long| u64::from_be_bytes(*long));
    let shard = key.get(20..)?.first_chunk().map(|shard| u16::from_be_bytes(*shard))?;
    Some((long(0)?, Epoch { boot: word(8)?, micros: long(12)?, shard }, word(22)? as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::image::{self, Image};

    #[test]
    fn a_listing_with_no_memory_for_epochs_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let mut image = Image::new(image::run(1), 2, 32 * 1024).unwrap();
        let mut calls = Vec::new();
        for number in 0..30 {
            calls.push(image.start("acme", &format!("call-{}", number % 20), 8_000));
            for call in &calls {
                image.frame(*call, &[1; 700]);
            }
            if number % 3 == 0 {
                image.end(calls.remove(0), 1);
            }
            image.seal();
        }
        image.store(dir.path()).unwrap();
        std::fs::write(dir.path().join("boot"), "1\na\n").unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let list = |open_size_max: usize| {
            let mut gatherer = CallGatherer { open_size_max, ..CallGatherer::new(&journal) };
            for position in 0..journal.shards()[0].segment_count() {
                let (index, is_live) =
                    journal.shards()[0].index_of_calls(position).unwrap().unwrap();
                gatherer.add(0, position, index, is_live).unwrap();
            }
            let listing = gatherer.finish().unwrap();
            format!("{:#?}", listing.map(Result::unwrap).collect::<Vec<_>>())
        };
        let (whole, pieces) = (list(OPEN_SIZE_MAX), list(0));
        assert!(whole == pieces, "{whole}\n{pieces}");
        let calls: Vec<Call> = journal.calls(&mut || {}).unwrap().map(Result::unwrap).collect();
        assert_eq!(calls.len(), 20);
        assert_eq!(calls.iter().map(|call| call.epochs.len()).sum::<usize>(), 30);
        let starts: Vec<Epoch> = calls.iter().map(|call| call.epochs[0].epoch).collect();
        assert!(starts.is_sorted());
    }
}
