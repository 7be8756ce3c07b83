//! A client of a node's admin listener, and a strict reader of `/metrics`. It checks the rules of
//! the OpenMetrics text format, version 1.0.0, that the node could break.

use crate::{Peer, Response};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// An admin listener.
#[derive(Clone, Copy, Debug)]
pub struct Admin {
    address: SocketAddr,
}

impl Admin {
    /// At this address.
    pub fn at(address: SocketAddr) -> Admin {
        Admin { address }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection to it.
    #[track_caller]
    pub fn connect(&self) -> Peer {
        Peer::connect(self.address)
    }

    /// The answer to a request without a body, on a connection of its own.
    #[track_caller]
    pub fn request(&self, method: &str, target: &str) -> Response {
        let mut peer = self.connect();
        peer.send(format!("{method} {target} HTTP/1.1\r\nHost: admin\r\n\r\n").as_bytes());
        peer.try_response(method != "HEAD").expect("an answer")
    }

    /// The body of an answer with status 200.
    #[track_caller]
    pub fn get(&self, target: &str) -> String {
        let response = self.request("GET", target);
        assert_eq!(response.status, 200, "{target}: {}", response.body);
        response.body
    }

    /// The status of `/ready`, and the names of its reasons.
    #[track_caller]
    pub fn ready(&self) -> (u16, Vec<String>) {
        let response = self.request("GET", "/ready");
        let names =
            response.body.split(r#"{"reason":""#).skip(1).filter_map(|rest| rest.split('"').next());
        (response.status, names.map(str::to_owned).collect())
    }

    /// A scrape.
    #[track_caller]
    pub fn metrics(&self) -> Exposition {
        Exposition::parse(&self.get("/metrics"))
    }
}

/// The result of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    /// Type of each family.
    pub types: BTreeMap<String, String>,
    /// Value of each series, by its name and labels as written.
    pub samples: BTreeMap<String, f64>,
}

impl Exposition {
    /// The value of a series.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series}"))
    }

    /// The sum over all series of a name.
    pub fn sum(&self, name: &str) -> f64 {
        self.samples
            .iter()
            .filter(|(series, _)| series.split('{').next() == Some(name))
            .map(|(_, value)| value)
            .sum()
    }

    /// Reads a text; panics if it breaks a rule.
    #[track_caller]
    pub fn parse(text: &str) -> Exposition {
        let body = text.strip_suffix("# EOF\n").expect("it ends with its mark");
        let mut all = Exposition::default();
        let mut family = Family::default();
        for line in body.lines() {
            assert!(
                !line.is_empty() && line.trim() == line,
                "a line with space around it: {line:?}"
            );
            match line.strip_prefix("# ") {
                Some(described) => {
                    let mut words = described.splitn(3, ' ');
                    let (keyword, name, rest) =
                        (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
                    family.describe(&mut all, keyword, name, rest);
                }
                None => family.sample(&mut all, line),
            }
        }
        family.end();
        all
    }
}

#[derive(Default)]
struct Family {
    name: String,
    kind: String,
    /// The lines of description so far.
    described: Vec<String>,
    has_samples: bool,
    /// Of histograms: by the other labels, the buckets, and the count.
    buckets: BTreeMap<String, Vec<(f64, f64)>>,
    counts: BTreeMap<String, f64>,
}

impl Family {
    fn describe(&mut self, all: &mut Exposition, keyword: &str, name: &str, rest: &str) {
        if keyword == "HELP" {
            std::mem::replace(self, Family { name: name.to_owned(), ..Family::default() }).end();
            assert!(!all.types.contains_key(name), "{name} comes twice");
        }
        assert_eq!(name, self.name, "{keyword} of another family");
        assert!(!self.has_samples, "{keyword} of {name} after its samples");
        let order = ["HELP", "TYPE", "UNIT"];
        assert_eq!(order.get(self.described.len()), Some(&keyword), "{name}");
        self.described.push(keyword.to_owned());
        match keyword {
            "TYPE" => {
                assert!(
                    ["counter", "gauge", "histogram", "info"].contains(&rest),
                    "{name} is a {rest}"
                );
                self.kind = rest.to_owned();
                all.types.insert(name.to_owned(), rest.to_owned());
            }
            "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{name} has the unit {rest}"),
            _ => assert!(!rest.is_empty() && is_name(name), "{name}: {rest}"),
        }
    }

