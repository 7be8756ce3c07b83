//! Families in the text format that Prometheus had before OpenMetrics, version 0.0.4. It is for
//! scrapers that ask for `text/plain`, and for `promtool check metrics`.
//!
//! Only the name of a family differs: the `HELP` and `TYPE` of a counter end in `_total` like its
//! samples. The format has no infos, which become gauges of 1. It has no units and no end mark
//! either.

use super::families::{Family, Kind, Label, Unit, Value};
use std::fmt::Write;

/// Content type of the answers.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The whole text.
pub(super) fn text(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.series.is_empty()) {
        write_family(family, &mut text);
    }
    text
}

fn write_family(family: &Family, text: &mut String) {
    let unit = match family.unit {
        Some(Unit::Bytes) => "_bytes",
        Some(Unit::Seconds) => "_seconds",
        None => "",
    };
    let (suffix, kind) = match family.kind {
        Kind::Counter => ("_total", "counter"),
        Kind::Gauge => ("", "gauge"),
        Kind::Histogram => ("", "histogram"),
        Kind::Info => ("_info", "gauge"),
    };
    let name = format!("{}{unit}{suffix}", family.name);
    // Writing to a string does not fail.
    let _ =
        writeln!(text, "# HELP {name} {}", family.help.replace('\\', "\\\\").replace('\n', "\\n"));
    let _ = writeln!(text, "# TYPE {name} {kind}");
    for series in &family.series {
        match &series.value {
            Value::Count(value) | Value::Level(value) => {
                sample(text, &name, &series.labels, None, value)
            }
            Value::CountReal(value) | Value::LevelReal(value) => {
                sample(text, &name, &series.labels, None, value)
            }
            Value::Info => sample(text, &name, &series.labels, None, 1),
            Value::Distribution { sum, count, buckets } => {
                let mut below = 0;
                for (bound, count) in buckets {
                    below += count;
                    let bound = bound_text(*bound);
                    sample(text, &format!("{name}_bucket"), &series.labels, Some(&bound), below);
                }
                sample(text, &format!("{name}_sum"), &series.labels, None, sum);
                sample(text, &format!("{name}_count"), &series.labels, None, count);
            }
        }
    }
}

/// Written with a decimal point as in OpenMetrics: a scraper that changes formats sees the same
/// series.
fn bound_text(bound: f64) -> String {
    match bound {
        _ if bound.is_infinite() => "+Inf".to_owned(),
        _ if bound.fract() == 0.0 => format!("{bound:.1}"),
        _ => bound.to_string(),
    }
}

fn sample(
    text: &mut String,
    name: &str,
    labels: &[Label],
    bound: Option<&str>,
    value: impl std::fmt::Display,
) {
    text.push_str(name);
    let mut opening = '{';
    let labels = labels.iter().map(|(name, value)| (*name, value.as_str()));
    for (label, value) in labels.chain(bound.map(|bound| ("le", bound))) {
        let value = value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
        let _ = write!(text, "{opening}{label}=\"{value}\"");
        opening = ',';
    }
    if opening == ',' {
        text.push('}');
    }
    let _ = writeln!(text, " {value}");
}

/// Whether a request prefers this format to OpenMetrics. A request without a preference gets
/// OpenMetrics.
pub(super) fn is_preferred<'a>(accepts: impl Iterator<Item = &'a str>) -> bool {
    // The most specific range counts (RFC 9110 §12.5.1). A pair holds its weight and how specific
    // it is.
    let (mut classic, mut open) = ((0.0, 0), (0.0, 0));
    let mut is_asked = false;
    for range in accepts.flat_map(|accept| accept.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        if media.is_empty() {
            continue;
        }
        is_asked = true;
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let weight = weight.map_or(1.0, |text| text.parse::<f64>().unwrap_or(0.0));
        for (best, all, kind) in [
            (&mut classic, "text/*", "text/plain"),
            (&mut open, "application/*", "application/openmetrics-text"),
        ] {
            let specific =
                [(kind, 3), (all, 2), ("*/*", 1)].into_iter().find(|(range, _)| *range == media);
            if let Some((_, specific)) = specific
                && (specific > best.1 || specific == best.1 && weight > best.0)
            {
                *best = (weight, specific);
            }
        }
    }
    is_asked && classic.0 > open.0
}

