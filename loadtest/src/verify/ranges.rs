//! Sets of frame numbers. Nearly always a set is one range that grows at its end.

/// Numbers in ranges, ascending, none touching the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

/// The outcome of an insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The number is greater than all others.
    Last,
    /// It is new, and there was a greater one.
    Between,
    /// It was there already.
    Twice,
}

impl Ranges {
    /// Adds a number.
    pub fn insert(&mut self, number: u64) -> Inserted {
        match self.0.last_mut() {
            Some((_, last)) if number == *last + 1 => *last = number,
            Some((_, last)) if number <= *last => return self.insert_between(number),
            _ => self.0.push((number, number)),
        }
        Inserted::Last
    }

    fn insert_between(&mut self, number: u64) -> Inserted {
        if self.contains(number) {
            return Inserted::Twice;
        }
        let place = self.0.partition_point(|(_, last)| *last < number);
        self.0.insert(place, (number, number));
        self.join(place);
        Inserted::Between
    }

    /// Joins the range at `place` with its neighbours where they touch.
    fn join(&mut self, place: usize) {
        for left in [place, place.saturating_sub(1)] {
            if let [(_, last), (first, end), ..] = self.0[left..]
                && last + 1 == first
            {
                self.0[left].1 = end;
                self.0.remove(left + 1);
            }
        }
    }

    /// Whether a number is there.
    pub fn contains(&self, number: u64) -> bool {
        let place = self.0.partition_point(|(_, last)| *last < number);
        self.0.get(place).is_some_and(|(first, _)| *first <= number)
    }

    /// How many of the numbers up to `last` are there.
    pub fn count_to(&self, last: u64) -> u64 {
        self.0.iter().map(|(first, end)| (*end).min(last).saturating_sub(*first - 1)).sum()
    }

    /// All of them.
    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// The ranges between 1 and `last` that are not there.
    pub fn gaps_to(&self, last: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut next = 1;
        for (first, end) in self.0.iter().chain([&(last + 1, last + 1)]) {
            if *first > next && next <= last {
                gaps.push((next, (first - 1).min(last)));
            }
            next = next.max(end + 1);
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_any_order_make_the_same_set() {
        let numbers = [1, 2, 3, 5, 9, 10, 4, 7, 8, 6];
        for shift in 0..numbers.len() {
            let mut order = numbers;
            order.rotate_left(shift);
            let mut ranges = Ranges::default();
            let mut model = std::collections::BTreeSet::new();
            for number in order {
                let greatest = model.last().copied().unwrap_or(0);
                assert_eq!(
                    ranges.insert(number),
                    if number > greatest { Inserted::Last } else { Inserted::Between }
                );
                assert_eq!(ranges.insert(number), Inserted::Twice);
                model.insert(number);
                assert!(ranges.iter().eq(model.iter().copied()), "{ranges:?}");
                for last in 0..12 {
                    assert_eq!(ranges.count_to(last), model.range(..=last).count() as u64);
                    let gaps =
                        ranges.gaps_to(last).into_iter().flat_map(|(first, last)| first..=last);
                    assert!(
                        gaps.eq((1..=last).filter(|number| !model.contains(number))),
                        "{ranges:?} to {last}"
                    );
                    assert_eq!(ranges.contains(last), model.contains(&last));
                }
            }
            assert_eq!(ranges.0, [(1, 10)]);
        }
    }
}