    fn sample(&mut self, all: &mut Exposition, line: &str) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels_of(labels.strip_suffix('}').expect("a brace"))),
            None => (series, Vec::new()),
        };
        let suffix = name
            .strip_prefix(&self.name)
            .unwrap_or_else(|| panic!("{name} among the samples of {}", self.name));
        let allowed: &[&str] = match self.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_sum", "_count"],
            kind => panic!("{name} is a {kind}"),
        };
        assert!(allowed.contains(&suffix), "{name} of a {}", self.kind);
        assert!(self.kind == "gauge" || value >= 0.0 && value.is_finite(), "{line}");
        assert!(all.samples.insert(series.to_owned(), value).is_none(), "{series} comes twice");
        self.has_samples = true;
        let others: Vec<_> = labels
            .iter()
            .filter(|(name, _)| name != "le")
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        match suffix {
            "_bucket" => {
                let bound =
                    labels.iter().find(|(name, _)| name == "le").expect("a bucket has a bound");
                let bound = if bound.1 == "+Inf" {
                    f64::INFINITY
                } else {
                    bound.1.parse().expect("a number")
                };
                self.buckets.entry(others.concat()).or_default().push((bound, value));
            }
            "_count" => drop(self.counts.insert(others.concat(), value)),
            _ => {}
        }
    }

    fn end(self) {
        assert_eq!(self.buckets.len(), self.counts.len(), "{}", self.name);
        for (labels, buckets) in &self.buckets {
            assert!(
                buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
                "{}: {buckets:?}",
                self.name
            );
            let last = buckets.last().expect("it has one");
            assert_eq!(*last, (f64::INFINITY, self.counts[labels]), "{}", self.name);
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_start = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    name.bytes().next().is_some_and(is_start)
        && name.bytes().all(|byte| is_start(byte) || byte.is_ascii_digit())
}

/// The labels between the braces.
fn labels_of(text: &str) -> Vec<(String, String)> {
    let mut labels: Vec<(String, String)> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").expect("a label's value");
        assert!(is_name(name) && labels.iter().all(|(known, _)| known != name), "{text}");
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().expect("a closing quote") {
                (index, '"') => break index,
                (_, '\\') => value.push(match chars.next().expect("an escape").1 {
                    'n' => '\n',
                    same @ ('\\' | '"') => same,
                    other => panic!("\\{other} in {text}"),
                }),
                (_, plain) => value.push(plain),
            }
        };
        labels.push((name.to_owned(), value));
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or_else(|| {
            assert!(rest.is_empty(), "{text}");
            rest
        });
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a A.\n# TYPE a counter\na_total{b=\"c\\\"},\"} 1\na_total 2\n\
        # HELP h_seconds H.\n# TYPE h_seconds histogram\n# UNIT h_seconds seconds\n\
        h_seconds_sum 1.5\nh_seconds_count 2\n\
        h_seconds_bucket{le=\"0.5\"} 1\nh_seconds_bucket{le=\"+Inf\"} 2\n# EOF\n";

    #[test]
    fn good_text_is_read_and_bad_text_is_not() {
        let read = Exposition::parse(GOOD);
        assert_eq!(
            (read.value("a_total"), read.sum("a_total"), read.types["h_seconds"].as_str()),
            (2.0, 3.0, "histogram")
        );
        for (from, to) in [
            ("# EOF\n", ""),
            ("a_total 2\n", "a_total{b=\"c\\\"},\"} 2\n"),
            ("a_total 2", "a 2"),
            ("a_total 2", "a_total two"),
            ("a_total 2", "a_total{b=\"x\",b=\"y\"} 2"),
            ("# TYPE a counter\n", ""),
            ("# HELP a A.\n# TYPE a counter\n", "# TYPE a counter\n# HELP a A.\n"),
            ("# UNIT h_seconds seconds", "# UNIT h_seconds bytes"),
            ("{le=\"+Inf\"} 2", "{le=\"+Inf\"} 3"),
            ("{le=\"0.5\"} 1", "{le=\"0.5\"} 3"),
            (
                "# HELP h_seconds H.\n# TYPE h_seconds histogram\n",
                "# HELP a H.\n# TYPE a histogram\n",
            ),
        ] {
            assert!(GOOD.contains(from));
            let wrong = GOOD.replacen(from, to, 1);
            assert!(std::panic::catch_unwind(|| Exposition::parse(&wrong)).is_err(), "{wrong}");
        }
    }
}
