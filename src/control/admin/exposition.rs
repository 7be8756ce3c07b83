//! Families as text for scrapers, and as the list in docs/metrics.md.

use super::families::{Family, Label, Value};
use super::format::Format;
use crate::metrics::Kind;
use std::fmt::Display;

/// The whole text.
pub(super) fn text(families: &[Family], format: Format) -> String {
    let mut text = String::new();
    for family in families {
        if format == Format::OpenMetrics || !family.series.is_empty() {
            declare(&mut text, family, format);
            let name = family.sample_name();
            for series in &family.series {
                samples(&mut text, &name, &series.labels, &series.value);
            }
        }
    }
    if format == Format::OpenMetrics {
        text += "# EOF\n";
    }
    text
}

fn declare(text: &mut String, family: &Family, format: Format) {
    let kind = match (family.kind, format) {
        (Kind::Counter, _) => "counter",
        (Kind::Gauge, _) | (Kind::Info, Format::Classic) => "gauge",
        (Kind::Histogram, _) => "histogram",
        (Kind::Info, Format::OpenMetrics) => "info",
    };
    let (name, help) = match format {
        Format::OpenMetrics => (family.full_name(), escape(&family.help)),
        Format::Classic => (family.sample_name(), escape_line(&family.help)),
    };
    *text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
    if let (Some(unit), Format::OpenMetrics) = (family.unit, format) {
        *text += &format!("# UNIT {name} {}\n", unit.name());
    }
}

fn samples(text: &mut String, name: &str, labels: &[Label], value: &Value) {
    match value {
        Value::Whole(value) => sample(text, name, labels, value),
        Value::Real(value) => sample(text, name, labels, real(*value)),
        Value::Distribution { sum, count, buckets } => {
            sample(text, &format!("{name}_sum"), labels, real(*sum));
            sample(text, &format!("{name}_count"), labels, count);
            let mut below = 0;
            for (bound, count) in buckets {
                below += count;
                let labels = [labels, &[("le", real(*bound))]].concat();
                sample(text, &format!("{name}_bucket"), &labels, below);
            }
        }
    }
}

fn sample(text: &mut String, name: &str, labels: &[Label], value: impl Display) {
    let labels: Vec<_> =
        labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
    let labels =
        if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    *text += &format!("{name}{labels} {value}\n");
}

/// With a decimal point in each number, as OpenMetrics asks for. The older format gets the same, so
/// that a scraper which changes formats sees the same series.
fn real(value: f64) -> String {
    match value {
        _ if value.is_infinite() => "+Inf".to_owned(),
        _ if value.fract() == 0.0 => format!("{value:.1}"),
        _ => value.to_string(),
    }
}

fn escape(text: &str) -> String {
    escape_line(text).replace('"', "\\\"")
}

fn escape_line(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

/// Columns of a line of the documentation.
const COLUMNS: usize = 100;

/// One item of a list for each family.
pub(super) fn reference(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = match labels.len() {
            0 => String::new(),
            1 => format!(", label {}", labels[0]),
            _ => format!(", labels {}", labels.join(", ")),
        };
        // The name of its samples: this goes into a query.
        let (name, help, kind) = (family.sample_name(), &family.help, family.kind);
        text += &list_item(&format!("**`{name}`**: {help} {kind:?}{labels}."));
    }
    text
}

