//! What `top` shows: the tables and the lines above them, made of a document and of what changed
//! since the one before.

#![forbid(unsafe_code)]

use super::grid::{Cell, Column, Grid};
use super::rates::{Change, Rates, refusals};
use super::units;
use crate::cli::calls::name;
use crate::control::admin::document::{Quantiles, ShardStatus, StatusDocument};
use crate::logging;

const SHARDS: &[Column] = &[
    ("shard", 0),
    ("calls", 0),
    ("frames/s", 0),
    ("audio/s", 5),
    ("us/frame", 2),
    ("CPU", 3),
    ("ACK p50", 4),
    ("p99", 0),
    ("p99.9", 4),
    ("sync p99", 6),
    ("ring", 1),
    ("bridges", 2),
    ("refused", 6),
];

const CALLS: &[Column] = &[
    ("call", 0),
    ("silent", 0),
    ("ACK wait", 0),
    ("unacked", 1),
    ("late", 2),
    ("lasts", 3),
    ("frames", 4),
    ("shard", 5),
];

const TENANTS: &[Column] = &[
    ("tenant", 0),
    ("calls", 0),
    ("frames/s", 1),
    ("refused", 0),
    ("audio", 3),
    ("frames", 4),
    ("all calls", 2),
];

const REFUSALS: &[Column] = &[("reason", 0), ("refused", 0), ("/s", 1), ("family", 2)];

const SINKS: &[Column] = &[("sink", 0), ("lag", 0), ("bytes", 0)];

/// Short names of the families of refusals.
fn family(name: &str) -> &str {
    match name {
        "refusals" => "request",
        "token_failures" => "token",
        "closes" => "close",
        "tls_failures" => "TLS",
        other => other,
    }
}

/// All tables, in the order in which they are shown.
pub(super) fn grids(document: &StatusDocument, change: Option<&Change>) -> Vec<Grid> {
    vec![
        shards(document, change),
        calls(document),
        tenants(document, change),
        refused(document, change),
        sinks(document),
    ]
}

/// An id as the commands of `calls` take it, where its characters can be seen.
fn shown(id: &str) -> String {
    let mut text = String::new();
    for letter in name::encoded(id).chars() {
        match logging::is_deceptive(letter) {
            true => text.extend(letter.escape_unicode()),
            false => text.push(letter),
        }
    }
    text
}

fn number(value: u64) -> Cell {
    Cell::number(units::count(value), value as f64)
}

fn optional(value: Option<f64>, show: impl Fn(f64) -> String) -> Cell {
    value.map_or_else(Cell::unknown, |value| Cell::number(show(value), value))
}

fn latency(quantiles: &Quantiles, value: u64) -> Cell {
    match quantiles.count {
        0 => Cell::unknown(),
        _ => Cell::number(units::micros(value), value as f64),
    }
}

fn share(value: f64) -> String {
    format!("{:.0} %", value * 100.0)
}

fn shards(document: &StatusDocument, change: Option<&Change>) -> Grid {
    let row = |(index, shard): (usize, &ShardStatus)| {
        let rates = change.and_then(|change| change.shards.get(index));
        let rate = |read: fn(&Rates) -> f64| rates.map(read);
        let ShardStatus { ack, sync, ring, .. } = shard;
        let fill = ring.used_bytes as f64 / (ring.size_bytes.max(1)) as f64;
        // A refused token is a refused request too.
        let refused = shard.refused.iter().filter(|row| row.family != "token_failures");
        vec![
            number(shard.shard as u64),
            number(shard.calls),
            optional(rate(|rates| rates.frames_per_second), units::rate),
            optional(rate(|rates| rates.audio_bytes_per_second), units::bytes),
            optional(rates.and_then(|rates| rates.us_per_frame), |us| format!("{us:.1}")),
            optional(rates.and_then(|rates| rates.cpu), share),
            latency(ack, ack.p50_us),
            latency(ack, ack.p99_us),
            latency(ack, ack.p999_us),
            latency(sync, sync.p99_us),
            Cell::number(share(fill), fill),
            optional(ring.bridges_ms.map(|ms| ms as f64 / 1e3), units::seconds),
            number(refused.map(|row| row.count).sum()),
        ]
    };
    let rows = document.shards.iter().enumerate().map(row).collect();
    Grid { title: "shards", columns: SHARDS, rows, empty: "none" }
}

