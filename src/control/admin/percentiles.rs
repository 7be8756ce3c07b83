//! The latencies in the forms of HdrHistogram's own tools: the interval log (`.hlog`, V2) and
//! percentile distributions (`.hgrm`). The log has microseconds, except for milliseconds in its
//! column of maxima. Distributions have milliseconds.

use crate::latency::Latencies;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use std::fmt::Write;
use std::time::{Duration, SystemTime};

const MICROS_PER_MS: f64 = 1_000.0;

/// One line for each tag, for the time since `started`.
pub(super) fn log(latencies: &Latencies, started: SystemTime) -> Result<String, String> {
    let mut serializer = V2DeflateSerializer::new();
    let mut bytes = Vec::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment(
            "[Logged with exo-ingest; values in microseconds, maxima in milliseconds; \
             since the start of the node]",
        )
        .with_base_time(started)
        .with_start_time(started)
        .with_max_value_divisor(MICROS_PER_MS)
        .begin_log_with(&mut bytes, &mut serializer)
        .map_err(|error| error.to_string())?;
    let length = started.elapsed().unwrap_or_default();
    let mut outcome = Ok(());
    latencies.for_each(|tag, _, histogram| {
        let written = Tag::new(tag)
            .ok_or_else(|| format!("the tag {tag} cannot be logged"))
            .and_then(|tag| {
                writer
                    .write_histogram(histogram, Duration::ZERO, length, Some(tag))
                    .map_err(|e| format!("{e:?}"))
            });
        outcome = std::mem::replace(&mut outcome, Ok(())).and(written);
    });
    outcome.and_then(|()| String::from_utf8(bytes).map_err(|error| error.to_string()))
}

/// One section for each tag, or only that of `wanted`. If there is no such tag, the error lists all
/// tags.
pub(super) fn distributions(
    latencies: &Latencies,
    wanted: Option<&str>,
) -> Result<String, Vec<&'static str>> {
    let (mut text, mut tags) = (String::new(), Vec::new());
    latencies.for_each(|tag, help, histogram| {
        tags.push(tag);
        if wanted.is_none_or(|wanted| wanted == tag) {
            let _ = writeln!(text, "#[Tag     = {tag}]\n# {help} In milliseconds.");
            distribution(&mut text, histogram);
        }
    });
    if text.is_empty() { Err(tags) } else { Ok(text) }
}

/// A distribution as HdrHistogram's `outputPercentileDistribution` prints it.
fn distribution(text: &mut String, histogram: &Histogram<u64>) {
    const TICKS_PER_HALF_DISTANCE: u32 = 5;
    let ms = |micros: f64| micros / MICROS_PER_MS;
    let _ = writeln!(
        text,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        count += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let _ = write!(
            text,
            "{:>12.3} {quantile:>14.12} {count:>10}",
            ms(step.value_iterated_to() as f64)
        );
        let _ = if quantile < 1.0 {
            writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text)
        };
    }
    let (mean, deviation, max) =
        (ms(histogram.mean()), ms(histogram.stdev()), ms(histogram.max() as f64));
    let sub_buckets = (2 * 10u64.pow(histogram.sigfig().into())).next_power_of_two();
    let _ = writeln!(text, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
    let _ = writeln!(text, "#[Max     = {max:>12.3}, Total count    = {:>12}]", histogram.len());
    let _ = writeln!(
        text,
        "#[Buckets = {:>12}, SubBuckets     = {sub_buckets:>12}]\n",
        histogram.buckets()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    fn latencies() -> Latencies {
        let mut latencies = Latencies::new();
        for ms in 1..=1_000 {
            latencies.ack.record(Moment::ZERO, Moment::from_nanos(ms * 1_000_000));
        }
        latencies
    }

    #[test]
    fn the_log_reads_back_with_every_tag_once() {
        let text = log(&latencies(), SystemTime::now() - Duration::from_secs(5)).unwrap();
        let (mut found, mut tags) = (Vec::new(), Vec::new());
        for entry in IntervalLogIterator::new(text.as_bytes()) {
            let LogEntry::Interval(line) = entry.unwrap() else { continue };
            let bytes = base64::Engine::decode(
                &base64::engine::general_purpose::STANDARD,
                line.encoded_histogram(),
            )
            .unwrap();
            let histogram: Histogram<u64> =
                Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
            assert!(
                line.duration() >= Duration::from_secs(5)
                    && line.start_timestamp() == Duration::ZERO
            );
            let tag = line.tag().unwrap().as_str().to_owned();
            if tag == "ack" {
                assert!((990.0..=1_010.0).contains(&line.max()), "{}", line.max());
            }
            found.push((tag, histogram.len()));
        }
        latencies().for_each(|tag, _, histogram| tags.push((tag.to_owned(), histogram.len())));
        assert_eq!(found, tags);
    }

    #[test]
    fn a_distribution_ends_at_the_maximum_and_can_be_chosen() {
        let text = distributions(&latencies(), Some("ack")).unwrap();
        assert_eq!(text.matches("#[Tag").count(), 1);
        let last = text.lines().rfind(|line| line.contains("1.000000000000")).unwrap();
        let fields: Vec<&str> = last.split_whitespace().collect();
        assert!(
            (990.0..=1_010.0).contains(&fields[0].parse::<f64>().unwrap()) && fields[2] == "1000",
            "{last}"
        );
        assert!(
            text.contains("Total count    =         1000]")
                && text.contains("SubBuckets     =          256]"),
            "{text}"
        );
        let mut count = 0;
        latencies().for_each(|_, _, _| count += 1);
        assert_eq!(distributions(&latencies(), None).unwrap().matches("#[Tag").count(), count);
        assert!(distributions(&latencies(), Some("nonsense")).unwrap_err().contains(&"ack"));
    }
}
