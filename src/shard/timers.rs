//! A timer wheel: one deadline for each connection, set and moved in O(1), without allocation after
//! start.
//!
//! ```text
//!   slot:   0    1    2    3            4095
//!         +----+----+----+----+--- … ---+----+   a slot is a doubly linked list through `entries`,
//!         |  · | 17 |  · |  4 |         |  · |   which are indexed by connection: 17 → 3 → 29
//!         +----+----+----+----+--- … ---+----+
//!                     ↑ current tick             one tick is 4 ms, one lap 17 s
//! ```
//! Deadlines further away than a lap wait in the last slot of the lap, and are put back when it
//! comes. Timers fire late by up to one tick, never early. A session's deadline mostly moves away
//! with every frame. The shard leaves the entry where it is, and asks the session again when it
//! fires. So a frame costs the wheel nothing.
#![forbid(unsafe_code)]

use crate::clock::Moment;
#[cfg(test)]
use std::time::Duration;

/// Length of a tick, a power of two nanoseconds (4.19 ms), so that a moment's tick is a shift.
/// Every timeout is seconds long.
const TICK_SHIFT: u32 = 22;

/// Slots of the wheel: a lap of 17 s covers all default timeouts but `idle`.
const SLOT_COUNT: usize = 4096;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    deadline: Moment,
    slot: u32,
    previous: u32,
    next: u32,
}

const IDLE: Entry = Entry { deadline: Moment::ZERO, slot: NONE, previous: NONE, next: NONE };

/// The deadlines of a shard's connections.
#[derive(Debug)]
pub struct TimerWheel {
    heads: Box<[u32]>,
    /// A bit per slot: whether it holds anything.
    occupied: [u64; SLOT_COUNT / 64],
    /// By connection index.
    entries: Vec<Entry>,
    /// All slots up to this tick have been emptied.
    tick: u64,
    /// The tick of the latest [`TimerWheel::poll`]: what is set from then on fires in a later one,
    /// even if it is due already.
    polled: u64,
}

const fn tick_of(moment: Moment) -> u64 {
    moment.as_nanos() >> TICK_SHIFT
}

impl TimerWheel {
    /// Bytes of the wheel that a connection takes up.
    pub const ENTRY_SIZE: usize = size_of::<Entry>();

    /// A wheel for connections with indices below `connections_max`.
    pub fn new(connections_max: usize, now: Moment) -> Self {
        TimerWheel {
            heads: vec![NONE; SLOT_COUNT].into_boxed_slice(),
            occupied: [0; SLOT_COUNT / 64],
            entries: Vec::with_capacity(connections_max),
            tick: tick_of(now),
            polled: tick_of(now),
        }
    }

    /// The deadline set for `index`, if any.
    pub fn deadline(&self, index: u32) -> Option<Moment> {
        let entry = self.entries.get(index as usize)?;
        (entry.slot != NONE).then_some(entry.deadline)
    }

    /// Sets or moves the deadline of `index`.
    pub fn set(&mut self, index: u32, deadline: Moment) {
        self.clear(index);
        if self.entries.len() <= index as usize {
            self.entries.resize(index as usize + 1, IDLE);
        }
        // Rounded up: the slot is emptied only once the whole tick has passed.
        let tick = (tick_of(deadline).max(self.polled) + 1).min(self.tick + SLOT_COUNT as u64 - 1);
        let slot = tick as usize % SLOT_COUNT;
        let head = self.heads[slot];
        self.entries[index as usize] =
            Entry { deadline, slot: slot as u32, previous: NONE, next: head };
        if head != NONE {
            self.entries[head as usize].previous = index;
        }
        self.heads[slot] = index;
        self.occupied[slot / 64] |= 1 << (slot % 64);
    }

    /// Makes sure that `index` fires at `deadline` or before. It is cheap if the entry need not
    /// move.
    pub fn set_at_most(&mut self, index: u32, deadline: Option<Moment>) {
        if let Some(deadline) = deadline
            && self.deadline(index).is_none_or(|set| set > deadline)
        {
            self.set(index, deadline);
        }
    }

    /// Removes the deadline of `index`.
    pub fn clear(&mut self, index: u32) {
        let Some(entry) = self.entries.get_mut(index as usize) else { return };
        let Entry { slot, previous, next, .. } = std::mem::replace(entry, IDLE);
        if slot == NONE {
            return;
        }
        match previous {
            NONE => self.heads[slot as usize] = next,
            previous => self.entries[previous as usize].next = next,
        }
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        if self.heads[slot as usize] == NONE {
            self.occupied[slot as usize / 64] &= !(1 << (slot % 64));
        }
    }

    /// The next connection whose deadline has passed; its deadline is removed. Call until `None`.
    pub(crate) fn poll(&mut self, now: Moment) -> Option<u32> {
        self.polled = self.polled.max(tick_of(now));
        while self.tick < tick_of(now) {
            let slot = (self.tick + 1) as usize % SLOT_COUNT;
            let index = self.heads[slot];
            if index == NONE {
                self.tick += 1;
                self.skip_empty(tick_of(now));
                continue;
            }
            let deadline = self.entries[index as usize].deadline;
            self.clear(index);
            if deadline <= now {
                return Some(index);
            }
            // It was more than a lap away and waited in the last slot: put it where it belongs.
            self.tick += 1;
            self.set(index, deadline);
            self.tick -= 1;
        }
        None
    }

