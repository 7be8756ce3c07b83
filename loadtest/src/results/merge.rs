//! Merges the runs of several generators at one node: adds histograms and counts, and takes the
//! worst verdict.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde_json::{Map, Value, json};

use super::{Interval, RESULT_VERSION, RunDir, number};
use crate::files;
use crate::report::figures;
use crate::slo::Slo;
use crate::stats::{LOGGED, Metric, Stats};
use crate::verdict::Verdict;

/// Adds up runs and writes the directory of the sum. Returns its result.
pub fn merge(
    runs: &[RunDir],
    out: &Path,
    force: bool,
) -> Result<Value, Box<dyn std::error::Error>> {
    let [first, others @ ..] = runs else {
        return Err("merge: give two or more directories".into());
    };
    for other in others {
        check_alike(first, other)?;
    }
    let mut judged = Stats::new();
    for run in runs {
        let stats = run.judged();
        check_counts(run, &stats)?;
        LOGGED.into_iter().for_each(|metric| judged.add_latency(metric, stats.latency(metric)));
    }
    let result = sum(runs, &judged)?;
    if let Some(part) = runs.iter().find(|run| is_same(&run.path, out)) {
        return Err(format!(
            "--out: {} is one of the runs; give a directory of its own",
            part.path.display()
        )
        .into());
    }
    files::prepare(out, files::Holds::Sum, force)?;
    files::save(&out.join("result.json"), format!("{result:#}\n"))?;
    files::save(&out.join("result.schema.json"), files::SCHEMA)?;
    files::save(&out.join("latency.hlog"), log(runs)?)?;
    for metric in LOGGED.into_iter().filter(|metric| is_there(*metric, &judged)) {
        let path = out.join(format!("{}.hgrm", metric.name()));
        files::save(&path, files::percentiles(judged.latency(metric)))?;
    }
    Ok(result)
}

/// Whether a metric has figures and a file: not if it was not measured.
fn is_there(metric: Metric, judged: &Stats) -> bool {
    metric.is_common() || !judged.latency(metric).is_empty()
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

fn check_alike(first: &RunDir, other: &RunDir) -> Result<(), String> {
    for name in [
        "frame_bytes",
        "frame_ms",
        "sample_rate",
        "duration_s",
        "ack_level",
        "realtime",
        "tls",
        "tls_resume",
        "reconnect_all_at_s",
    ] {
        let (one, two) = (&first.result["run"][name], &other.result["run"][name]);
        if one != two {
            let (first, other) = (first.path.display(), other.path.display());
            return Err(format!(
                "merge: {first} and {other} are not parts of one run: {name} is {one} and {two}"
            ));
        }
    }
    // Runs one after the other had the node to themselves. Their sum would be of calls that were
    // never up together.
    if let (Some(one), Some(two)) = (span(first), span(other))
        && (one.1 <= two.0 || two.1 <= one.0)
    {
        let (first, other) = (first.path.display(), other.path.display());
        return Err(format!(
            "merge: {first} and {other} did not play at the same time; give both the same \
             --start-at"
        ));
    }
    Ok(())
}

/// When a run began and ended, Unix time.
fn span(run: &RunDir) -> Option<(f64, f64)> {
    let begin = run.intervals.iter().map(|interval| interval.start_unix).reduce(f64::min)?;
    let end = run
        .intervals
        .iter()
        .map(|interval| interval.start_unix + interval.length)
        .reduce(f64::max)?;
    Some((begin, end))
}

/// Checks that the log has as many figures as the run itself judged.
fn check_counts(run: &RunDir, judged: &Stats) -> Result<(), String> {
    for metric in LOGGED {
        let counted = judged.latency(metric).len();
        let told = number(&run.result, &format!("/latency_ns/{}/count", metric.name()));
        if told.unwrap_or(0.0) != counted as f64 {
            return Err(format!(
                "merge: {}: result.json has {} {} figures and latency.hlog has {counted}; was the \
                 run interrupted?",
                run.path.display(),
                told.unwrap_or_default(),
                metric.name()
            ));
        }
    }
    Ok(())
}

fn sum(runs: &[RunDir], judged: &Stats) -> Result<Value, Box<dyn std::error::Error>> {
    let results: Vec<&Value> = runs.iter().map(|run| &run.result).collect();
    let mut texts: Vec<&str> = results
        .iter()
        .flat_map(|result| result["slos"].as_array())
        .flatten()
        .filter_map(|slo| slo["slo"].as_str())
        .collect();
    texts.sort_unstable();
    texts.dedup();
    let slos: Vec<_> = texts
        .into_iter()
        .map(|text| text.parse::<Slo>().map(|slo| slo.check(judged)))
        .collect::<Result<_, _>>()?;
    let verdicts = results.iter().filter_map(|result| Verdict::parse(result["verdict"].as_str()?));
    let slo_verdict = if slos.iter().all(|slo| slo.held) { Verdict::Pass } else { Verdict::Fail };
    let verdict = verdicts
        .chain([slo_verdict])
        .max_by_key(|verdict| verdict.weight())
        .unwrap_or(Verdict::Fail);
    let latencies: Map<String, Value> = LOGGED
        .into_iter()
        .filter(|metric| is_there(*metric, judged))
        .map(|metric| (metric.name().to_owned(), figures(judged.latency(metric))))
        .collect();
    let interrupted = results.iter().any(|result| result["interrupted"] == true);
    let mut run = results[0]["run"].clone();
    run["calls"] = total(&results, "/run/calls").into();
    run["steady_s"] = Value::Null;
    run["workers"] = total(&results, "/run/workers").into();
    Ok(json!({
        "schema": {"name": "exo-load/result", "version": RESULT_VERSION},
        "merged_from": runs.iter().map(|run| run.path.display().to_string()).collect::<Vec<_>>(),
        "verdict": verdict,
        "exit_code": verdict.exit_code_of_run(interrupted),
        "interrupted": interrupted,
        "run": run,
        "counts": add_objects(&results, "/counts"),
        "calls_up_max": total(&results, "/calls_up_max"),
        "latency_ns": latencies,
        "failures": tallies(&results, "/failures"),
        "slos": slos,
        "generator": generator(&results, judged),
        "server": server(&results),
        "tls": tls(&results),
        "storm": storm(&results),
        "churn": churn(&results),
        "verify": verify(&results),
    }))
}

fn total(results: &[&Value], pointer: &str) -> u64 {
    results.iter().filter_map(|result| result.pointer(pointer)?.as_u64()).sum()
}

/// An object of whole numbers, member by member.
fn add_objects(results: &[&Value], pointer: &str) -> Value {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, value) in
        results.iter().filter_map(|result| result.pointer(pointer)?.as_object()).flatten()
    {
        if let Some(value) = value.as_u64() {
            *sums.entry(name).or_default() += value;
        }
    }
    json!(sums)
}

