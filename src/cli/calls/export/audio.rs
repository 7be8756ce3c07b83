//! The samples of a call in order, and the gaps between them.

#![forbid(unsafe_code)]

use super::{CallEpoch, DATA_SIZE_MAX, Failure, GapReason, Journal};
use crate::archive::reader::{EpochState, Frame};
use crate::clock::UnixMicros;
use indicatif::ProgressBar;
use serde::Serialize;
use std::fmt;
use std::io;

/// Zeros that are written at once.
static SILENCE: [u8; 16 * 1024] = [0; 16 * 1024];

/// The audio to export.
pub(super) struct Audio<'a> {
    pub(crate) journal: &'a Journal,
    /// Epochs, with their numbers.
    pub(crate) epochs: &'a [(usize, CallEpoch)],
    pub(crate) sample_rate: u32,
    /// Fill gaps with silence.
    pub(crate) fills: bool,
}

/// Result of an export.
#[derive(Debug, Default, Serialize)]
pub(in crate::cli) struct Exported {
    pub(crate) frames: u64,
    /// Bytes of samples, silence included.
    pub(crate) bytes: u64,
    /// Bytes of silence among them.
    pub(crate) bytes_silence: u64,
    pub(crate) gaps: Vec<Missing>,
    pub(crate) damages: Vec<String>,
}

impl Exported {
    /// Whether audio is missing that should be there. A gap without damage is what a power failure
    /// took before it was promised.
    pub(crate) fn is_damaged(&self) -> bool {
        self.gaps.iter().any(|gap| match gap.reason {
            Why::Lost => true,
            Why::Damaged => !self.damages.is_empty(),
            Why::BetweenEpochs | Why::Expired | Why::Erased => false,
        })
    }
}

/// Time without audio.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Missing {
    /// The epoch that it is in, or that it precedes.
    pub(crate) epoch: usize,
    /// The missing frames; `None` between two epochs.
    pub(crate) frames: Option<(u64, u64)>,
    /// Duration by the times at which audio was received; 0 if nothing came after it.
    pub(crate) seconds: f64,
    pub(crate) reason: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::cli) enum Why {
    BetweenEpochs,
    Expired,
    Lost,
    Damaged,
    Erased,
}

impl From<GapReason> for Why {
    fn from(reason: GapReason) -> Why {
        match reason {
            GapReason::Expired => Why::Expired,
            GapReason::Lost => Why::Lost,
            GapReason::Damaged => Why::Damaged,
            GapReason::Erased => Why::Erased,
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (epoch, seconds) = (self.epoch, self.seconds);
        match (self.reason, self.frames) {
            (Why::BetweenEpochs, _) => {
                write!(formatter, "gap: {seconds:.3} s before epoch {epoch}")
            }
            (reason, frames) => {
                let (first, last) = frames.unwrap_or_default();
                let reason = match reason {
                    Why::Expired => "expired",
                    Why::Lost => "lost with its file",
                    Why::Erased => "deleted",
                    _ => "damaged",
                };
                write!(
                    formatter,
                    "gap: {seconds:.3} s in epoch {epoch}, frames {first} to {last}: {reason}"
                )
            }
        }
    }
}

/// State of an export.
struct Cursor<'a> {
    exported: Exported,
    out: &'a mut dyn FnMut(&[u8]) -> io::Result<()>,
    /// When the audio that was written last ended.
    heard_until: Option<UnixMicros>,
    /// Gaps since then.
    missing: Vec<Missing>,
}