    /// When [`TimerWheel::poll`] may next have something, at the earliest: an upper bound for
    /// sleeping.
    pub(crate) fn next_moment(&self) -> Option<Moment> {
        let distance = self.distance_to_occupied()?;
        Some(Moment::from_nanos((self.tick + distance) << TICK_SHIFT))
    }

    /// After a long sleep: goes on over empty slots word by word instead of one by one.
    fn skip_empty(&mut self, limit: u64) {
        let distance = self.distance_to_occupied().unwrap_or(SLOT_COUNT as u64);
        self.tick = (self.tick + distance - 1).min(limit).max(self.tick);
    }

    /// Ticks from now to the next occupied slot, 1 to SLOT_COUNT.
    fn distance_to_occupied(&self) -> Option<u64> {
        let start = (self.tick + 1) as usize % SLOT_COUNT;
        let words = SLOT_COUNT / 64;
        for step in 0..=words {
            let word = (start / 64 + step) % words;
            let mask = match step {
                0 => u64::MAX << (start % 64),
                _ => u64::MAX,
            };
            let bits = self.occupied[word] & mask;
            if bits != 0 {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                return Some(((slot + SLOT_COUNT - start) % SLOT_COUNT) as u64 + 1);
            }
        }
        None
    }
}

/// How late a timer may fire.
#[cfg(test)]
pub(crate) const TICK: Duration = Duration::from_nanos(1 << TICK_SHIFT);

const _: () = assert!(SLOT_COUNT.is_multiple_of(64));

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Moment = Moment::from_nanos(123_456_789_000);

    fn fired(wheel: &mut TimerWheel, now: Moment) -> Vec<u32> {
        std::iter::from_fn(|| wheel.poll(now)).collect()
    }

    #[test]
    fn a_timer_fires_once_within_a_tick_after_its_deadline_and_not_before() {
        for millis in [0, 1, 4, 5, 100, 5_000, 17_000, 30_000, 600_000] {
            let mut wheel = TimerWheel::new(4, START);
            let deadline = START + Duration::from_millis(millis);
            wheel.set(3, deadline);
            assert_eq!(wheel.deadline(3), Some(deadline));
            let mut now = START;
            while now < deadline {
                assert_eq!(fired(&mut wheel, now), [0; 0], "early by {:?}", deadline.since(now));
                // Sleep as the shard does: until the wheel says that it may have something.
                let next = wheel.next_moment().unwrap();
                assert!(next > now && next <= deadline + TICK * 2, "{next:?} {deadline:?}");
                now = next.min(deadline);
            }
            assert_eq!(fired(&mut wheel, deadline + TICK * 2), [3]);
            assert_eq!(fired(&mut wheel, deadline + TICK * 3), [0; 0]);
            assert_eq!(wheel.next_moment(), None);
        }
    }

    #[test]
    fn moving_and_clearing_leave_no_entry() {
        let mut wheel = TimerWheel::new(4, START);
        for index in 0..4 {
            wheel.set(index, START + Duration::from_millis(10));
        }
        wheel.clear(1);
        wheel.set(2, START + Duration::from_millis(100));
        wheel.set_at_most(0, Some(START + Duration::from_millis(50)));
        wheel.set_at_most(3, Some(START + Duration::from_millis(2)));
        assert_eq!(fired(&mut wheel, START + TICK * 2), [3]);
        assert_eq!(fired(&mut wheel, START + Duration::from_millis(20)), [0]);
        assert_eq!(fired(&mut wheel, START + Duration::from_millis(200)), [2]);
    }

    /// A timer that is set again when it fires, to what has passed, must not keep the shard in its
    /// loop.
    #[test]
    fn a_deadline_that_has_passed_fires_in_the_next_poll() {
        for late in [0, 1, 100, 30_000] {
            let mut wheel = TimerWheel::new(1, START);
            wheel.set(0, START);
            let mut now = START + TICK * 2;
            for round in 0..5 {
                now = now + Duration::from_millis(late) + TICK;
                assert_eq!(wheel.poll(now), Some(0), "{round}");
                wheel.set(0, START);
                // After a sleep of more than a lap it may fire once more on the way.
                let again = std::iter::from_fn(|| wheel.poll(now).inspect(|_| wheel.set(0, START)))
                    .take(3)
                    .count();
                assert!(again <= 2, "{late}");
            }
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_sorted_list(
            steps in prop::collection::vec((0u32..32, 0u64..40_000, 0u64..3_000, prop::bool::ANY), 1..200)
        ) {
            let mut wheel = TimerWheel::new(32, START);
            let mut model = std::collections::BTreeMap::new();
            let mut now = START;
            for (index, millis, sleep, clear) in steps {
                if clear {
                    wheel.clear(index);
                    model.remove(&index);
                } else {
                    let deadline = now + Duration::from_millis(millis);
                    wheel.set(index, deadline);
                    model.insert(index, deadline);
                }
                now = now + Duration::from_millis(sleep);
                for index in fired(&mut wheel, now) {
                    prop_assert!(model.remove(&index).unwrap() <= now);
                }
                // Whatever is still set was not due a tick ago.
                prop_assert!(model.values().all(|deadline| *deadline + TICK > now || *deadline + TICK * 2 > now));
            }
        }
    }
}
