//! Families as OpenMetrics text, and as the list in docs/metrics.md.

use super::families::{Family, Kind, Label, Unit, Value};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit as EncodedUnit};
use std::fmt;

/// The whole text, with its end mark.
pub(super) fn text(families: Vec<Family>) -> Result<String, fmt::Error> {
    // A registry for one scrape: the shards keep what it would keep.
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition(families)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Exposition(Vec<Family>);

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let unit = family.unit.map(|unit| match unit {
                Unit::Bytes => EncodedUnit::Bytes,
                Unit::Seconds => EncodedUnit::Seconds,
            });
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
                Kind::Info => MetricType::Info,
            };
            let mut metric = encoder.encode_descriptor(
                &family.name,
                &escape(&family.help),
                unit.as_ref(),
                kind,
            )?;
            for series in &family.series {
                if series.labels.is_empty() || matches!(series.value, Value::Info) {
                    encode(&mut metric, &series.labels, &series.value)?;
                } else {
                    encode(&mut metric.encode_family(&series.labels)?, &[], &series.value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode(
    metric: &mut MetricEncoder<'_>,
    labels: &[Label],
    value: &Value,
) -> Result<(), fmt::Error> {
    match value {
        Value::Count(count) => metric.encode_counter::<NoLabelSet, u64, u64>(count, None),
        Value::CountReal(count) => metric.encode_counter::<NoLabelSet, f64, f64>(count, None),
        Value::Level(level) => metric.encode_gauge(level),
        Value::LevelReal(level) => metric.encode_gauge(level),
        Value::Info => metric.encode_info(&labels),
        Value::Distribution { sum, count, buckets } => {
            metric.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
        }
    }
}

/// Escapes a help, because the encoder does not.
fn escape(help: &str) -> String {
    help.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

/// Columns of a line of the documentation.
const COLUMNS: usize = 100;

/// One item of a list for each family.
pub(super) fn reference(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families {
        let unit = family.unit.map_or("", |unit| match unit {
            Unit::Bytes => "_bytes",
            Unit::Seconds => "_seconds",
        });
        // A counter's sample ends in `_total`, an info's in `_info`: these names go into a query.
        let (suffix, kind) = match family.kind {
            Kind::Counter => ("_total", "Counter"),
            Kind::Gauge => ("", "Gauge"),
            Kind::Histogram => ("", "Histogram"),
            Kind::Info => ("_info", "Info"),
        };
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = match labels.len() {
            0 => String::new(),
            1 => format!(", label {}", labels[0]),
            _ => format!(", labels {}", labels.join(", ")),
        };
        let (name, help) = (&family.name, &family.help);
        text += &list_item(&format!("**`{name}{unit}{suffix}`**: {help} {kind}{labels}."));
    }
    text
}

/// An item of a Markdown list, in lines of at most 100 columns.
pub fn list_item(words: &str) -> String {
    let (mut text, mut line) = (String::new(), String::from("-"));
    for word in words.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > COLUMNS {
            text += &line;
            text.push('\n');
            line = String::from(" ");
        }
        line.push(' ');
        line += word;
    }
    text + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::families::Series;
    use super::*;

    #[test]
    fn labels_and_helps_are_escaped_and_suffixes_are_added() {
        let family = |name: &str, kind, unit, series| Family {
            name: name.into(),
            unit,
            kind,
            labels: &["tenant"],
            help: "A \"help\"\\\nof two lines.".into(),
            series,
        };
        let tenant = |value| Series { labels: vec![("tenant", "a\"b\\c\nd".into())], value };
        let buckets = vec![(0.5, 1), (f64::INFINITY, 2)];
        let text = text(vec![
            family("x", Kind::Counter, Some(Unit::Bytes), vec![tenant(Value::Count(7))]),
            family(
                "y",
                Kind::Gauge,
                None,
                vec![Series { labels: Vec::new(), value: Value::LevelReal(0.5) }],
            ),
            family(
                "z",
                Kind::Histogram,
                Some(Unit::Seconds),
                vec![tenant(Value::Distribution { sum: 1.5, count: 3, buckets })],
            ),
            family("i", Kind::Info, None, vec![tenant(Value::Info)]),
        ])
        .unwrap();
        for line in [
            "# HELP x_bytes A \\\"help\\\"\\\\\\nof two lines.",
            "# UNIT x_bytes bytes",
            r#"x_bytes_total{tenant="a\"b\\c\nd"} 7"#,
            "y 0.5",
            r#"z_seconds_bucket{le="0.5",tenant="a\"b\\c\nd"} 1"#,
            r#"z_seconds_bucket{le="+Inf",tenant="a\"b\\c\nd"} 3"#,
            r#"z_seconds_count{tenant="a\"b\\c\nd"} 3"#,
            r#"i_info{tenant="a\"b\\c\nd"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
