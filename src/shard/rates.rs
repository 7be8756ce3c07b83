//! How often something may happen: new connections of one address, lines of the log.
//!
//! The state of a rate is one moment: when the allowance will be full again (GCRA). Nothing has to
//! be counted down, and a moment in the past means the same as no entry.
#![forbid(unsafe_code)]

use crate::clock::Moment;
use crate::limits::Limits;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A rate over time, and a burst at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// How far ahead of now the allowance may be spent.
    ahead_max: Duration,
}

impl Pace {
    /// `rate` a second and `burst` at once, at least 1 each.
    pub(super) fn new(rate: usize, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / u32::try_from(rate).unwrap_or(u32::MAX).max(1);
        Pace { interval, ahead_max: interval.saturating_mul(burst.max(1) - 1) }
    }

    /// Takes one, if the allowance has one. `full_at` is when it will be full.
    pub(super) fn take(self, full_at: &mut Moment, now: Moment) -> bool {
        if full_at.since(now) > self.ahead_max {
            return false;
        }
        *full_at = (*full_at).max(now) + self.interval;
        true
    }
}

/// Entries that share a place. The entry with the fullest allowance gives way.
const WAYS: usize = 4;

/// Places of the table. With all entries it takes 128 KiB, and remembers 4,096 busy addresses.
const PLACES: usize = 1024;

/// The rate of each address, in a table of fixed size. A peer with more addresses than the table
/// has entries meets no limit, but takes no allowance from other peers.
#[derive(Debug)]
pub(super) struct AddressRates {
    pace: Pace,
    entries: Box<[[Entry; WAYS]]>,
    /// Keyed, so that no peer can choose its place.
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    group: u128,
    full_at: Moment,
}

impl AddressRates {
    /// The rates that these limits set, if they set any.
    pub(super) fn of(limits: &Limits) -> Option<Self> {
        limits.address_rate.map(|rate| AddressRates::new(Pace::new(rate, limits.address_burst)))
    }

    fn new(pace: Pace) -> Self {
        let entry = Entry { group: 0, full_at: Moment::ZERO };
        AddressRates {
            pace,
            entries: vec![[entry; WAYS]; PLACES].into(),
            hasher: RandomState::new(),
        }
    }

    /// Whether a new connection of this group of addresses is within its rate.
    pub(super) fn allow(&mut self, group: u128, now: Moment) -> bool {
        let place = self.hasher.hash_one(group) as usize % PLACES;
        let ways = &mut self.entries[place];
        let index = ways.iter().position(|entry| entry.group == group).unwrap_or_else(|| {
            let fullest = (0..WAYS).min_by_key(|way| ways[*way].full_at).unwrap_or(0);
            ways[fullest] = Entry { group, full_at: now };
            fullest
        });
        self.pace.take(&mut ways[index].full_at, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment::from_nanos(5_000_000_000);

    fn at(millis: u64) -> Moment {
        START + Duration::from_millis(millis)
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_rate() {
        let pace = Pace::new(10, 3);
        let mut full_at = Moment::ZERO;
        let taken: Vec<bool> = [0, 0, 0, 0, 99, 100, 150, 200, 250]
            .map(|millis| pace.take(&mut full_at, at(millis)))
            .into();
        assert_eq!(taken, [true, true, true, false, false, true, false, true, false]);
        // After a pause the whole burst is there again, and no more.
        let taken = (0..5).filter(|_| pace.take(&mut full_at, at(60_000))).count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn each_address_has_its_own_allowance() {
        let mut rates = AddressRates::new(Pace::new(1, 2));
        for group in 1..=100 {
            let allowed = [(); 3].map(|()| rates.allow(group, at(0)));
            assert_eq!(allowed, [true, true, false], "{group}");
        }
        assert!((1..=100).all(|group| !rates.allow(group, at(10))), "they are remembered");
        assert!((1..=100).all(|group| rates.allow(group, at(1000))));
    }

    #[test]
    fn many_addresses_take_no_more_room_and_no_allowance_from_others() {
        let mut rates = AddressRates::new(Pace::new(1, 1));
        for group in 1..=100_000 {
            assert!(rates.allow(group, at(0)), "{group} was never seen before");
        }
        assert_eq!(rates.entries.len() * WAYS, 4096);
        assert!(size_of::<Entry>() <= 32);
    }
}
