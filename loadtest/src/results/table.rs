//! A result as a table on a terminal. `run` and `merge` print it, both from `result.json`.

use std::fmt::{Result, Write as _};

use serde_json::Value;

use super::summary::summary;
use super::{compare, connections, items, number, text};
use crate::duration::show;
use crate::plural::{counted, grouped};
use crate::stats::Metric;
use crate::verdict::Verdict;

/// Shown if nothing was measured: a zero would mean that it took no time.
const UNMEASURED: &str = "-";

/// The table. Its last line begins with the verdict.
pub fn table(result: &Value) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_table(&mut out, result);
    out
}

fn write_table(out: &mut String, result: &Value) -> Result {
    writeln!(out, "{}\n", summary(result))?;
    write_latencies(out, &result["latency_ns"])?;
    write_counts(out, &result["counts"])?;
    write_generator(out, result)?;
    write_server(out, &result["server"])?;
    connections::write(out, result)?;
    verification(out, &result["verify"])?;
    for slo in items(&result["slos"]) {
        let value = slo["value_ns"].as_u64().map_or("not measured".to_owned(), show);
        let held = if slo["held"] == true { "held" } else { "MISSED" };
        writeln!(out, "slo        {}: {value}, {held}", text(&slo["slo"]))?;
    }
    write_tallies(out, "failure", &result["failures"])?;
    for ill in items(&result["generator"]["ills"]) {
        writeln!(out, "generator  {}", text(ill))?;
    }
    if result["baseline"].is_object() {
        writeln!(out, "\nbaseline, margin {} %", text(&result["baseline"]["margin_percent"]))?;
        compare::write(out, &result["baseline"])?;
    }
    writeln!(out, "\n{}", verdict(result))
}

/// The verdict. If the run proves nothing, the same line says why, and what to try.
fn verdict(result: &Value) -> String {
    let name = text(&result["verdict"]).to_uppercase();
    if result["interrupted"] == true {
        return format!("INTERRUPTED: shorter than asked for, {name} until then");
    }
    match result["verdict"].as_str().and_then(Verdict::parse) {
        Some(Verdict::Invalid) => format!("{name}: {}", why_invalid(result)),
        _ => name,
    }
}

/// Why a run proves nothing, and what to try, in one line.
pub fn why_invalid(result: &Value) -> String {
    if super::has_no_ack_due(result) {
        let frame_ms = number(result, "/run/frame_ms").unwrap_or(200.0);
        let seconds = (frame_ms * 10.0 / 1_000.0).ceil() + 1.0;
        return format!(
            "no ACK was due, so none was checked: the first comes with a call's tenth frame. Try \
             --duration {seconds}s or more"
        );
    }
    "the generator was late, so these latencies prove nothing about the node. Try CPUs of its own \
     (--cpus), --realtime, or fewer --calls"
        .to_owned()
}

