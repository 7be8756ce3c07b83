//! What a shard's journal holds of this run's calls, compared with what they said as it is read.
//!
//! A turn is one connection's at a call; the journal names it by its epoch. Which of a call's connections a turn was follows
//! from its audio: the connections that could have sent all of it so far are kept, nearly always one from the beginning.

use std::collections::HashMap;
use std::path::Path;

use super::Faults;
use super::format::{BatchHeader, CallRecord, EndRecord, Epoch, Fault, Kind, RecordHeader};
use super::ranges::{Inserted, Ranges};
use super::segment::{Record, Sink};
use crate::audio::Audio;
use crate::ledger::Ledger;

/// A call record this much older than the run, in microseconds, is another run's: the clock may be stepped a little.
pub const OLDER: u64 = 100_000;

/// What there ought to be.
pub struct Expected<'a> {
    pub ledger: &'a Ledger,
    pub audio: &'a Audio,
    /// Interaction to the call's place among this run's calls.
    calls: HashMap<&'a str, u64>,
}

impl<'a> Expected<'a> {
    /// What a run should have left in the journal.
    pub fn new(ledger: &'a Ledger, audio: &'a Audio) -> Self {
        let calls = ledger.speech.interactions.iter().map(String::as_str).zip(0..).collect();
        Self { ledger, audio, calls }
    }

    /// For a person.
    pub fn name(&self, call: u64) -> &str {
        self.ledger.speech.interactions.get(call as usize).map_or("?", String::as_str)
    }
}

/// Whose a turn is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Owner {
    /// No call record has been seen.
    #[default]
    Unknown,
    /// Another client's.
    Foreign,
    /// That of a call of an earlier run with the same ids.
    Older,
    /// This run's, this call's.
    Ours(u64),
}

/// One connection's turn at a call.
#[derive(Debug, Default)]
pub struct Turn {
    pub owner: Owner,
    /// Connections, as places in the ledger, that can have said what was read so far.
    pub candidates: Vec<usize>,
    /// First frame of which the beginning was seen, sound or not; 0 before any audio.
    pub first_seq: u64,
    /// Frames that are whole and equal to what was sent.
    pub equal: Ranges,
    /// Frames of which something was not what was sent, or could not be read.
    pub different: Ranges,
    /// Frames that were never sent.
    pub unexpected: Ranges,
    /// Its end.
    pub end: Option<EndRecord>,
    /// The frame that is being put together, how far it has come, and whether all of that is equal.
    seq: u64,
    size: usize,
    is_equal: bool,
}

/// All turns of a shard.
pub struct Turns<'a> {
    expected: &'a Expected<'a>,
    pub turns: HashMap<(u64, Epoch), Turn>,
    pub faults: Faults,
    /// When the first batch that is still there was sealed, Unix time in microseconds.
    pub first_sealed_at: Option<u64>,
    /// Chunks that were there twice.
    pub doubles: u64,
}

impl<'a> Turns<'a> {
    /// Nothing read yet.
    pub fn new(expected: &'a Expected<'a>) -> Self {
        Self { expected, turns: HashMap::new(), faults: Faults::default(), first_sealed_at: None, doubles: 0 }
    }

    fn take_call(&mut self, header: &RecordHeader, payload: &[u8]) -> Result<(), Fault> {
        let turn = self.turns.entry((header.call, header.epoch)).or_default();
        if turn.owner != Owner::Unknown {
            return Ok(()); // each segment begins with the records of calls that go on
        }
        let record = CallRecord::decode(payload)?;
        if record.call != header.call {
            return Err("call record and its header name different calls");
        }
        let Expected { ledger, calls, .. } = self.expected;
        let speech = &ledger.speech;
        turn.owner = match calls.get(record.interaction).filter(|_| record.tenant == speech.tenant) {
            None => Owner::Foreign,
            Some(_) if record.started_at.saturating_add(OLDER) < speech.started_at => Owner::Older,
            Some(call) => {
                turn.candidates = ledger.range_of(*call).collect();
                if record.sample_rate != speech.sample_rate {
                    return Err("call record with another sample rate than the call's");
                }
                Owner::Ours(*call)
            }
        };
        Ok(())
    }

    fn take_audio(&mut self, record: &Record<'_>, place: &dyn Fn() -> String) {
        let Record { header, payload, is_sound } = record;
        let turn = self.turns.entry((header.call, header.epoch)).or_default();
        let call = match turn.owner {
            Owner::Ours(call) => call,
            Owner::Unknown => {
                let what = || format!("frame {} of a call without a call record before it, {}", header.seq, place());
                return self.faults.add("nameless", what);
            }
            Owner::Foreign | Owner::Older => return,
        };
        let offset = header.offset as usize;
        // What comes without its beginning began in front of what is there.
        let begun = header.seq + u64::from(offset > 0);
        if turn.first_seq == 0 || begun < turn.first_seq {
            turn.first_seq = begun;
        }
        if header.seq != turn.seq || offset == 0 {
            (turn.seq, turn.size, turn.is_equal) = (header.seq, 0, true);
        }
        if offset < turn.size {
            self.doubles += 1;
            return;
        }
        // A hole: the frame is not whole, and missing if it was promised.
        turn.is_equal &= offset == turn.size;
        turn.size = offset + header.length;
        let fault = match is_sound {
            Err(fault) => Some(*fault),
            Ok(()) if header.is_erased => Some("erased"),
            Ok(()) => turn.compare(self.expected, call, header, payload),
        };
        let size = self.expected.audio.payload_size();
        let fault = fault.or((header.is_last && turn.is_equal && turn.size != size).then_some("of another size"));
        if let Some(fault) = fault {
            turn.is_equal = false;
            let (faults, is_unexpected) = (&mut self.faults, fault == NEVER_SENT);
            let (kind, frames) = match is_unexpected {
                true => ("unexpected", &mut turn.unexpected),
                false => ("different", &mut turn.different),
            };
            if frames.insert(header.seq) != Inserted::Twice {
                let held = self.expected.audio.describe(payload).filter(|_| offset == 0 && is_sound.is_ok());
                let held = held.map_or(String::new(), |(call, frame)| format!(", it holds frame {frame} of call {call}"));
                let name = self.expected.name(call);
                faults.add(kind, || format!("{name}: frame {} {fault}{held}, {}", header.seq, place()));
            }
        } else if header.is_last && turn.is_equal && turn.equal.insert(header.seq) == Inserted::Between {
            turn.different.insert(header.seq);
            let name = self.expected.name(call);
            self.faults.add("different", || format!("{name}: frame {} after a later one, {}", header.seq, place()));
        }
    }
}

/// What is wrong with a frame that no connection sent.
const NEVER_SENT: Fault = "was never sent";

impl Turn {
    /// Holds a chunk against what the connections sent that this turn may be.
    fn compare(&mut self, expected: &Expected<'_>, call: u64, header: &RecordHeader, payload: &[u8]) -> Option<Fault> {
        let Expected { ledger, audio, .. } = expected;
        let voice = ledger.speech.first_call + call;
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

impl Sink for Turns<'_> {
    fn batch(&mut self, batch: &BatchHeader) {
        // Repeated call records, numbered 0, say nothing about when the audio behind them came.
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
                self.turns.entry((header.call, header.epoch)).or_default().end = Some(end);
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
