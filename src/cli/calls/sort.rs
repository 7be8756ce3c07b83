//! The order of a listing.

#![forbid(unsafe_code)]

use super::Failure;
use super::view::CallView;
use clap::{Args, ValueEnum};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Flags for the order.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Order {
    /// What to sort by: the smallest or earliest first
    #[arg(long, value_name = "KEY", default_value = "start")]
    sort: SortKey,
    /// The largest or latest first
    #[arg(short, long)]
    reverse: bool,
    /// Only the first N calls in this order
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// What to sort by.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum SortKey {
    /// When the call began
    Start,
    /// When it ended; live calls are last
    End,
    /// How long its audio is
    Seconds,
    /// Frames
    Frames,
    /// Missing frames
    Gaps,
    /// Its name
    Call,
}

/// The value of a call that is compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Number(u64),
    Name(String),
}

/// A call with its place: equal ones stay in the order in which they came.
struct Keyed {
    value: Value,
    place: usize,
    view: CallView,
}

impl Order {
    /// The calls of the listing, in order. Memory: the calls of the limit; without a limit none in
    /// the order of the source, else all of them.
    pub(crate) fn apply<'a>(
        self,
        mut views: impl Iterator<Item = Result<CallView, Failure>> + 'a,
    ) -> Result<Box<dyn Iterator<Item = Result<CallView, Failure>> + 'a>, Failure> {
        if self.sort == SortKey::Start && !self.reverse {
            let mut left = self.limit.unwrap_or(usize::MAX);
            return Ok(Box::new(std::iter::from_fn(move || match left {
                // The source counts what it does not list, and knows the count at its end.
                0 => views.find_map(Result::err).map(Err),
                _ => {
                    left -= 1;
                    views.next()
                }
            })));
        }
        let mut place = 0;
        let mut keyed = || {
            let view = views.next()?;
            place += 1;
            Some(view.map(|view| Keyed { value: self.value(&view), place, view }))
        };
        let sorted = match (self.limit, self.reverse) {
            (None, _) => self.sort_all(std::iter::from_fn(keyed))?,
            (Some(limit), false) => first(limit, std::iter::from_fn(keyed))?,
            (Some(limit), true) => {
                let reversed = std::iter::from_fn(|| keyed().map(|next| next.map(Reverse)));
                first(limit, reversed)?.into_iter().map(|Reverse(keyed)| keyed).collect()
            }
        };
        Ok(Box::new(sorted.into_iter().map(|keyed| Ok(keyed.view))))
    }

    fn sort_all(
        self,
        all: impl Iterator<Item = Result<Keyed, Failure>>,
    ) -> Result<Vec<Keyed>, Failure> {
        let mut all = all.collect::<Result<Vec<Keyed>, Failure>>()?;
        match self.reverse {
            false => all.sort_unstable(),
            true => all.sort_unstable_by(|one, other| other.cmp(one)),
        }
        Ok(all)
    }

    fn value(self, view: &CallView) -> Value {
        let epochs = || view.epochs.iter();
        Value::Number(match self.sort {
            SortKey::Start => epochs().map(|epoch| epoch.start.0).min().unwrap_or(0),
            SortKey::End => {
                let end = |epoch: &super::view::EpochView| epoch.end.map_or(u64::MAX, |end| end.0);
                epochs().map(end).max().unwrap_or(0)
            }
            SortKey::Seconds => epochs().map(|epoch| (epoch.seconds * 1e6) as u64).sum(),
            SortKey::Frames => epochs().map(|epoch| epoch.frames).sum(),
            SortKey::Gaps => epochs().map(|epoch| epoch.frames_missing).sum(),
            SortKey::Call => return Value::Name(view.call.clone()),
        })
    }
}

/// The `limit` smallest items, in order.
fn first<T: Ord>(
    limit: usize,
    items: impl Iterator<Item = Result<T, Failure>>,
) -> Result<Vec<T>, Failure> {
    let mut kept = BinaryHeap::new();
    for item in items {
        kept.push(item?);
        if kept.len() > limit {
            kept.pop();
        }
    }
    Ok(kept.into_sorted_vec())
}

impl Ord for Keyed {
    fn cmp(&self, other: &Keyed) -> std::cmp::Ordering {
        (&self.value, self.place).cmp(&(&other.value, other.place))
    }
}

impl PartialOrd for Keyed {
    fn partial_cmp(&self, other: &Keyed) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Keyed {
    fn eq(&self, other: &Keyed) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Keyed {}
