//! Progress of a call: frames, bytes, time.
//!
//! `limits.max_ahead` limits what a call is charged for. A frame is charged for its audio, and for
//! at least `limits.frame_time_min` for each fragment. Otherwise frames without audio would be
//! free, although each costs a record. Pieces that the network makes of a fragment are not charged:
//! each costs its sender a packet, and the sender often did not cause them.

#![forbid(unsafe_code)]

use crate::clock::Moment;
use crate::constants::ACK_INTERVAL_FRAMES;
use std::time::Duration;

const BYTES_PER_SAMPLE: u64 = 2;

/// Counts a call's complete frames, and the whole samples in them.
#[derive(Debug)]
pub(super) struct CallProgress {
    started_at: Moment,
    /// Number of the last complete frame.
    seq: u64,
    /// Bytes of whole samples.
    bytes: u64,
    /// Bytes charged for frames beyond `bytes`. Four gigabytes are half a day of such frames only,
    /// which is more than one call may have.
    charged_beyond: u32,
    /// Minimum charge for a fragment, bytes.
    charge_min: u32,
    /// Frames and bytes that [`CallProgress::take_report`] has not returned yet. A report is due
    /// every ten frames.
    seq_unreported: u32,
    bytes_unreported: u32,
    /// Hz.
    sample_rate: u32,
    /// From the start of the call to its end; 0 before the end. 49 days fit.
    lasted_ms: u32,
}

impl CallProgress {
    pub(super) fn new(started_at: Moment, sample_rate: u32, frame_time_min: Duration) -> Self {
        let charge_min = u128::from(BYTES_PER_SAMPLE * u64::from(sample_rate))
            * frame_time_min.as_nanos()
            / 1_000_000_000;
        CallProgress {
            started_at,
            seq: 0,
            bytes: 0,
            charged_beyond: 0,
            charge_min: charge_min.try_into().unwrap_or(u32::MAX),
            seq_unreported: 0,
            bytes_unreported: 0,
            sample_rate,
            lasted_ms: 0,
        }
    }

    /// The call ends now.
    pub(super) fn end(&mut self, now: Moment) {
        self.lasted_ms = now.since(self.started_at).as_millis().try_into().unwrap_or(u32::MAX);
    }

    /// How long the call has lasted, while it is live.
    pub(super) fn lasts(&self, now: Moment) -> Duration {
        now.since(self.started_at)
    }

    /// How long the call lasted, once it has ended.
    pub(super) fn lasted(&self) -> Duration {
        Duration::from_millis(u64::from(self.lasted_ms))
    }

    #[inline]
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// The last frame that must be acked.
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

    /// The charge for a frame, bytes: `size` bytes of it have come, in `fragments` fragments.
    #[inline]
    fn charge(&self, size: u64, fragments: u32) -> u64 {
        size.max(u64::from(self.charge_min) * u64::from(fragments))
    }

    /// Whether the audio runs further ahead of real time than allowed. `size` bytes of the current
    /// frame are included.
    #[inline]
    pub(super) fn is_ahead(
        &self,
        now: Moment,
        (size, fragments): (u64, u32),
        max_ahead: Duration,
    ) -> bool {
        // Compares audio nanoseconds with allowed ones, multiplied out: exact, and without a
        // division for each piece.
        let charged = self.bytes + u64::from(self.charged_beyond);
        let audio =
            (u128::from(charged) + u128::from(self.charge(size, fragments))) * 1_000_000_000;
        let allowed = now.since(self.started_at).saturating_add(max_ahead).as_nanos();
        self.charged_beyond == u32::MAX
            || audio > allowed.saturating_mul(u128::from(self.bytes_per_sec()))
    }

    /// Whether a frame of this size ends within a sample.
    #[inline]
    pub(super) fn is_odd(frame_size: u64) -> bool {
        !frame_size.is_multiple_of(BYTES_PER_SAMPLE)
    }

