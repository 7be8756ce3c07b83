#![forbid(unsafe_code)]
//! The flags of `exo-ingest alerts`, and their values in the language of Prometheus.

use clap::Args;
use std::time::Duration;

/// When to alert.
#[derive(Clone, Debug, Args)]
pub(super) struct Thresholds {
    /// Name of the scrape job of the nodes in prometheus.yml
    #[arg(long, value_name = "NAME", default_value = "exo-ingest", value_parser = parse_job)]
    job: String,
    /// Longest time from a frame to its ACK, for 99 % of ACKs
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_time)]
    ack_p99: Duration,
    /// Most requests that may be refused, of all requests
    #[arg(long, value_name = "SHARE", default_value = "5%", value_parser = parse_share)]
    refusals: f64,
    /// Most bad tokens per second, for each reason
    #[arg(long, value_name = "RATE", default_value = "0.1", value_parser = parse_rate)]
    bad_tokens: f64,
    /// Most TLS handshakes that may fail, of all handshakes
    #[arg(long, value_name = "SHARE", default_value = "20%", value_parser = parse_share)]
    tls_failures: f64,
    /// Most live calls, of --max-calls
    #[arg(long, value_name = "SHARE", default_value = "90%", value_parser = parse_share)]
    calls: f64,
    /// Least free space on the disk of the journal
    #[arg(long, value_name = "SHARE", default_value = "10%", value_parser = parse_share)]
    disk_free: f64,
    /// Warn if the disk will be full within this time and nothing is deleted
    #[arg(long, value_name = "TIME", default_value = "4h", value_parser = parse_time)]
    disk_full_in: Duration,
    /// Oldest audio that an archive or a message engine may lack
    #[arg(long, value_name = "TIME", default_value = "20m", value_parser = parse_time)]
    sink_lag: Duration,
    /// Warn if the disk will be full within this time because a sink takes nothing
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_time)]
    sink_disk_full_in: Duration,
    /// Most CPU time of the node, of one core for each shard
    #[arg(long, value_name = "SHARE", default_value = "85%", value_parser = parse_share)]
    cpu: f64,
    /// Warn this long before a certificate expires
    #[arg(long, value_name = "TIME", default_value = "14d", value_parser = parse_time)]
    certificate: Duration,
    /// Time over which rates are taken: at least four scrape intervals
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_time)]
    window: Duration,
    /// Fire each alert after this time, instead of a time of its own
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
    hold: Option<Duration>,
    /// Where docs/troubleshooting.md is published, for the link in each alert
    #[arg(long, value_name = "URL", default_value = "docs/troubleshooting.md")]
    runbook: String,
}

impl Thresholds {
    /// How long an alert waits before it fires, as Prometheus writes it.
    pub(super) fn hold(&self, usual: &str) -> String {
        self.hold.map_or(usual.to_owned(), duration)
    }

    /// The link to the section about an alert.
    pub(super) fn runbook(&self, alert: &str) -> String {
        format!("{}#{}", self.runbook, alert.to_lowercase())
    }

    /// Puts the values into an expression or a sentence of the table.
    pub(super) fn fill(&self, text: &str) -> String {
        let percent = |share: f64| format!("{} %", number(share * 100.0));
        [
            // Longer names first, where one is the start of another.
            ("$ack_p99_text", duration(self.ack_p99)),
            ("$ack_p99", number(self.ack_p99.as_secs_f64())),
            ("$refusals_text", percent(self.refusals)),
            ("$refusals", number(self.refusals)),
            ("$bad_tokens", number(self.bad_tokens)),
            ("$tls_failures", number(self.tls_failures)),
            ("$calls_text", percent(self.calls)),
            ("$calls", number(self.calls)),
            ("$disk_free_text", percent(self.disk_free)),
            ("$disk_free", number(self.disk_free)),
            ("$disk_full_in_text", duration(self.disk_full_in)),
            ("$disk_full_in", number(self.disk_full_in.as_secs_f64())),
            ("$sink_lag_text", duration(self.sink_lag)),
            ("$sink_lag", number(self.sink_lag.as_secs_f64())),
            ("$sink_disk_full_in", number(self.sink_disk_full_in.as_secs_f64())),
            ("$cpu", number(self.cpu)),
            ("$certificate", number(self.certificate.as_secs_f64())),
            ("$window", duration(self.window)),
            ("$job", format!("job=\"{}\"", self.job)),
        ]
        .iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }
}