/// An item of a Markdown list, in lines of at most 100 columns.
pub(crate) fn list_item(words: &str) -> String {
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
    use super::super::families::{Series, Unit};
    use super::*;

    /// A family of each kind, with what must be escaped.
    fn families() -> Vec<Family> {
        let family = |name: &str, kind, unit, labels: &[Label], value| Family {
            name: name.into(),
            unit,
            kind,
            labels: &[],
            help: "A \"help\"\\\nof two lines.".into(),
            series: vec![Series { labels: labels.to_vec(), value }],
        };
        let tenant = [("tenant", "a\"b\\c\nd".to_owned())];
        let buckets = vec![(0.5, 1), (1.0, 0), (f64::INFINITY, 2)];
        let distribution = Value::Distribution { sum: 2.0, count: 3, buckets };
        let info = [("v", "1".to_owned()), ("w", "2".to_owned())];
        let mut families = vec![
            family("x", Kind::Counter, Some(Unit::Bytes), &tenant, Value::Whole(7)),
            family("y", Kind::Gauge, None, &[], Value::Real(0.5)),
            family("z", Kind::Histogram, Some(Unit::Seconds), &tenant, distribution),
            family("i", Kind::Info, None, &info, Value::Whole(1)),
        ];
        families.push(Family { name: "e".into(), series: Vec::new(), ..families[0].clone() });
        families
    }

    #[test]
    fn open_metrics_are_written_as_the_format_says() {
        let expected = concat!(
            "# HELP x_bytes A \\\"help\\\"\\\\\\nof two lines.\n",
            "# TYPE x_bytes counter\n",
            "# UNIT x_bytes bytes\n",
            "x_bytes_total{tenant=\"a\\\"b\\\\c\\nd\"} 7\n",
            "# HELP y A \\\"help\\\"\\\\\\nof two lines.\n",
            "# TYPE y gauge\n",
            "y 0.5\n",
            "# HELP z_seconds A \\\"help\\\"\\\\\\nof two lines.\n",
            "# TYPE z_seconds histogram\n",
            "# UNIT z_seconds seconds\n",
            "z_seconds_sum{tenant=\"a\\\"b\\\\c\\nd\"} 2.0\n",
            "z_seconds_count{tenant=\"a\\\"b\\\\c\\nd\"} 3\n",
            "z_seconds_bucket{tenant=\"a\\\"b\\\\c\\nd\",le=\"0.5\"} 1\n",
            "z_seconds_bucket{tenant=\"a\\\"b\\\\c\\nd\",le=\"1.0\"} 1\n",
            "z_seconds_bucket{tenant=\"a\\\"b\\\\c\\nd\",le=\"+Inf\"} 3\n",
            "# HELP i A \\\"help\\\"\\\\\\nof two lines.\n",
            "# TYPE i info\n",
            "i_info{v=\"1\",w=\"2\"} 1\n",
            "# HELP e_bytes A \\\"help\\\"\\\\\\nof two lines.\n",
            "# TYPE e_bytes counter\n",
            "# UNIT e_bytes bytes\n",
            "# EOF\n",
        );
        assert_eq!(text(&families(), Format::OpenMetrics), expected);
    }

    #[test]
    fn the_older_text_is_written_as_the_format_says() {
        let expected = concat!(
            "# HELP x_bytes_total A \"help\"\\\\\\nof two lines.\n",
            "# TYPE x_bytes_total counter\n",
            "x_bytes_total{tenant=\"a\\\"b\\\\c\\nd\"} 7\n",
            "# HELP y A \"help\"\\\\\\nof two lines.\n",
            "# TYPE y gauge\n",
            "y 0.5\n",
            "# HELP z_seconds A \"help\"\\\\\\nof two lines.\n",
            "# TYPE z_seconds histogram\n",
            "z_seconds_sum{tenant=\"a\\\"b\\\\c\\nd\"} 2.0\n",
            "z_seconds_count{tenant=\"a\\\"b\\\\c\\nd\"} 3\n",
            "z_seconds_bucket{tenant=\"a\\\"b\\\\c\\nd\",le=\"0.5\"} 1\n",
            "z_seconds_bucket{tenant=\"a\\\"b\\\\c\\nd\",le=\"1.0\"} 1\n",
            "z_seconds_bucket{tenant=\"a\\\"b\\\\c\\nd\",le=\"+Inf\"} 3\n",
            "# HELP i_info A \"help\"\\\\\\nof two lines.\n",
            "# TYPE i_info gauge\n",
            "i_info{v=\"1\",w=\"2\"} 1\n",
        );
        assert_eq!(text(&families(), Format::Classic), expected);
    }
}
