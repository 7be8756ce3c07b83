//! The calls of this run in a shard's journal, compared with what was sent while they are read.
//!
//! The journal names each connection of a call by its epoch. The audio tells which connection it
//! was: we keep those that could have sent all of it so far. Nearly always that is one from the
//! start.

use std::collections::HashMap;
use std::path::Path;

use super::Faults;
use super::format::{BatchHeader, CallRecord, EndRecord, Epoch, Fault, Kind, RecordHeader};
use super::ranges::{Inserted, Ranges};
use super::segment::{Record, Sink};
use crate::audio::Audio;
use crate::ledger::Ledger;

/// A call record that is older than the run by more than this belongs to another run,
/// microseconds. The clock may have been stepped a little.
pub const OLDER: u64 = 100_000;

/// What the journal should hold.
pub struct Expected<'a> {
    pub ledger: &'a Ledger,
    pub audio: &'a Audio,
    /// Interaction to the call's place among this run's calls.
    calls: HashMap<&'a str, u64>,
}

impl<'a> Expected<'a> {
    /// What a run should have left in the journal.
    pub fn new(ledger: &'a Ledger, audio: &'a Audio) -> Self {
        let calls = ledger.audio.interactions.iter().map(String::as_str).zip(0..).collect();
        Self { ledger, audio, calls }
    }

    /// The call's id, for messages.
    pub fn name(&self, call: u64) -> &str {
        self.ledger.audio.interactions.get(call as usize).map_or("?", String::as_str)
    }
}

/// Whose call it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Owner {
    /// No call record has been seen.
    #[default]
    Unknown,
    /// A call of another client.
    Foreign,
    /// A call of an earlier run with the same ids.
    Older,
    /// This call of this run.
    Ours(u64),
}

/// One connection of a call, as the journal has it.
#[derive(Debug, Default)]
pub struct CallEpoch {
    pub owner: Owner,
    /// Connections that could have sent what was read so far, as places in the ledger.
    pub candidates: Vec<usize>,
    /// The first frame whose start was seen, sound or not; 0 before any audio.
    pub first_seq: u64,
    /// Frames that are whole and equal to what was sent.
    pub equal: Ranges,
    /// Frames that differ from what was sent, or could not be read in full.
    pub different: Ranges,
    /// Frames that were never sent.
    pub unexpected: Ranges,
    /// Its end.
    pub end: Option<EndRecord>,
    /// The frame that is being put together, its bytes so far, and whether all of them are equal.
    seq: u64,
    size: usize,
    is_equal: bool,
}

/// All calls of a shard.
pub struct CallEpochs<'a> {
    expected: &'a Expected<'a>,
    pub epochs: HashMap<(u64, Epoch), CallEpoch>,
    pub faults: Faults,
    /// When the oldest batch that is left was sealed, Unix time in microseconds.
    pub first_sealed_at: Option<u64>,
    /// Chunks that were found twice.
    pub doubles: u64,
}

impl<'a> CallEpochs<'a> {
    /// Nothing read yet.
    pub fn new(expected: &'a Expected<'a>) -> Self {
        Self {
            expected,
            epochs: HashMap::new(),
            faults: Faults::default(),
            first_sealed_at: None,
            doubles: 0,
        }
    }

    fn take_call(&mut self, header: &RecordHeader, payload: &[u8]) -> Result<(), Fault> {
        let epoch = self.epochs.entry((header.call, header.epoch)).or_default();
        if epoch.owner != Owner::Unknown {
            return Ok(()); // each segment repeats the records of its live calls
        }
        let record = CallRecord::decode(payload)?;
        if record.call != header.call {
            return Err("call record and its header name different calls");
        }
        let Expected { ledger, calls, .. } = self.expected;
        let audio = &ledger.audio;
        epoch.owner = match calls.get(record.interaction).filter(|_| record.tenant == audio.tenant)
        {
            None => Owner::Foreign,
            Some(_) if record.started_at.saturating_add(OLDER) < audio.started_at => Owner::Older,
            Some(call) => {
                epoch.candidates = ledger.range_of(*call).collect();
                if record.sample_rate != audio.sample_rate {
                    return Err("call record with another sample rate than the call's");
                }
                Owner::Ours(*call)
            }
        };
        Ok(())
    }