/// Faults by name: the sum of their counts, and the examples of all runs.
fn tallies(results: &[&Value], pointer: &str) -> Value {
    let mut tallies: BTreeMap<&str, (u64, Vec<Value>)> = BTreeMap::new();
    for (name, tally) in
        results.iter().filter_map(|result| result.pointer(pointer)?.as_object()).flatten()
    {
        let (count, examples) = tallies.entry(name).or_default();
        *count += tally["count"].as_u64().unwrap_or(0);
        examples.extend(tally["examples"].as_array().into_iter().flatten().cloned());
    }
    let object = |(name, (count, examples)): (&str, _)| {
        (name.to_owned(), json!({"count": count, "examples": examples}))
    };
    Value::Object(tallies.into_iter().map(object).collect())
}

/// The generators together: the highest CPU, and the ills of all.
fn generator(results: &[&Value], judged: &Stats) -> Value {
    let ills: Vec<&Value> = results
        .iter()
        .filter_map(|result| result["generator"]["ills"].as_array())
        .flatten()
        .collect();
    let highest = results
        .iter()
        .filter_map(|result| number(result, "/generator/cpu_percent"))
        .fold(None, |highest, percent| {
            Some(highest.map_or(percent, |highest: f64| highest.max(percent)))
        });
    let sendlag_max =
        results.iter().filter_map(|result| result["generator"]["sendlag_max_ns"].as_u64());
    json!({
        "cpu_percent": highest,
        "cores": total(results, "/generator/cores"),
        "cpu_ns_per_frame": generator_cpu_ns_per_frame(results),
        "sendlag_p999_ns": judged.latency(Metric::Sendlag).value_at_percentile(99.9),
        "sendlag_max_ns": sendlag_max.max().unwrap_or(0),
        "frames_late": total(results, "/generator/frames_late"),
        "rss_bytes": total(results, "/generator/rss_bytes"),
        "ills": ills,
    })
}

