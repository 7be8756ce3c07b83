//! The open-loop schedule: when each call opens, when each of its frames is due, and when the call
//! hangs up. It does not depend on the node.
//!
//! All times are nanoseconds since the run's start ([`Clock`]).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Longest time over which the calls hang up. It is shorter than the idle time of a node (ours
/// pings after 15 s), and a small part of a run.
const HANG_UP_MAX: u64 = 10_000_000_000;

/// The run's clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose zero is `start`, which may be in the future.
    pub fn new(start: Instant) -> Self {
        Self { start }
    }

    /// Nanoseconds since the start, 0 before it.
    pub fn now(&self) -> u64 {
        Instant::now().saturating_duration_since(self.start).as_nanos() as u64
    }

    /// The moment that `at` names.
    pub fn instant(&self, at: u64) -> Instant {
        self.start + Duration::from_nanos(at)
    }
}

/// The times of all calls.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Number of calls.
    pub calls: u64,
    /// Opening all calls takes this long, evenly.
    pub ramp: u64,
    /// Every call's audio ends at this moment: ramp plus duration.
    pub end: u64,
    /// Time between two frames of a call.
    pub interval: u64,
    /// Calls that are replaced while the others go on.
    pub churn: Churn,
}

/// Calls end one after the other, each replaced by a new one: call n by call n + `Schedule::calls`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Churn {
    /// How many are replaced.
    pub calls: u64,
    /// Time from one to the next.
    pub interval: u64,
}

impl Schedule {
    /// All calls, with those that replace others.
    pub fn calls_in_all(&self) -> u64 {
        self.calls.saturating_add(self.churn.calls)
    }

    /// When call `number` opens its connection.
    pub fn opens_at(&self, number: u64) -> u64 {
        match number.checked_sub(self.calls) {
            None => self.share(self.ramp, number),
            Some(replacement) => {
                self.ramp.saturating_add((replacement + 1).saturating_mul(self.churn.interval))
            }
        }
    }

    /// Whether call `number` replaces another.
    pub fn replaces(&self, number: u64) -> bool {
        number >= self.calls
    }

    /// When the audio of call `number` ends: when its replacement opens, or with that of all
    /// others.
    pub fn audio_ends_at(&self, number: u64) -> u64 {
        let replacement = number.saturating_add(self.calls);
        if replacement < self.calls_in_all() { self.opens_at(replacement) } else { self.end }
    }

    /// When call `number` hangs up: at the pace at which the calls came up, or faster.
    ///
    /// They do not all hang up at the end. Thousands of closings between two frames would make the
    /// generator send the last frames late, and telephone calls do not end like that either.
    pub fn hangs_up_at(&self, number: u64) -> u64 {
        let audio_end = self.audio_ends_at(number);
        if audio_end < self.end {
            return audio_end;
        }
        self.end.saturating_add(self.share(self.hang_up(), number % self.calls.max(1)))
    }

    /// From the end of the audio until the last call hangs up.
    pub fn hang_up(&self) -> u64 {
        self.ramp.min(HANG_UP_MAX)
    }

    fn share(&self, time: u64, number: u64) -> u64 {
        (u128::from(time) * u128::from(number) / u128::from(self.calls.max(1))) as u64
    }

    /// The call's place within an interval, spaced by the golden ratio: for every N, the first N
    /// calls are spread evenly.
    pub fn phase(&self, number: u64) -> u64 {
        let fraction = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((u128::from(fraction) * u128::from(self.interval)) >> 64) as u64
    }

    /// First due time of call `number` at or after `now`.
    pub fn first_due(&self, number: u64, now: u64) -> u64 {
        let phase = self.phase(number);
        if now <= phase {
            phase
        } else {
            phase + (now - phase).div_ceil(self.interval) * self.interval
        }
    }

    /// Frames of a connection of call `number` whose first is due at `first`: those due before its
    /// audio ends.
    pub fn frames_from(&self, number: u64, first: u64) -> u64 {
        self.audio_ends_at(number).saturating_sub(first).div_ceil(self.interval)
    }
}

/// Calls in the order in which their next frames are due.
///
/// All calls share one interval, so a call that was just served is always the last in line. So a
/// queue does the work of a timer heap in constant time. Only joining searches for a place.
#[derive(Debug)]
pub struct Wheel<T> {
    interval: u64,
    queue: VecDeque<(u64, T)>,
}

impl<T> Wheel<T> {
    /// An empty wheel.
    pub fn new(interval: u64) -> Self {
        Self { interval, queue: VecDeque::new() }
    }

    /// Puts a call in line. True if it is now the first: then the wait for the next one is shorter.
    pub fn join(&mut self, due: u64, item: T) -> bool {
        let place = self.queue.partition_point(|(other, _)| *other <= due);
        self.queue.insert(place, (due, item));
        place == 0
    }

    /// When the first in line is due.
    pub fn next_due(&self) -> Option<u64> {
        self.queue.front().map(|(due, _)| *due)
    }

    /// Takes the first in line if it is due by `now`.
    pub fn pop_due(&mut self, now: u64) -> Option<(u64, T)> {
        if self.next_due()? > now {
            return None;
        }
        self.queue.pop_front()
    }

