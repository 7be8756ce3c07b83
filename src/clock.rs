//! Points in time. Nothing here reads a clock: `io` does, once or twice a turn, and hands the values in.
#![forbid(unsafe_code)]

use std::time::Duration;

/// A point on the machine's monotonic clock that counts from its boot, in nanoseconds (`CLOCK_BOOTTIME`).
///
/// Timers and epochs are built on it; steps of the wall clock do not touch it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The boot of the machine.
    pub const ZERO: Moment = Moment(0);

    /// From nanoseconds since boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Moment(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Microseconds since boot, rounded down.
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// The time from `earlier` to `self`; zero where `earlier` is the later one.
    pub const fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Moment;

    /// Saturates at the end of the range (584 years after boot), so that "never" can be a very long timeout.
    fn add(self, duration: Duration) -> Moment {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_add(nanos))
    }
}

/// Wall-clock time in microseconds since 1970-01-01 UTC. For records and token claims, never for timers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMicros(pub u64);

impl UnixMicros {
    /// Whole seconds, rounded down: the unit of token claims.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000
    }
}

/// Both clocks, read together. The argument of everything that needs to know the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For timers and epochs.
    pub moment: Moment,
    /// For records and claims.
    pub unix: UnixMicros,
}
