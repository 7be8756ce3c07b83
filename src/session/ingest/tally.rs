//! How much of a call has come: frames, bytes, time.

#![forbid(unsafe_code)]

use crate::clock::Moment;
use crate::constants::ACK_INTERVAL_FRAMES;
use std::time::Duration;

const BYTES_PER_SAMPLE: u64 = 2;

/// Counts a call's complete frames, and whole samples in them.
#[derive(Debug)]
pub(super) struct Tally {
    started_at: Moment,
    /// The last complete frame.
    seq: u64,
    /// Bytes of whole samples.
    bytes: u64,
    /// What [`Tally::take_report`] has told of the two above.
    seq_reported: u64,
    bytes_reported: u64,
    /// Hz.
    sample_rate: u32,
    /// From its start to its end; 0 before that. 49 days fit.
    lasted_ms: u32,
}

impl Tally {
    pub(super) fn new(started_at: Moment, sample_rate: u32) -> Self {
        Tally { started_at, seq: 0, bytes: 0, seq_reported: 0, bytes_reported: 0, sample_rate, lasted_ms: 0 }
    }

    /// The call ends now.
    pub(super) fn end(&mut self, now: Moment) {
        self.lasted_ms = now.since(self.started_at).as_millis().try_into().unwrap_or(u32::MAX);
    }

    /// How long it was, once it has ended.
    pub(super) fn lasted(&self) -> Duration {
        Duration::from_millis(u64::from(self.lasted_ms))
    }

    #[inline]
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// The last frame that is to be acked.
    #[inline]
    pub(super) fn seq_to_ack(&self) -> u64 {
        self.seq - self.seq % ACK_INTERVAL_FRAMES
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// Length of the audio in milliseconds, rounded down.
    pub(super) fn duration_ms(&self) -> u64 {
        (self.bytes * 1000).checked_div(self.bytes_per_sec()).unwrap_or(0)
    }

    /// Whether the audio, `frame_size` bytes of the frame under way included, runs further ahead of the clock than allowed.
    #[inline]
    pub(super) fn is_ahead(&self, now: Moment, frame_size: u64, max_ahead: Duration) -> bool {
        // Multiplied out, audio nanoseconds against allowed ones: exact, and no division for each piece.
        let audio = u128::from(self.bytes + frame_size) * 1_000_000_000;
        let allowed = now.since(self.started_at).saturating_add(max_ahead).as_nanos();
        audio > allowed.saturating_mul(u128::from(self.bytes_per_sec()))
    }

    /// Whether a frame of this size ends within a sample.
    #[inline]
    pub(super) fn is_odd(frame_size: u64) -> bool {
        !frame_size.is_multiple_of(BYTES_PER_SAMPLE)
    }

    /// One more frame; returns whether a report is due.
    #[inline]
    pub(super) fn add_frame(&mut self, frame_size: u64) -> bool {
        self.seq += 1;
        self.bytes += frame_size - frame_size % BYTES_PER_SAMPLE;
        self.seq.is_multiple_of(ACK_INTERVAL_FRAMES)
    }

    /// Frames and bytes since the last report.
    pub(super) fn take_report(&mut self) -> (u64, u64) {
        let report = (self.seq - self.seq_reported, self.bytes - self.bytes_reported);
        (self.seq_reported, self.bytes_reported) = (self.seq, self.bytes);
        report
    }

    fn bytes_per_sec(&self) -> u64 {
        BYTES_PER_SAMPLE * u64::from(self.sample_rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_samples_are_counted_and_time_is_rounded_down() {
        let mut tally = Tally::new(Moment::ZERO, 24_000);
        assert!(!tally.add_frame(47));
        assert_eq!((tally.seq(), tally.bytes(), tally.duration_ms()), (1, 46, 0));
        tally.add_frame(2);
        assert_eq!((tally.bytes(), tally.duration_ms()), (48, 1));
        assert_eq!(tally.take_report(), (2, 48));
        assert!((0..7).all(|_| !tally.add_frame(0)));
        assert!(tally.add_frame(1), "a report is due with every ack");
        assert_eq!((tally.seq_to_ack(), tally.take_report()), (10, (8, 0)));
    }

    #[test]
    fn ahead_is_exact_to_the_byte_and_the_nanosecond() {
        let mut tally = Tally::new(Moment::from_nanos(7), 8_000);
        tally.add_frame(16_000);
        let second = Duration::from_secs(1);
        assert!(!tally.is_ahead(Moment::from_nanos(7), 0, second));
        assert!(tally.is_ahead(Moment::from_nanos(7), 1, second));
        // A byte is 62,500 ns here.
        assert!(tally.is_ahead(Moment::from_nanos(7 + 62_499), 1, second));
        assert!(!tally.is_ahead(Moment::from_nanos(7 + 62_500), 1, second));
        assert!(!tally.is_ahead(Moment::from_nanos(7), u64::from(u32::MAX), Duration::MAX));
    }
}
