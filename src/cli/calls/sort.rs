//! The order of a listing.

#![forbid(unsafe_code)]

use super::Failure;
use super::view::CallView;
use crate::archive::external_sort::ExternalSort;
use clap::{Args, ValueEnum};
use std::collections::BinaryHeap;
use std::io;

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
enum Value {
    Number(u64),
    Name(String),
}

/// A call, and the bytes that are compared.
struct Keyed {
    key: Vec<u8>,
    view: CallView,
}

impl Order {
    /// The calls of the listing, in order. Memory: the calls of the limit. Without a limit it has a
    /// bound; what does not fit goes to a file without a name in the temporary directory.
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
        let keyed = std::iter::from_fn(move || {
            let view = views.next()?;
            place += 1;
            Some(view.map(|view| Keyed { key: self.key(&view, place), view }))
        });
        match self.limit {
            None => Ok(Box::new(sort_all(keyed)?)),
            Some(limit) => {
                Ok(Box::new(first(limit, keyed)?.into_iter().map(|keyed| Ok(keyed.view))))
            }
        }
    }

    /// Bytes that compare as calls do in this order. The call came at `place`: equal ones stay in
    /// the order in which they came, or are reversed too.
    fn key(self, view: &CallView, place: u64) -> Vec<u8> {
        let mut key = match self.value(view) {
            Value::Number(number) => number.to_be_bytes().to_vec(),
            // No name holds a zero, so it comes before all that it is the beginning of.
            Value::Name(name) => [name.as_bytes(), &[0]].concat(),
        };
        key.extend(place.to_be_bytes());
        if self.reverse {
            key.iter_mut().for_each(|byte| *byte = !*byte);
        }
        key
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

/// All calls, in order.
fn sort_all(
    all: impl Iterator<Item = Result<Keyed, Failure>>,
) -> Result<impl Iterator<Item = Result<CallView, Failure>>, Failure> {
    let failed = |error: io::Error| {
        Failure::Run(format!(
            "cannot sort the calls in {}: {error}; give --limit, or set TMPDIR to a directory with \
             room",
            std::env::temp_dir().display()
        ))
    };
    let mut sort = ExternalSort::default();
    for keyed in all {
        let Keyed { key, view } = keyed?;
        let value = serde_json::to_vec(&view).map_err(io::Error::other).map_err(failed)?;
        sort.add(&key, &value).map_err(failed)?;
    }
    let mut sorted = sort.finish().map_err(failed)?;
    Ok(std::iter::from_fn(move || {
        let next = sorted.next().map_err(failed).transpose()?;
        Some(next.and_then(|(_, value)| {
            let view = serde_json::from_slice(&value).map_err(io::Error::other);
            view.map(CallView::with_seconds).map_err(failed)
        }))
    }))
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
        self.key.cmp(&other.key)
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