/// A name without characters that would end a label's value.
fn parse_job(text: &str) -> Result<String, String> {
    match text.contains(['"', '\\', '\n', '$']) || text.is_empty() {
        true => Err("give a name without quotes, backslashes and dollar signs".into()),
        false => Ok(text.into()),
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match time.as_millis() {
        0 => Err("give at least a millisecond".into()),
        millis => u64::try_from(millis)
            .map(Duration::from_millis)
            .map_err(|_| "give a shorter time".into()),
    }
}

/// `5%` or `0.05`.
fn parse_share(text: &str) -> Result<f64, String> {
    let (number, whole) = match text.strip_suffix('%') {
        Some(percent) => (percent.trim_end(), 100.0),
        None => (text, 1.0),
    };
    let share = number.parse::<f64>().ok().map(|number| number / whole);
    share
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "give a share from 0% to 100%, such as 5%".into())
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| *rate >= 0.0 && rate.is_finite());
    rate.ok_or_else(|| "give a number, such as 0.1".into())
}

/// Without digits that only the binary form has: 0.07, not 0.07000000000000001.
fn number(value: f64) -> String {
    let rounded = (value * 1e9).round() / 1e9;
    rounded.to_string()
}

/// As Prometheus writes it: `1h30m`, `100ms`.
fn duration(time: Duration) -> String {
    let mut millis = time.as_millis();
    let mut text = String::new();
    for (unit, size) in
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)]
    {
        if millis >= size {
            text += &format!("{}{unit}", millis / size);
            millis %= size;
        }
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        thresholds: Thresholds,
    }

    /// The thresholds of a command line.
    pub(crate) fn parse(args: &[&str]) -> Result<Thresholds, String> {
        let args = ["alerts"].iter().chain(args);
        Command::try_parse_from(args)
            .map(|command| command.thresholds)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_written_as_prometheus_reads_them() {
        let usual = parse(&[]).unwrap();
        let text = "$ack_p99 $refusals $calls $disk_free $disk_full_in $certificate $window {$job}";
        let filled = "0.1 0.05 0.9 0.1 14400 1209600 5m {job=\"exo-ingest\"}";
        assert_eq!(usual.fill(text), filled);
        assert_eq!(usual.fill("$ack_p99_text $disk_free_text"), "100ms 10 %");
        assert_eq!((usual.hold("2m"), usual.hold("0s")), ("2m".into(), "0s".into()));
        let args = ["--ack-p99", "1500ms", "--disk-free", "7%", "--for", "90s", "--job", "a"];
        let set = parse(&args).unwrap();
        assert_eq!(set.fill("$ack_p99_text $disk_free $job"), "1s500ms 0.07 job=\"a\"");
        assert_eq!(set.hold("2m"), "1m30s");
        assert_eq!(set.runbook("ExoIngestDown"), "docs/troubleshooting.md#exoingestdown");
    }

    #[test]
    fn values_that_make_no_rule_are_refused() {
        for args in [
            ["--disk-free", "110%"],
            ["--disk-free", "ten"],
            ["--ack-p99", "0s"],
            ["--ack-p99", "10"],
            ["--bad-tokens", "-1"],
            ["--bad-tokens", "inf"],
            ["--job", "a\"b"],
        ] {
            assert!(parse(&args).is_err(), "{args:?}");
        }
    }
}
