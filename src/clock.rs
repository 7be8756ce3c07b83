//! Points in time. Nothing here reads a clock: `io` reads it, once or twice per turn, and passes
//! the values in.
#![forbid(unsafe_code)]

use std::fmt;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A point on the machine's monotonic clock, in nanoseconds since its boot (`CLOCK_BOOTTIME`).
///
/// Timers and epochs use it; steps of the wall clock do not change it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(
    /// Nanoseconds plus one: never zero, so an `Option` of it needs no more room. Tables of calls
    /// hold many.
    NonZero<u64>,
);

const _: () = assert!(size_of::<Option<Moment>>() == size_of::<Moment>());

impl Moment {
    /// The boot of the machine.
    pub const ZERO: Moment = Moment(NonZero::<u64>::MIN);

    /// From nanoseconds since boot; `u64::MAX` counts as the number before it.
    pub const fn from_nanos(nanos: u64) -> Self {
        Moment(NonZero::<u64>::MIN.saturating_add(nanos))
    }

    /// Nanoseconds since boot.
    pub(crate) const fn as_nanos(self) -> u64 {
        self.0.get() - 1
    }

    /// Microseconds since boot, rounded down.
    pub(crate) const fn as_micros(self) -> u64 {
        self.as_nanos() / 1_000
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    pub(crate) const fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl Default for Moment {
    fn default() -> Self {
        Moment::ZERO
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Moment({})", self.as_nanos())
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Moment;

    /// Saturates at the end of the range (584 years after boot), so a very long timeout can mean
    /// "never".
    fn add(self, duration: Duration) -> Moment {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_add(nanos))
    }
}

/// Wall-clock time in microseconds since 1970-01-01 UTC. For records and token claims only, never
/// for timers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMicros(pub u64);

impl UnixMicros {
    /// Whole seconds, rounded down: the unit of token claims.
    pub(crate) const fn as_secs(self) -> u64 {
        self.0 / 1_000_000
    }
}

/// The clock by which a journal orders and ages its segments, shared by the threads of a node.
///
/// It is the time since the machine's boot plus a base. So it never steps while the machine runs.
/// The base is kept in the data directory (`archive::boot`).
#[derive(Clone, Debug, Default)]
pub struct JournalClock {
    /// Journal time at the machine's boot, microseconds since 1970.
    base: Arc<AtomicU64>,
}

impl JournalClock {
    /// A clock that showed `base` at the machine's boot, microseconds since 1970.
    pub fn new(base: u64) -> JournalClock {
        JournalClock { base: Arc::new(AtomicU64::new(base)) }
    }

    /// Journal time at a moment, microseconds since 1970.
    pub fn at(&self, moment: Moment) -> UnixMicros {
        UnixMicros(self.base.load(Ordering::Relaxed).saturating_add(moment.as_micros()))
    }

    /// Moves the clock forward to another base. It never goes back.
    pub(crate) fn raise(&self, base: u64) {
        self.base.fetch_max(base, Ordering::Relaxed);
    }
}

/// Both clocks, read together. Everything that needs the time gets it as an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For timers and epochs.
    pub moment: Moment,
    /// For records and claims.
    pub unix: UnixMicros,
}
