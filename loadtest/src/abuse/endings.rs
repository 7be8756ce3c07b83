//! The endings of all hostile peers: how often each came, and whether it was right and in time.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::ending::Ending;
use super::kind::Kind;
use crate::duration::show;
use crate::plural::grouped;

/// This much beyond the limit is still in time: timers on both sides are coarse, and a busy machine
/// is late.
pub const GRACE: Duration = Duration::from_secs(1);

/// A peer that is still open this long after its time counts as not closed.
pub const LATE_MAX: Duration = Duration::from_secs(3);

/// Examples kept of what was wrong.
const EXAMPLES_MAX: usize = 5;

/// The endings of all peers.
#[derive(Debug)]
pub struct Endings {
    kind: Kind,
    limit: Duration,
    by_ending: BTreeMap<String, Histogram<u64>>,
    /// Connections that have ended.
    pub connections: u64,
    /// Connections that ended as they should, in time.
    pub right: u64,
    /// Connections that ended as they should but late, or did not end.
    pub late: u64,
    /// Connections that ended in another way.
    pub wrong: u64,
    /// Connections that could not be made, because this machine had no port or descriptor left.
    pub no_room: u64,
    /// Bytes that peers sent.
    pub bytes: u64,
    /// Examples of what was wrong.
    pub examples: Vec<String>,
}

impl Endings {
    /// No endings yet. `limit` is the time in which the node must end a peer.
    pub fn new(kind: Kind, limit: Duration) -> Self {
        Self {
            kind,
            limit,
            by_ending: BTreeMap::new(),
            connections: 0,
            right: 0,
            late: 0,
            wrong: 0,
            no_room: 0,
            bytes: 0,
            examples: Vec::new(),
        }
    }

    /// Counts the ending of a connection, `after` the node had reason to end it.
    pub fn record(&mut self, ending: &Ending, after: Duration) {
        self.connections += 1;
        let is_late = after > self.limit + GRACE;
        match ending {
            Ending::NoRoom => self.no_room += 1,
            Ending::NotClosed => self.late += 1,
            ending if !self.kind.expects(ending) => self.wrong += 1,
            _ if is_late => self.late += 1,
            _ => self.right += 1,
        }
        if (is_late || !self.kind.expects(ending)) && self.examples.len() < EXAMPLES_MAX {
            let why =
                if let Ending::Odd(why) = ending { format!(" ({why})") } else { String::new() };
            self.examples.push(format!("{ending}{why} after {}", show(after.as_nanos() as u64)));
        }
        let times = self.by_ending.entry(ending.to_string()).or_insert_with(|| {
            Histogram::new_with_bounds(1_000, 600_000_000_000, 3)
                .expect("constant bounds are valid")
        });
        times.saturating_record(after.as_nanos() as u64);
    }

    /// For `abuse.json`.
    pub fn to_json(&self) -> Value {
        let by_ending = self.by_ending.iter().map(|(name, times)| {
            let at = |percentile| times.value_at_percentile(percentile);
            let figures = json!({
                "count": times.len(),
                "after_p50_ns": at(50.0),
                "after_p99_ns": at(99.0),
                "after_max_ns": times.max(),
            });
            (name.clone(), figures)
        });
        json!({
            "expected": self.kind.expected(),
            "limit_s": self.limit.as_secs_f64(),
            "connections": self.connections,
            "right": self.right,
            "late": self.late,
            "wrong": self.wrong,
            "no_room": self.no_room,
            "bytes": self.bytes,
            "endings": by_ending.collect::<serde_json::Map<_, _>>(),
            "examples": self.examples,
        })
    }
}

/// An ending of `abuse.json` in words: `30,123 status_408 (p50 5.00 s, max 5.01 s)`.
pub fn words(name: &str, figures: &Value) -> String {
    let number = |key: &str| figures[key].as_u64().unwrap_or(0);
    let (p50, max) = (show(number("after_p50_ns")), show(number("after_max_ns")));
    format!("{} {name} (p50 {p50}, max {max})", grouped(number("count")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_ending_decide() {
        let mut endings = Endings::new(Kind::Slowloris, Duration::from_secs(5));
        for (ending, seconds) in [
            (Ending::Status(408), 5),
            (Ending::Status(408), 6),
            (Ending::Status(503), 0),
            (Ending::Status(408), 7),
            (Ending::NotClosed, 11),
            (Ending::Status(200), 1),
            (Ending::Reset, 1),
            (Ending::NoRoom, 0),
        ] {
            endings.record(&ending, Duration::from_secs(seconds));
        }
        assert_eq!((endings.right, endings.late, endings.wrong), (3, 2, 2));
        assert_eq!((endings.no_room, endings.connections), (1, 8));
        assert_eq!(endings.examples.len(), EXAMPLES_MAX, "{:?}", endings.examples);
        let json = endings.to_json();
        assert_eq!(json["endings"]["status_408"]["count"], 3, "{json:#}");
        assert!(
            words("status_408", &json["endings"]["status_408"])
                .starts_with("3 status_408 (p50 6.0"),
            "{json:#}"
        );
    }
}