/// Frames of a run's steady part: every one of them has a send lag.
fn steady_frames(result: &Value) -> f64 {
    number(result, "/latency_ns/sendlag/count").unwrap_or(0.0)
}

/// CPU time of all generators, divided by the frames of all. None if one was not measured.
fn generator_cpu_ns_per_frame(results: &[&Value]) -> Option<u64> {
    let cpu = |result: &&Value| {
        Some(number(result, "/generator/cpu_ns_per_frame")? * steady_frames(result))
    };
    let cpu: f64 = results.iter().map(cpu).sum::<Option<f64>>()?;
    divided(cpu, results.iter().map(|result| steady_frames(result)).sum())
}

fn divided(cpu: f64, frames: f64) -> Option<u64> {
    (frames > 0.0).then(|| (cpu / frames).round() as u64)
}

/// There is one node. Each generator that measured it saw all of its CPU time, but divided it by
/// its own frames. So the result is the mean of what they saw, divided by the frames of all
/// generators.
fn server(results: &[&Value]) -> Value {
    let measured: Vec<&&Value> =
        results.iter().filter(|result| result["server"].is_object()).collect();
    if measured.is_empty() {
        return Value::Null;
    }
    let all_frames: f64 = results.iter().map(|result| steady_frames(result)).sum();
    let count = measured.len() as f64;
    let mean = |pointer: &str| {
        measured.iter().filter_map(|result| number(result, pointer)).sum::<f64>() / count
    };
    let per_frame = |name: &str| {
        let pointer = format!("/server/{name}");
        let seen: Vec<f64> = measured
            .iter()
            .filter_map(|result| Some(number(result, &pointer)? * steady_frames(result)))
            .collect();
        divided(seen.iter().sum::<f64>() / seen.len().max(1) as f64, all_frames)
            .filter(|_| !seen.is_empty())
    };
    json!({
        "cpu_percent": mean("/server/cpu_percent"),
        "cpu_ns_per_frame": per_frame("cpu_ns_per_frame"),
        "user_ns_per_frame": per_frame("user_ns_per_frame"),
        "system_ns_per_frame": per_frame("system_ns_per_frame"),
        "rss_bytes": mean("/server/rss_bytes") as u64,
        "calls_max": measured.iter().find_map(|result| result["server"]["calls_max"].as_u64()),
    })
}

/// The handshakes of all. What the handshake agreed on comes from the first generator, as do the
/// node's counters: they count all handshakes.
fn tls(results: &[&Value]) -> Value {
    let mut sum = results[0]["tls"].clone();
    if !sum.is_object() {
        return Value::Null;
    }
    for kind in ["full", "resumed"] {
        let count =
            |result: &Value| number(result, &format!("/tls/handshakes_{kind}")).unwrap_or(0.0);
        let cpu = |result: &Value| {
            number(result, &format!("/tls/own_cpu_ns_{kind}")).unwrap_or(0.0) * count(result)
        };
        let cpu_ns = results.iter().map(|result| cpu(result)).sum::<f64>();
        sum[format!("own_cpu_ns_{kind}")] =
            divided(cpu_ns, results.iter().map(|result| count(result)).sum()).into();
        sum[format!("handshakes_{kind}")] =
            total(results, &format!("/tls/handshakes_{kind}")).into();
    }
    sum["ended_without_close_notify"] = total(results, "/tls/ended_without_close_notify").into();
    sum
}

/// All calls of all storms, which came at one moment. The sum is over when the last one is.
fn storm(results: &[&Value]) -> Value {
    let mut sum = results[0]["storm"].clone();
    if !sum.is_object() {
        return Value::Null;
    }
    for name in ["calls_left", "calls_stayed", "calls_back", "calls_lost", "retries"] {
        sum[name] = total(results, &format!("/storm/{name}")).into();
    }
    let times: Option<Vec<u64>> =
        results.iter().map(|result| result["storm"]["all_back_ns"].as_u64()).collect();
    sum["all_back_ns"] = times.and_then(|times| times.into_iter().max()).into();
    sum["refusals"] = add_objects(results, "/storm/refusals");
    // Each generator divided by its own calls and cores, so these cannot be added.
    sum["server"] = Value::Null;
    sum["own_cpu_percent"] = Value::Null;
    sum
}