impl Audio<'_> {
    /// Approximate number of frames, for a progress bar.
    pub(crate) fn frame_count(&self) -> usize {
        self.epochs
            .iter()
            .map(|(_, call_epoch)| usize::try_from(call_epoch.frames.count()).unwrap_or(0))
            .sum()
    }

    /// Writes the samples to `out`.
    pub(crate) fn write(
        &self,
        out: &mut dyn FnMut(&[u8]) -> io::Result<()>,
        bar: &ProgressBar,
    ) -> Result<Exported, Stop> {
        let mut cursor =
            Cursor { exported: Exported::default(), out, heard_until: None, missing: Vec::new() };
        for (epoch, call_epoch) in self.epochs {
            if cursor.exported.frames > 0 || !cursor.missing.is_empty() {
                cursor.missing.push(Missing {
                    epoch: *epoch,
                    frames: None,
                    seconds: 0.0,
                    reason: Why::BetweenEpochs,
                });
            }
            self.write_epoch(*epoch, call_epoch, &mut cursor, bar)?;
        }
        let Cursor { mut exported, missing, .. } = cursor;
        exported.gaps.extend(missing);
        Ok(exported)
    }

    fn write_epoch(
        &self,
        epoch: usize,
        call_epoch: &CallEpoch,
        cursor: &mut Cursor<'_>,
        bar: &ProgressBar,
    ) -> Result<(), Stop> {
        let mut frames = self.journal.frames(call_epoch);
        let mut next = 1;
        while let Some(frame) = frames.next_frame().map_err(|error| Stop::Failed(error.into()))? {
            if frame.seq.0 > next {
                cursor.missing.push(missing(epoch, call_epoch, next, frame.seq.0 - 1));
            }
            next = frame.seq.0 + 1;
            if frame.is_erased {
                cursor.erased(epoch, frame.seq.0);
            } else {
                self.write_frame(&frame, cursor)?;
            }
            bar.inc(1);
        }
        if let EpochState::Ended(end) = call_epoch.state
            && end.frames >= next
        {
            cursor.missing.push(missing(epoch, call_epoch, next, end.frames));
        }
        let damages =
            frames.damages().iter().map(|(path, damage)| format!("{}: {damage}", path.display()));
        cursor.exported.damages.extend(damages);
        Ok(())
    }

    fn write_frame(&self, frame: &Frame<'_>, cursor: &mut Cursor<'_>) -> Result<(), Stop> {
        let samples = &frame.audio[..frame.audio.len() - frame.audio.len() % 2];
        let micros =
            (samples.len() as u64 * 500_000).checked_div(u64::from(self.sample_rate)).unwrap_or(0);
        if !cursor.missing.is_empty() {
            // The audio of a frame began before the frame was received, by its own duration.
            let began_at = frame.received_at.0.saturating_sub(micros);
            let gap = cursor.heard_until.map_or(0, |until| began_at.saturating_sub(until.0));
            // All gaps here share the time.
            if let Some(last) = cursor.missing.last_mut() {
                last.seconds = gap as f64 / 1e6;
            }
            cursor.exported.gaps.append(&mut cursor.missing);
            if self.fills {
                let size = u128::from(gap) * u128::from(self.sample_rate) / 1_000_000 * 2;
                cursor.silence(u64::try_from(size).unwrap_or(u64::MAX))?;
            }
        }
        cursor.write(samples)?;
        cursor.exported.frames += 1;
        cursor.heard_until = Some(frame.received_at);
        Ok(())
    }
}

fn missing(epoch: usize, call_epoch: &CallEpoch, first: u64, last: u64) -> Missing {
    let known =
        call_epoch.gaps.iter().find(|gap| gap.range.first <= last && first <= gap.range.last);
    let reason = known.map_or(Why::Damaged, |gap| gap.reason.into());
    Missing { epoch, frames: Some((first, last)), seconds: 0.0, reason }
}

impl Cursor<'_> {
    fn erased(&mut self, epoch: usize, seq: u64) {
        if let Some(Missing { epoch: known, frames: Some((_, last)), reason: Why::Erased, .. }) =
            self.missing.last_mut()
            && (*known, *last + 1) == (epoch, seq)
        {
            *last = seq;
            return;
        }
        self.missing.push(Missing {
            epoch,
            frames: Some((seq, seq)),
            seconds: 0.0,
            reason: Why::Erased,
        });
    }

    fn silence(&mut self, size: u64) -> Result<(), Stop> {
        if self.exported.bytes.saturating_add(size) > DATA_SIZE_MAX {
            return Err(Stop::TooLarge);
        }
        let mut left = size;
        while left > 0 {
            let piece = left.min(SILENCE.len() as u64);
            self.write(&SILENCE[..piece as usize])?;
            left -= piece;
        }
        self.exported.bytes_silence += size;
        Ok(())
    }

    fn write(&mut self, samples: &[u8]) -> Result<(), Stop> {
        self.exported.bytes += samples.len() as u64;
        if self.exported.bytes > DATA_SIZE_MAX {
            return Err(Stop::TooLarge);
        }
        (self.out)(samples).map_err(Stop::Output)
    }
}

/// Why an export ended early.
pub(super) enum Stop {
    Failed(Failure),
    Output(io::Error),
    TooLarge,
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Failure {
        match stop {
            Stop::Failed(failure) => failure,
            Stop::Output(error) => Failure::Run(format!("cannot write the audio: {error}")),
            Stop::TooLarge => Failure::Run(
                "it is more than the 4 GiB that a WAV file can hold: export it with --epoch, or \
                 without --gaps silence"
                    .into(),
            ),
        }
    }
}