    /// Adds a frame of `size` bytes in `fragments` fragments; returns whether a report is due.
    #[inline]
    pub(super) fn add_frame(&mut self, size: u64, fragments: u32) -> bool {
        let whole = size - size % BYTES_PER_SAMPLE;
        self.seq += 1;
        self.bytes += whole;
        let beyond = (self.charge(whole, fragments) - whole).try_into().unwrap_or(u32::MAX);
        self.charged_beyond = self.charged_beyond.saturating_add(beyond);
        self.seq_unreported += 1;
        self.bytes_unreported = self.bytes_unreported.saturating_add(whole as u32);
        self.seq.is_multiple_of(ACK_INTERVAL_FRAMES)
    }

    /// Frames and bytes since the last report.
    pub(super) fn take_report(&mut self) -> (u64, u64) {
        let report = (u64::from(self.seq_unreported), u64::from(self.bytes_unreported));
        (self.seq_unreported, self.bytes_unreported) = (0, 0);
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
        let mut progress = CallProgress::new(Moment::ZERO, 24_000, Duration::ZERO);
        assert!(!progress.add_frame(47, 1));
        assert_eq!((progress.seq(), progress.bytes(), progress.duration_ms()), (1, 46, 0));
        progress.add_frame(2, 1);
        assert_eq!((progress.bytes(), progress.duration_ms()), (48, 1));
        assert_eq!(progress.take_report(), (2, 48));
        assert!((0..7).all(|_| !progress.add_frame(0, 1)));
        assert!(progress.add_frame(1, 1), "a report is due with every ack");
        assert_eq!((progress.seq_to_ack(), progress.take_report()), (10, (8, 0)));
    }

    #[test]
    fn ahead_is_exact_to_the_byte_and_the_nanosecond() {
        let mut progress = CallProgress::new(Moment::from_nanos(7), 8_000, Duration::ZERO);
        progress.add_frame(16_000, 1);
        let second = Duration::from_secs(1);
        assert!(!progress.is_ahead(Moment::from_nanos(7), (0, 1), second));
        assert!(progress.is_ahead(Moment::from_nanos(7), (1, 1), second));
        // A byte is 62,500 ns at this rate.
        assert!(progress.is_ahead(Moment::from_nanos(7 + 62_499), (1, 1), second));
        assert!(!progress.is_ahead(Moment::from_nanos(7 + 62_500), (1, 1), second));
        assert!(!progress.is_ahead(Moment::from_nanos(7), (u64::from(u32::MAX), 1), Duration::MAX));
    }

    #[test]
    fn frames_without_audio_are_charged_and_those_of_a_real_source_are_not() {
        let (ahead, at) =
            (Duration::from_secs(1), |millis: u64| Moment::from_nanos(millis * 1_000_000));
        let least = Duration::from_millis(2);
        for rate in [8_000, 16_000, 24_000, 48_000] {
            for (size, fragments, fits) in
                [(0, 1, 500), (1, 1, 500), (3, 1, 500), (64, 64, 7), (0, 4, 125)]
            {
                let mut progress = CallProgress::new(at(0), rate, least);
                let count = (0..10_000).take_while(|_| {
                    let fits = !progress.is_ahead(at(0), (size, fragments), ahead);
                    if fits {
                        progress.add_frame(size, fragments);
                    }
                    fits
                });
                assert_eq!(
                    count.count(),
                    fits,
                    "{size} bytes in {fragments} fragments at {rate} Hz"
                );
            }
            // Twelve hours of 10 ms frames, each one byte too long; every third comes late, after a
            // stall.
            let mut progress = CallProgress::new(at(0), rate, least);
            let size = u64::from(rate) / 50 + 1;
            for frame in 0..12 * 60 * 60 * 100u64 {
                let now = at(frame.div_ceil(3) * 30);
                assert!(!progress.is_ahead(now, (size, 1), ahead), "frame {frame} at {rate} Hz");
                progress.add_frame(size, 1);
            }
        }
        let mut progress = CallProgress::new(at(0), u32::MAX, Duration::MAX);
        progress.add_frame(0, u32::MAX);
        progress.add_frame(0, u32::MAX);
        assert!(progress.is_ahead(at(0), (0, 1), ahead), "nothing overflows");
    }
}
