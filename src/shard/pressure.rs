#![forbid(unsafe_code)]
//! When new calls are refused because the disk is late: before the frame ring is full, so that live
//! calls keep what is left.
//!
//! ```text
//!   not durable   0 ────────────── 1/2 ───────────── 3/4 ──────────── full
//!   new calls     taken again ◄─────┘                 └──► refused, once it lasts
//! ```
//! A full ring stops the reading of all calls, and their audio waits in TCP. A new call would only
//! add to that, and is better off on another node.

use crate::clock::Moment;
use std::time::Duration;

/// New calls are refused while less than this share of the ring is free. In the default ring this
/// is half a second of audio of a full node. A cycle of write and sync takes less on a healthy
/// disk, and the share is enough for the live calls until a balancer has learned of it. (Rejected:
/// a half. A disk that stops for a second is ordinary, and such a stall should refuse no call.)
const FREE_SHARE: usize = 4;

/// New calls are taken again once this share is free. With one mark for both, a ring at that mark
/// would refuse every other call.
const FREE_SHARE_AGAIN: usize = 2;

/// How long it lasts before calls are refused: two cycles of the journal at its default pace. A
/// single peak has gone by then, as when thousands of calls send at once what they had held back. A
/// ring much smaller than the default has no room for longer.
const LASTING: Duration = Duration::from_millis(50);

/// Watches how much of a ring waits for the disk.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    /// When calls are refused from. It is in the future while the pressure has not lasted.
    refused_from: Option<Moment>,
}

impl Pressure {
    /// Once a turn: `free` of the ring's `size` bytes are free. It is 0 if there is no room for
    /// what one receive may bring: a ring near its least size has no room long before the mark.
    pub(super) fn handle_turn(&mut self, now: Moment, free: usize, size: usize) {
        let share = if self.refuses_calls(now) { FREE_SHARE_AGAIN } else { FREE_SHARE };
        self.refused_from = match free < size / share {
            true => self.refused_from.or(Some(now + LASTING)),
            false => None,
        };
    }

    /// Whether new calls are to go elsewhere.
    pub(super) fn refuses_calls(&self, now: Moment) -> bool {
        self.refused_from.is_some_and(|from| from <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 1000;

    /// Plays (milliseconds, bytes free) and says when calls were refused.
    fn refused(steps: &[(u64, usize)]) -> Vec<bool> {
        let mut pressure = Pressure::default();
        let play = |(millis, free): &(u64, usize)| {
            let now = Moment::ZERO + Duration::from_millis(*millis);
            pressure.handle_turn(now, *free, SIZE);
            pressure.refuses_calls(now)
        };
        steps.iter().map(play).collect()
    }

    #[test]
    fn calls_are_refused_once_the_mark_is_passed_for_a_while() {
        assert_eq!(refused(&[(0, 250), (1000, 250)]), [false, false], "a quarter is free");
        assert_eq!(refused(&[(0, 249), (49, 249), (50, 249)]), [false, false, true]);
        assert_eq!(
            refused(&[(0, 0), (30, 250), (60, 0), (90, 249), (110, 249)]),
            [false, false, false, false, true]
        );
    }

    #[test]
    fn calls_are_taken_again_with_half_of_the_ring_free() {
        let steps = [
            (0, 200),
            (60, 240),
            (61, 300),
            (62, 499),
            (63, 500),
            (64, 300),
            (65, 240),
            (114, 240),
            (115, 240),
        ];
        assert_eq!(refused(&steps), [false, true, true, true, false, false, false, false, true]);
    }

    #[test]
    fn a_shard_that_slept_meanwhile_refuses_too() {
        let mut pressure = Pressure::default();
        pressure.handle_turn(Moment::ZERO, 100, SIZE);
        assert!(
            !pressure.refuses_calls(Moment::ZERO) && pressure.refuses_calls(Moment::ZERO + LASTING)
        );
    }
}