fn churn(results: &[&Value]) -> Value {
    if !results[0]["churn"].is_object() {
        return Value::Null;
    }
    let rate: f64 = results.iter().filter_map(|result| number(result, "/churn/calls_per_s")).sum();
    json!({"calls_per_s": rate, "calls_replaced": total(results, "/churn/calls_replaced")})
}

fn verify(results: &[&Value]) -> Value {
    if !results.iter().all(|result| result["verify"].is_object()) {
        return Value::Null;
    }
    let mut sum = add_objects(results, "/verify");
    sum["faults"] = tallies(results, "/verify/faults");
    sum
}

/// All intervals, by the second of the day: the figures of two generators in one second are one
/// line.
fn log(runs: &[RunDir]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut seconds: BTreeMap<(u64, usize), (&Interval, Stats)> = BTreeMap::new();
    for interval in runs.iter().flat_map(|run| &run.intervals) {
        let key = (interval.start_unix.round() as u64, interval.metric as usize);
        let (_, stats) = seconds.entry(key).or_insert_with(|| (interval, Stats::new()));
        stats.add_latency(interval.metric, &interval.histogram);
    }
    let base = seconds.values().map(|(interval, _)| interval.start_unix).fold(f64::MAX, f64::min);
    let base = if seconds.is_empty() { 0.0 } else { base };
    let base_time = UNIX_EPOCH + Duration::from_secs_f64(base);
    let (mut bytes, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment("[Merged with exo-load; values in nanoseconds]")
        .with_base_time(base_time)
        .with_start_time(base_time)
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut bytes, &mut serializer)?;
    for (interval, stats) in seconds.values() {
        let start = Duration::from_secs_f64((interval.start_unix - base).max(0.0));
        let length = Duration::from_secs_f64(interval.length);
        writer.write_histogram(
            stats.latency(interval.metric),
            start,
            length,
            Tag::new(interval.metric.name()),
        )?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of `frames` steady frames, and what it saw of generator and node a frame.
    fn run(frames: u64, generator_ns: Value, server: Value) -> Value {
        json!({
            "latency_ns": {"sendlag": {"count": frames}},
            "generator": {
                "cpu_percent": 10.0, "cores": 1, "cpu_ns_per_frame": generator_ns, "rss_bytes": 1,
                "ills": [],
            },
            "server": server,
        })
    }

    fn seen(ns: u64) -> Value {
        json!({
            "cpu_percent": 50.0, "cpu_ns_per_frame": ns, "user_ns_per_frame": ns / 4,
            "system_ns_per_frame": null, "rss_bytes": 100,
        })
    }

    #[test]
    fn a_frames_cost_is_all_generators_cpu_by_all_frames() {
        let cost = |runs: &[Value]| {
            generator(&runs.iter().collect::<Vec<_>>(), &Stats::new())["cpu_ns_per_frame"].clone()
        };
        let (small, large) =
            (run(100, 40_000.into(), Value::Null), run(300, 20_000.into(), Value::Null));
        assert_eq!(cost(&[small.clone(), large]), 25_000);
        assert_eq!(
            cost(&[small, run(100, Value::Null, Value::Null)]),
            Value::Null,
            "the second was not measured"
        );
        assert_eq!(
            cost(&[run(0, 5.into(), Value::Null), run(0, 5.into(), Value::Null)]),
            Value::Null
        );
    }

    #[test]
    fn the_nodes_cost_counts_once_however_many_watched() {
        let node = |runs: &[Value]| server(&runs.iter().collect::<Vec<_>>());
        // 4 ms of CPU in all: each generator divided the same 4 ms by its own frames.
        let (small, large) =
            (run(100, Value::Null, seen(40_000)), run(300, Value::Null, seen(13_334)));
        let both = node(&[small.clone(), large]);
        assert_eq!(
            (&both["cpu_ns_per_frame"], &both["user_ns_per_frame"]),
            (&10_000.into(), &2_500.into())
        );
        assert_eq!((&both["cpu_percent"], &both["rss_bytes"]), (&50.0.into(), &100.into()));
        assert_eq!(both["system_ns_per_frame"], Value::Null, "it was not measured");
        let one = node(&[small, run(300, Value::Null, Value::Null)]);
        assert_eq!(one["cpu_ns_per_frame"], 10_000, "watched by one, paid by the frames of both");
        assert_eq!(node(&[run(0, Value::Null, seen(1))])["cpu_ns_per_frame"], Value::Null);
        assert_eq!(node(&[run(1, Value::Null, Value::Null)]), Value::Null);
    }
}
