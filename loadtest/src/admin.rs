//! Reads the node's metrics from its admin address.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// A node that serves calls answers a scrape well within this.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Longest answer that is read, bytes: more than a scrape of any node.
const ANSWER_MAX: u64 = 16 << 20;

/// What to do about a wrong address.
const ADDRESS_HINT: &str = "give the address that the node's --admin has";

/// The node's `--max-calls`, from `/metrics` at `address`.
pub fn calls_max(address: &str) -> Result<u64, String> {
    let answer = scrape(address).map_err(|error| unreadable(address, &error))?;
    parse(&answer).ok_or_else(|| {
        format!("--admin: http://{address}/metrics has no exo_ingest_calls_max; {ADDRESS_HINT}")
    })
}

fn unreadable(address: &str, error: &std::io::Error) -> String {
    format!("--admin: cannot read http://{address}/metrics ({error}); {ADDRESS_HINT}")
}

/// The node's counters of TLS, by name and labels.
pub fn tls_counters(address: &str) -> Result<BTreeMap<String, u64>, String> {
    let answer = scrape(address).map_err(|error| unreadable(address, &error))?;
    Ok(parse_counters(&answer))
}

/// All counters of the node, by name and labels.
pub fn counters(address: &str) -> std::io::Result<BTreeMap<String, u64>> {
    let answer = scrape(address)?;
    let samples = answer.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("exo_ingest_")?.rsplit_once(' ')?;
        let is_counter = name.split('{').next().is_some_and(|name| name.ends_with("_total"));
        Some((name.to_owned(), value.parse::<f64>().ok().filter(|_| is_counter)? as u64))
    });
    Ok(samples.collect())
}

/// CPU time (nanoseconds) and resident memory (bytes) of the node, from its own metrics.
pub fn process(address: &str) -> std::io::Result<(u64, u64)> {
    let answer = scrape(address)?;
    let value = |name: &str| {
        let found =
            answer.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        found.ok_or_else(|| std::io::Error::other(format!("no {name}")))
    };
    Ok((
        (value("process_cpu_seconds_total ")? * 1e9) as u64,
        value("process_resident_memory_bytes ")? as u64,
    ))
}

/// The counters that went up, and by how much.
pub fn growth(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let grown = after.iter().map(|(name, value)| {
        let before = before.get(name).copied().unwrap_or(0);
        (name.clone(), value.saturating_sub(before))
    });
    grown.filter(|(_, value)| *value > 0).collect()
}

/// All samples of a node's metrics at one moment.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    samples: Vec<(String, f64)>,
}

/// Reads all metrics of the node.
pub fn read(address: &str) -> std::io::Result<Scrape> {
    Ok(Scrape::new(&scrape(address)?))
}

impl Scrape {
    /// Reads the text of a scrape. Lines that are no samples are passed over.
    pub fn new(text: &str) -> Self {
        let sample = |line: &str| {
            let (series, value) = line.trim_end().rsplit_once(' ')?;
            let value = value.parse().ok()?;
            (!series.starts_with('#')).then(|| (series.to_owned(), value))
        };
        Self { samples: text.lines().filter_map(sample).collect() }
    }

    /// The sum over all series of a metric; none if there is no series.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let values = self.samples.iter().filter(|(series, _)| name_of(series) == name);
        values.map(|(_, value)| *value).reduce(|sum, value| sum + value)
    }

    /// The sums of a metric by the value of one label.
    pub fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        let prefix = format!("{label}=\"");
        for (series, value) in &self.samples {
            let (of, labels) = series.split_once('{').unwrap_or((series, ""));
            if of != name {
                continue;
            }
            let found = labels
                .trim_end_matches('}')
                .split(',')
                .find_map(|pair| pair.strip_prefix(&prefix)?.strip_suffix('"'));
            if let Some(found) = found {
                *sums.entry(found.to_owned()).or_default() += value;
            }
        }
        sums
    }
}

fn name_of(series: &str) -> &str {
    series.split('{').next().unwrap_or(series)
}

fn scrape(address: &str) -> std::io::Result<String> {
    let address_found =
        address.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
    let mut stream = TcpStream::connect_timeout(&address_found, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The value of the sample. It is a line of its own in every text format of Prometheus.
fn parse(answer: &str) -> Option<u64> {
    let value = answer.lines().find_map(|line| line.strip_prefix("exo_ingest_calls_max "))?;
    value
        .split_whitespace()
        .next()?
        .parse::<f64>()
        .ok()
        .filter(|calls| *calls >= 0.0)
        .map(|calls| calls as u64)
}

/// Counters of TLS, summed over the shards: `exo_ingest_tls_failures_total{reason="x",shard="0"}
/// 12` counts for `tls_failures_total{reason="x"}`.
fn parse_counters(answer: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in answer.lines() {
        let Some((series, value)) =
            line.strip_prefix("exo_ingest_").and_then(|rest| rest.rsplit_once(' '))
        else {
            continue;
        };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let value = value
            .parse::<f64>()
            .ok()
            .filter(|_| name.starts_with("tls_") && name.ends_with("_total"));
        let Some(value) = value else { continue };
        let labels =
            labels.trim_end_matches('}').split(',').filter(|label| !label.starts_with("shard="));
        let labels = labels.collect::<Vec<_>>().join(",");
        let series =
            if labels.is_empty() { name.to_owned() } else { format!("{name}{{{labels}}}") };
        *sums.entry(series).or_default() += value as u64;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_tls_are_reported_by_how_much_they_grew() {
        let scrape = |full: u64| {
            format!(
                "# TYPE exo_ingest_tls_handshakes_full counter\n\
                 exo_ingest_tls_handshakes_full_total{{shard=\"0\"}} {full}\n\
                 exo_ingest_tls_handshakes_full_total{{shard=\"1\"}} 4\n\
                 exo_ingest_tls_failures_total{{reason=\"timeout\",shard=\"0\"}} 7\n\
                 exo_ingest_tls_handshakes_waiting{{shard=\"0\"}} 5\nexo_ingest_calls_total 9\n"
            )
        };
        let (before, after) = (parse_counters(&scrape(3)), parse_counters(&scrape(10)));
        let names: Vec<&str> = before.keys().map(String::as_str).collect();
        assert_eq!(names, ["tls_failures_total{reason=\"timeout\"}", "tls_handshakes_full_total"]);
        assert_eq!(
            (before["tls_handshakes_full_total"], after["tls_handshakes_full_total"]),
            (7, 14)
        );
        assert_eq!(
            growth(&before, &after),
            BTreeMap::from([("tls_handshakes_full_total".to_owned(), 7)])
        );
    }

    #[test]
    fn the_limit_is_found_in_a_scrape() {
        let answer = "HTTP/1.1 200 OK\r\n\r\n# TYPE exo_ingest_calls_max gauge\n\
                      # HELP exo_ingest_calls_max Calls\n\
                      exo_ingest_calls_max 16000\nexo_ingest_calls_max_more 1\n";
        assert_eq!(parse(answer), Some(16_000));
        assert_eq!(parse("exo_ingest_calls_max 1.6e4 1700000000\n"), Some(16_000));
        assert_eq!(
            parse("# exo_ingest_calls_max 1\nexo_ingest_calls 2\nexo_ingest_calls_max x\n"),
            None
        );
    }
}