fn calls(document: &StatusDocument) -> Grid {
    let ms = |ms: u64| Cell::number(units::micros(ms.saturating_mul(1000)), ms as f64);
    let rows = document.calls.iter().map(|call| {
        vec![
            Cell::text(format!("{}/{}", shown(&call.tenant), shown(&call.interaction))),
            ms(call.silent_ms),
            ms(call.ack_wait_ms),
            number(call.unacked),
            Cell::number(units::seconds(call.late_ms as f64 / 1e3), call.late_ms as f64),
            Cell::number(units::seconds(call.seconds), call.seconds),
            number(call.frames),
            number(call.shard as u64),
        ]
    });
    Grid { title: "worst calls", columns: CALLS, rows: rows.collect(), empty: "no live calls" }
}

fn tenants(document: &StatusDocument, change: Option<&Change>) -> Grid {
    let rows = document.tenants.iter().map(|row| {
        let name = match &*row.tenant {
            "" => "(others)".to_owned(),
            name => shown(name),
        };
        vec![
            Cell::text(name),
            number(row.calls as u64),
            optional(
                change.and_then(|change| change.tenants.get(&row.tenant).copied()),
                units::rate,
            ),
            number(row.refused),
            Cell::number(units::bytes(row.audio_bytes as f64), row.audio_bytes as f64),
            number(row.frames),
            number(row.calls_total),
        ]
    });
    Grid { title: "tenants", columns: TENANTS, rows: rows.collect(), empty: "none yet" }
}

fn refused(document: &StatusDocument, change: Option<&Change>) -> Grid {
    let mut sums: Vec<_> = refusals(document).into_iter().collect();
    sums.sort_unstable_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
    let rows = sums.into_iter().map(|(key, count)| {
        let rate = change.and_then(|change| change.refusals.get(&key).copied());
        vec![
            Cell::text(key.1.clone()),
            number(count),
            optional(rate, units::rate),
            Cell::text(family(&key.0)),
        ]
    });
    Grid { title: "refusals", columns: REFUSALS, rows: rows.collect(), empty: "none" }
}

fn sinks(document: &StatusDocument) -> Grid {
    let rows = document.sinks.iter().map(|sink| {
        vec![
            Cell::text(shown(&sink.name)),
            Cell::number(units::seconds(sink.lag_seconds), sink.lag_seconds),
            Cell::number(units::bytes(sink.lag_bytes as f64), sink.lag_bytes as f64),
        ]
    });
    Grid { title: "sinks", columns: SINKS, rows: rows.collect(), empty: "none" }
}

/// Whether the node takes calls, in a word.
pub(super) fn state(document: &StatusDocument) -> &'static str {
    match (document.node.is_draining, document.node.is_ready) {
        (true, _) => "DRAINING",
        (false, true) => "READY",
        (false, false) => "NOT READY",
    }
}

/// The first line.
pub(super) fn title(document: &StatusDocument, address: &str) -> String {
    let node = &document.node;
    let (commit, uptime) = (&node.commit, units::seconds(node.uptime_seconds));
    let ack = if node.ack_degraded { "durable (DEGRADED)" } else { &*node.ack };
    format!("exo-ingest {} ({commit})  {address}  up {uptime}  ACK {ack}", node.version)
}