fn write_latencies(out: &mut String, latencies: &Value) -> Result {
    writeln!(
        out,
        "{:<10}{:>10}{:>12}{:>12}{:>12}{:>12}",
        "", "count", "p50", "p99", "p99.9", "max"
    )?;
    for metric in Metric::ALL {
        let figures = &latencies[metric.name()];
        let Some(count) = figures["count"].as_u64() else { continue };
        write!(out, "{:<10}{count:>10}", metric.name())?;
        for name in ["p50", "p99", "p99.9", "max"] {
            let figure = figures[name].as_u64().filter(|_| count > 0);
            write!(out, "{:>12}", figure.map_or(UNMEASURED.to_owned(), show))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn write_counts(out: &mut String, counts: &Value) -> Result {
    let count = |name: &str| counts[name].as_u64().unwrap_or(0);
    let (frames, bytes) = (grouped(count("frames")), counted(count("bytes"), "byte"));
    let acks = counted(count("acks"), "ack");
    writeln!(out, "\nframes     {frames} ({bytes}), {acks} of {} due", grouped(count("acks_due")))?;
    writeln!(
        out,
        "calls      {} completed, {} failed",
        count("calls_completed"),
        count("calls_failed")
    )?;
    let (reconnects, lost, held) = (count("reconnects"), count("frames_lost"), count("pushbacks"));
    if reconnects + lost + held > 0 {
        let [reconnects, lost, held] =
            [(reconnects, "reconnect"), (lost, "frame"), (held, "frame")]
                .map(|(count, noun)| counted(count, noun));
        writeln!(out, "losses     {reconnects}, {lost} unconfirmed, {held} held back by TCP")?;
    }
    Ok(())
}

fn write_generator(out: &mut String, result: &Value) -> Result {
    let generator = &result["generator"];
    let percent = generator["cpu_percent"]
        .as_f64()
        .map_or(UNMEASURED.to_owned(), |percent| format!("{percent:.0} %"));
    let cores = counted(generator["cores"].as_u64().unwrap_or(0), "core");
    let (frame, rss) = (ns(&generator["cpu_ns_per_frame"]), mebibytes(&generator["rss_bytes"]));
    let realtime = if result["run"]["realtime"] == true { "; real-time priority" } else { "" };
    writeln!(
        out,
        "generator  CPU {percent} of {cores}, {frame} a frame; {rss} resident{realtime}"
    )?;
    let late = generator["frames_late"].as_u64().unwrap_or(0);
    if late > 0 {
        let frames = result["latency_ns"]["sendlag"]["count"].as_u64().unwrap_or(0);
        writeln!(
            out,
            "send lag   {late} of {} late by more than {}",
            counted(frames, "frame"),
            ns_shown(&generator["sendlag_max_ns"])
        )?;
    }
    Ok(())
}

fn write_server(out: &mut String, server: &Value) -> Result {
    if !server.is_object() {
        return Ok(());
    }
    let percent = server["cpu_percent"].as_f64().unwrap_or_default();
    let [frame, user, system] = ["cpu_ns_per_frame", "user_ns_per_frame", "system_ns_per_frame"]
        .map(|name| ns(&server[name]));
    write!(
        out,
        "server     CPU {percent:.0} % of a core, {frame} a frame (user {user}, system {system}); "
    )?;
    write!(out, "{} resident", mebibytes(&server["rss_bytes"]))?;
    if server["rss_idle_bytes"].is_u64() {
        let call = server["bytes_per_call"]
            .as_i64()
            .map_or(UNMEASURED.to_owned(), |bytes| format!("{bytes} B"));
        write!(out, ", {} before the calls, {call} a call", mebibytes(&server["rss_idle_bytes"]))?;
    }
    if let Some(calls_max) = server["calls_max"].as_u64() {
        write!(out, "; it takes {} at most", counted(calls_max, "call"))?;
    }
    writeln!(out)
}

/// Writes what `--verify` and `verify` found; nothing if there was no verification.
pub fn verification(out: &mut String, verify: &Value) -> Result {
    if !verify.is_object() {
        return Ok(());
    }
    let count = |name: &str| verify[name].as_u64().unwrap_or(0);
    writeln!(
        out,
        "verify     {} ({}) promised: {} found and equal ({}), {} expired, {} missing; \
         {} different, {} unexpected, {} beyond the last promise",
        counted(count("frames_promised"), "frame"),
        counted(count("bytes_promised"), "byte"),
        grouped(count("frames_equal")),
        counted(count("bytes_equal"), "byte"),
        grouped(count("frames_expired")),
        grouped(count("frames_missing")),
        grouped(count("frames_different")),
        grouped(count("frames_unexpected")),
        grouped(count("frames_beyond")),
    )?;
    let segments = counted(count("segments").saturating_sub(count("segments_older")), "segment");
    write!(out, "             {segments}, {}", counted(count("bytes_read"), "byte"))?;
    if let (Some(seconds), Some(rate)) =
        (verify["seconds"].as_f64(), verify["gigabytes_per_second"].as_f64())
    {
        write!(out, " in {seconds:.1} s, {rate:.2} GB/s")?;
    }
    writeln!(out)?;
    if verify["audio_is_distinct"] == false {
        writeln!(
            out,
            "             this audio repeats itself, so frames that changed places may go \
             unnoticed; --audio prng finds them"
        )?;
    }
    if count("frames_equal") == 0 {
        let directory = verify["data_dir"].as_str().unwrap_or("the directory");
        writeln!(
            out,
            "             nothing was verified: is {directory} this node's data directory?"
        )?;
    }
    write_tallies(out, "verify", &verify["faults"])
}

/// Writes each kind of fault, its count, and examples.
fn write_tallies(out: &mut String, heading: &str, tallies: &Value) -> Result {
    for (name, tally) in tallies.as_object().into_iter().flatten() {
        writeln!(out, "{heading:<10} {name}: {}", grouped(tally["count"].as_u64().unwrap_or(0)))?;
        for example in items(&tally["examples"]) {
            writeln!(out, "             {}", text(example))?;
        }
    }
    Ok(())
}

fn ns(value: &Value) -> String {
    value.as_u64().map_or(UNMEASURED.to_owned(), |ns| format!("{ns} ns"))
}

fn ns_shown(value: &Value) -> String {
    value.as_u64().map_or(UNMEASURED.to_owned(), show)
}

fn mebibytes(bytes: &Value) -> String {
    bytes.as_f64().map_or(UNMEASURED.to_owned(), |bytes| format!("{:.1} MiB", bytes / 1_048_576.0))
}