    fn take_audio(&mut self, record: &Record<'_>, place: &dyn Fn() -> String) {
        let Record { header, payload, is_sound } = record;
        let epoch = self.epochs.entry((header.call, header.epoch)).or_default();
        let call = match epoch.owner {
            Owner::Ours(call) => call,
            Owner::Unknown => {
                let what = || {
                    format!(
                        "frame {} of a call that has no call record before it, {}",
                        header.seq,
                        place()
                    )
                };
                return self.faults.add("nameless", what);
            }
            Owner::Foreign | Owner::Older => return,
        };
        let offset = header.offset as usize;
        // The start of this frame lies before what is left of the journal.
        let begun = header.seq + u64::from(offset > 0);
        if epoch.first_seq == 0 || begun < epoch.first_seq {
            epoch.first_seq = begun;
        }
        if header.seq != epoch.seq || offset == 0 {
            (epoch.seq, epoch.size, epoch.is_equal) = (header.seq, 0, true);
        }
        if offset < epoch.size {
            self.doubles += 1;
            return;
        }
        // If there is a hole, the frame is not whole. It is missing if it was promised.
        epoch.is_equal &= offset == epoch.size;
        epoch.size = offset + header.length;
        let fault = match is_sound {
            Err(fault) => Some(*fault),
            Ok(()) if header.is_erased => Some("erased"),
            Ok(()) => epoch.compare(self.expected, call, header, payload),
        };
        let size = self.expected.audio.payload_size();
        let fault = fault
            .or((header.is_last && epoch.is_equal && epoch.size != size)
                .then_some("of another size"));
        if let Some(fault) = fault {
            epoch.is_equal = false;
            let (faults, is_unexpected) = (&mut self.faults, fault == NEVER_SENT);
            let (kind, frames) = match is_unexpected {
                true => ("unexpected", &mut epoch.unexpected),
                false => ("different", &mut epoch.different),
            };
            if frames.insert(header.seq) != Inserted::Twice {
                let held = self
                    .expected
                    .audio
                    .describe(payload)
                    .filter(|_| offset == 0 && is_sound.is_ok());
                let held = held.map_or(String::new(), |(call, frame)| {
                    format!("; it holds frame {frame} of call {call}")
                });
                let name = self.expected.name(call);
                faults.add(kind, || {
                    format!("{name}: frame {} {fault}{held}, {}", header.seq, place())
                });
            }
        } else if header.is_last
            && epoch.is_equal
            && epoch.equal.insert(header.seq) == Inserted::Between
        {
            epoch.different.insert(header.seq);
            let name = self.expected.name(call);
            self.faults.add("different", || {
                format!("{name}: frame {} after a later one, {}", header.seq, place())
            });
        }
    }
}

/// The fault of a frame that no connection sent.
const NEVER_SENT: Fault = "was never sent";

impl CallEpoch {
    /// Compares a chunk with what the candidates sent.
    fn compare(
        &mut self,
        expected: &Expected<'_>,
        call: u64,
        header: &RecordHeader,
        payload: &[u8],
    ) -> Option<Fault> {
        let Expected { ledger, audio, .. } = expected;
        let voice = ledger.audio.first_call + call;
        let entries = ledger.entries();
        let sent_it = |place: &usize| entries[*place].sent >= header.seq;
        let is_like = |place: &usize| {
            let number = entries[*place].frames_before + header.seq;
            sent_it(place) && audio.matches(voice, number, header.offset as usize, payload)
        };
        match &self.candidates[..] {
            [] => Some(NEVER_SENT),
            [only] if is_like(only) => None,
            all if !all.iter().any(sent_it) => Some(NEVER_SENT),
            all if all.iter().any(is_like) => {
                self.candidates.retain(is_like);
                None
            }
            _ => Some("is not what was sent"),
        }
    }
}

impl Sink for CallEpochs<'_> {
    fn batch(&mut self, batch: &BatchHeader) {
        // Batch number 0 holds repeated call records. It does not tell when the audio after it
        // came.
        if self.first_sealed_at.is_none() && batch.number > 0 {
            self.first_sealed_at = Some(batch.sealed_at);
        }
    }

    fn record(&mut self, record: &Record<'_>, path: &Path, offset: u64) {
        let place = || format!("{} at {offset}", path.display());
        let header = &record.header;
        let taken = match (header.kind, record.is_sound) {
            (Kind::Audio, _) => {
                self.take_audio(record, &place);
                Ok(())
            }
            (_, Err(fault)) => Err(fault),
            (Kind::Call, _) => self.take_call(header, record.payload),
            (Kind::End, _) => EndRecord::decode(record.payload).map(|end| {
                self.epochs.entry((header.call, header.epoch)).or_default().end = Some(end);
            }),
            (Kind::Pad, _) => Ok(()),
        };
        if let Err(fault) = taken {
            self.damage(path, offset, fault);
        }
    }

    fn damage(&mut self, path: &Path, offset: u64, what: &str) {
        self.faults.add("damaged", || format!("{} at {offset}: {what}", path.display()));
    }
}