/// The sums of the node: lines of parts. The first parts matter most.
pub(super) fn totals(document: &StatusDocument, change: Option<&Change>) -> [Vec<String>; 2] {
    let node = &document.node;
    let calls = units::count(node.calls as u64);
    let mut first = vec![format!("calls {calls} of {}", units::count(node.calls_max as u64))];
    if let Some(Change { node: rates, refused_per_second, .. }) = change {
        first.push(format!("{} frames/s", units::rate(rates.frames_per_second)));
        first.push(format!("{}/s", units::bytes(rates.audio_bytes_per_second)));
        first.extend(rates.us_per_frame.map(|us| format!("{us:.1} us/frame")));
        first.extend(rates.cpu.map(|cpu| format!("CPU {}", share(cpu))));
        first.push(format!("refused/s {}", units::rate(*refused_per_second)));
    }
    let mut second = Vec::new();
    if let Some(store) = &document.store {
        second.push(format!("journal {}", units::bytes(store.journal_bytes as f64)));
        second.extend(store.free_bytes.map(|free| format!("free {}", units::bytes(free as f64))));
    } else {
        second.push("no journal".into());
    }
    second.extend(node.resident_bytes.map(|size| format!("memory {}", units::bytes(size as f64))));
    let files = node.open_files.zip(node.open_files_max);
    second.extend(
        files.map(|(open, max)| {
            format!("open files {} of {}", units::count(open), units::count(max))
        }),
    );
    [first, second]
}

/// Why the node is not ready, and what needs attention.
pub(super) fn remarks(document: &StatusDocument) -> Vec<String> {
    let reasons = document.node.reasons.iter().map(|reason| format!("! {}", reason.message));
    let warnings =
        document.node.warnings.iter().map(|warning| format!("warning: {}", warning.message));
    reasons.chain(warnings).collect()
}

/// Everything as plain text, for `--once`.
pub(super) fn plain(document: &StatusDocument, change: Option<&Change>, address: &str) -> String {
    let mut text = format!("{}  {}\n", title(document, address), state(document));
    let totals = totals(document, change).map(|parts| parts.join("   "));
    for line in totals.into_iter().chain(remarks(document)) {
        text += &format!("{line}\n");
    }
    for grid in grids(document, change) {
        text += &format!("\n{}", grid.plain());
    }
    if document.tenants_unlisted > 0 {
        text += &format!("\ntenants that are not listed: {}\n", document.tenants_unlisted);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::control::admin::document::Remark;
    use std::time::Duration;

    #[test]
    fn plain_text_has_every_part() {
        let (before, mut after) = sample::pair();
        after.node.warnings = vec![Remark { message: "renew it".into(), ..Remark::default() }];
        let change = Change::between(&before, &after, Duration::from_secs(2));
        let text = plain(&after, change.as_ref(), "127.0.0.1:9464");
        for part in [
            "exo-ingest 0.1.0 (abc1234)  127.0.0.1:9464  up 1h 02m  ACK durable  READY\n",
            "calls 1,000 of 16,000   5,000 frames/s   48.0 MB/s   10.0 us/frame   CPU 5 %   \
             refused/s 1.5\n",
            "journal 12.3 GB   free 80.0 GB   memory 820 MB   open files 1,034 of 524,288\n",
            "warning: renew it\n",
            "shard  calls  frames/s  audio/s  us/frame",
            "acme/call-2%2F7",
            "acme      600       250        3",
            "quota",
            "sinks\n  none\n",
        ] {
            assert!(text.contains(part), "{part}\n in\n{text}");
        }
    }

    #[test]
    fn a_node_that_is_not_ready_says_why() {
        let (_, mut after) = sample::pair();
        after.node.is_ready = false;
        after.node.reasons = vec![Remark { message: "the disk".into(), ..Remark::default() }];
        assert_eq!((state(&after), remarks(&after)), ("NOT READY", vec!["! the disk".into()]));
        after.node.is_draining = true;
        assert_eq!(state(&after), "DRAINING");
    }

    #[test]
    fn ids_cannot_move_the_cursor() {
        let (_, mut after) = sample::pair();
        after.tenants[0].tenant = "\u{1b}[2J\u{202e}".into();
        after.calls[0].interaction = "a\nb\u{7}".into();
        let text = plain(&after, None, "a:1");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{text:?}");
    }
}
