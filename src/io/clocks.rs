//! The machine's clocks, read outside the data path: at the start, and now and then by the store.

use crate::clock::{Moment, UnixMicros};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Status bit of the kernel's clock: it is not synchronised to another one (`adjtimex(2)`).
const UNSYNCHRONISED: i32 = libc::STA_UNSYNC;

/// Three facts about the time, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clocks {
    /// Wall-clock time. It may step in both directions.
    pub(crate) wall: UnixMicros,
    /// Time since the machine's boot, suspended time included. It never steps.
    pub(crate) uptime: Moment,
    /// The kernel says that the wall clock follows a better clock (NTP, PTP).
    pub(crate) is_synchronised: bool,
}

impl Clocks {
    /// Reads them.
    pub(crate) fn read() -> Clocks {
        Clocks {
            wall: UnixMicros(
                u64::try_from(time(ClockId::Realtime).as_micros()).unwrap_or(u64::MAX),
            ),
            uptime: Moment::ZERO + time(ClockId::Boottime),
            is_synchronised: is_synchronised(),
        }
    }
}

/// Time since the machine's boot.
pub(crate) fn uptime() -> Moment {
    Moment::ZERO + time(ClockId::Boottime)
}

fn time(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// What the kernel says about the wall clock. A sandbox that forbids the question counts as no.
fn is_synchronised() -> bool {
    // SAFETY: all bytes of this C struct may be zero. Zero `modes` only asks: nothing is changed.
    let mut answer: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole struct of this type, alive during the call.
    let state = unsafe { libc::adjtimex(&raw mut answer) };
    state >= 0 && answer.status & UNSYNCHRONISED == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_go_on_and_the_status_can_be_asked_for() {
        let (first, second) = (Clocks::read(), Clocks::read());
        assert!(second.uptime >= first.uptime && first.wall > UnixMicros(0));
        assert!(uptime() >= second.uptime);
    }
}