    /// Puts a call that was due at `due` in line for its next frame.
    pub fn requeue(&mut self, due: u64, item: T) {
        self.join(due + self.interval, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn schedule(calls: u64) -> Schedule {
        let churn = Churn::default();
        Schedule { calls, ramp: 10_000 * MS, end: 70_000 * MS, interval: 200 * MS, churn }
    }

    #[test]
    fn calls_open_evenly_over_the_ramp() {
        let schedule = schedule(4_000);
        assert_eq!(schedule.opens_at(0), 0);
        assert_eq!(schedule.opens_at(2_000), 5_000 * MS);
        assert!(schedule.opens_at(3_999) < 10_000 * MS);
        assert_eq!(Schedule { ramp: 0, ..schedule }.opens_at(3_999), 0);
    }

    #[test]
    fn calls_hang_up_evenly_and_never_before_the_end() {
        let schedule = schedule(4_000);
        assert_eq!(schedule.hangs_up_at(0), schedule.end);
        assert_eq!(schedule.hangs_up_at(2_000), schedule.end + 5_000 * MS);
        let times: Vec<u64> = (0..4_000).map(|number| schedule.hangs_up_at(number)).collect();
        assert!(
            times.windows(2).all(|pair| pair[1] - pair[0] == 2_500_000),
            "as they opened, 400 a second"
        );
        assert!(
            times.iter().all(|at| (schedule.end..schedule.end + schedule.hang_up()).contains(at))
        );
        // After a long ramp they hang up faster, and without a ramp all at once.
        let long = Schedule { ramp: 3_600_000 * MS, ..schedule };
        assert_eq!(long.hangs_up_at(2_000), long.end + 5_000 * MS);
        assert_eq!(Schedule { ramp: 0, ..schedule }.hangs_up_at(3_999), schedule.end);
        assert_eq!(Schedule { end: u64::MAX, ..schedule }.hangs_up_at(3_999), u64::MAX);
    }

    #[test]
    fn phases_fill_the_interval_for_any_number_of_calls() {
        for calls in [10, 100, 4_000] {
            let schedule = schedule(calls);
            let mut phases: Vec<u64> = (0..calls).map(|n| schedule.phase(n)).collect();
            phases.sort_unstable();
            let gap_max = phases.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            assert!(phases.iter().all(|phase| *phase < schedule.interval));
            assert!(gap_max < 3 * schedule.interval / calls, "{calls} calls: gap {gap_max}");
        }
    }

    #[test]
    fn due_times_stay_on_the_calls_grid() {
        let schedule = schedule(100);
        for number in [0, 1, 42] {
            for now in [0, 1, 199 * MS, 200 * MS, 12_345_678_901] {
                let due = schedule.first_due(number, now);
                assert!(due >= now && due < now.max(schedule.phase(number)) + schedule.interval);
                assert_eq!((due - schedule.phase(number)) % schedule.interval, 0);
            }
        }
    }

    #[test]
    fn counts_the_frames_before_the_end() {
        let schedule = schedule(1);
        assert_eq!(schedule.frames_from(0, 0), 350);
        assert_eq!(schedule.frames_from(0, schedule.end - 1), 1);
        assert_eq!(schedule.frames_from(0, schedule.end), 0);
        assert_eq!(schedule.frames_from(0, schedule.end + 1), 0);
    }

    #[test]
    fn a_replacement_opens_as_the_other_hangs_up() {
        // Ten calls, and three a second of 25 that replace them.
        let churn = Churn { calls: 25, interval: 333 * MS };
        let schedule = Schedule { churn, ..schedule(10) };
        assert_eq!(schedule.calls_in_all(), 35);
        for number in 0..25 {
            let at = 10_000 * MS + (number + 1) * 333 * MS;
            assert_eq!(
                (schedule.audio_ends_at(number), schedule.hangs_up_at(number)),
                (at, at),
                "{number}"
            );
            assert_eq!(
                (schedule.opens_at(number + 10), schedule.replaces(number + 10)),
                (at, true),
                "{number}"
            );
        }
        // The last ten go on to the end, and hang up in the order of the calls that they replaced.
        for number in 25..35 {
            assert_eq!(schedule.audio_ends_at(number), schedule.end);
            assert_eq!(schedule.hangs_up_at(number), schedule.end + number % 10 * 1_000 * MS);
        }
        let opens: Vec<u64> = (0..35).map(|number| schedule.opens_at(number)).collect();
        assert!(opens.is_sorted(), "they are opened in the order of their numbers");
        assert_eq!(schedule.frames_from(0, 10_200 * MS), 1);
    }

    #[test]
    fn the_wheel_serves_in_due_order_and_never_early() {
        let mut wheel = Wheel::new(200);
        assert!(wheel.join(50, 'b'));
        assert!(!wheel.join(120, 'c'));
        assert!(wheel.join(10, 'a'));
        assert!(wheel.pop_due(9).is_none());
        let mut served = Vec::new();
        for now in [10, 60, 130, 211, 460] {
            while let Some((due, name)) = wheel.pop_due(now) {
                assert!(due <= now);
                served.push((due, name));
                wheel.requeue(due, name);
            }
        }
        let expected = [
            (10, 'a'),
            (50, 'b'),
            (120, 'c'),
            (210, 'a'),
            (250, 'b'),
            (320, 'c'),
            (410, 'a'),
            (450, 'b'),
        ];
        assert_eq!(served, expected);
        assert_eq!(wheel.next_due(), Some(520));
    }
}