#[cfg(test)]
mod tests {
    use super::super::families::Series;
    use super::*;

    #[test]
    fn names_values_and_labels_are_written_as_the_format_says() {
        let series = |labels: &[Label], value| Series { labels: labels.to_vec(), value };
        let family = |name: &str, kind, unit, series| {
            let help = "A \"help\"\\\nof two lines.".into();
            Family { name: name.into(), unit, kind, labels: &[], help, series: vec![series] }
        };
        let tenant = [("tenant", "a\"b\\c\nd".to_owned())];
        let buckets = vec![(0.5, 1), (1.0, 0), (f64::INFINITY, 2)];
        let distribution = Value::Distribution { sum: 1.5, count: 3, buckets };
        let mut families = vec![
            family("x", Kind::Counter, Some(Unit::Bytes), series(&tenant, Value::Count(7))),
            family("y", Kind::Gauge, None, series(&[], Value::LevelReal(0.5))),
            family("z", Kind::Histogram, Some(Unit::Seconds), series(&tenant, distribution)),
            family(
                "i",
                Kind::Info,
                None,
                series(&[("v", "1".into()), ("w", "2".into())], Value::Info),
            ),
        ];
        families.push(Family { series: Vec::new(), ..families[0].clone() });
        let expected = concat!(
            "# HELP x_bytes_total A \"help\"\\\\\\nof two lines.\n",
            "# TYPE x_bytes_total counter\n",
            "x_bytes_total{tenant=\"a\\\"b\\\\c\\nd\"} 7\n",
            "# HELP y A \"help\"\\\\\\nof two lines.\n",
            "# TYPE y gauge\n",
            "y 0.5\n",
            "# HELP z_seconds A \"help\"\\\\\\nof two lines.\n",
            "# TYPE z_seconds histogram\n",
            "z_seconds_bucket{tenant=\"a\\\"b\\\\c\\nd\",le=\"0.5\"} 1\n",
            "z_seconds_bucket{tenant=\"a\\\"b\\\\c\\nd\",le=\"1.0\"} 1\n",
            "z_seconds_bucket{tenant=\"a\\\"b\\\\c\\nd\",le=\"+Inf\"} 3\n",
            "z_seconds_sum{tenant=\"a\\\"b\\\\c\\nd\"} 1.5\n",
            "z_seconds_count{tenant=\"a\\\"b\\\\c\\nd\"} 3\n",
            "# HELP i_info A \"help\"\\\\\\nof two lines.\n",
            "# TYPE i_info gauge\n",
            "i_info{v=\"1\",w=\"2\"} 1\n",
        );
        assert_eq!(text(&families), expected);
    }

    #[test]
    fn a_request_that_prefers_plain_text_gets_it() {
        // The `Accept` fields of Prometheus 2.42 and 3.0.
        let scraper = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,\
            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let newer = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;q=0.6,\
            application/openmetrics-text;version=1.0.0;q=0.5,\
            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [
            "",
            "*/*",
            scraper,
            newer,
            "text/html,*/*;q=0.8",
            "text/plain,application/openmetrics-text",
        ] {
            assert!(!is_preferred([accept].into_iter()), "{accept}");
        }
        assert!(!is_preferred([].into_iter()));
        for accept in [
            "text/plain",
            "Text/Plain; version=0.0.4",
            "text/*",
            "text/plain, */*;q=0.1",
            "text/plain;q=0.5,application/openmetrics-text;q=0.4",
            "*/*, application/openmetrics-text;q=0",
        ] {
            assert!(is_preferred([accept].into_iter()), "{accept}");
        }
        assert!(is_preferred(["text/plain", "image/png"].into_iter()));
    }
}
