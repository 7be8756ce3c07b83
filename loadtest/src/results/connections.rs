//! TLS, a storm and churn of a result, as lines for the table and the page.

use std::fmt::{Result, Write as _};

use serde_json::Value;

use super::number;
use crate::duration::show;
use crate::plural::{counted, grouped};
use crate::report::text_of;

/// The latencies of a storm, with the words for them.
const PARTS: [(&str, &str); 3] =
    [("ack_before", "before"), ("ack_during", "in"), ("ack_after", "after")];

/// Above this exo-load may have been the slower side of a storm, percent of its cores.
const OWN_CPU_BUSY: f64 = 70.0;

/// The lines of the table.
pub fn write(out: &mut String, result: &Value) -> Result {
    for line in tls(&result["tls"]) {
        writeln!(out, "tls        {line}")?;
    }
    for line in storm(result) {
        writeln!(out, "storm      {line}")?;
    }
    if result["churn"].is_object() {
        let replaced = counted(result["churn"]["calls_replaced"].as_u64().unwrap_or(0), "call");
        let rate = number(&result["churn"], "/calls_per_s").unwrap_or_default();
        writeln!(out, "churn      {replaced} replaced by new ones, {rate:.1} a second")?;
    }
    Ok(())
}

/// What the handshake agreed on, and what the handshakes cost exo-load.
fn tls(tls: &Value) -> Vec<String> {
    if !tls.is_object() {
        return Vec::new();
    }
    let [version, suite, group, key] =
        ["version", "cipher_suite", "key_exchange", "server_key"].map(|name| text_of(&tls[name]));
    let mut lines = vec![format!("{version}, {suite}, {group}; the node signs with {key}")];
    lines.extend(insecure(tls).map(str::to_owned));
    let kind = |name: &str| {
        let count = tls[format!("handshakes_{name}")].as_u64().unwrap_or(0);
        let cpu = tls[format!("own_cpu_ns_{name}")].as_u64();
        let each =
            cpu.map_or_else(String::new, |ns| format!(" ({} of exo-load's CPU each)", show(ns)));
        format!("{} {name}{each}", grouped(count))
    };
    lines.push(format!("handshakes: {}, {}", kind("full"), kind("resumed")));
    let unclosed = tls["ended_without_close_notify"].as_u64().unwrap_or(0);
    if unclosed > 0 {
        lines.push(format!(
            "the node ended {} without close_notify",
            counted(unclosed, "connection")
        ));
    }
    lines
}

/// A warning if the certificate was not checked.
pub fn insecure(tls: &Value) -> Option<&'static str> {
    (tls["is_verified"] == false).then_some("the node's certificate was NOT checked (--insecure)")
}

/// What became of the calls that left, and of those that stayed.
pub fn storm(result: &Value) -> Vec<String> {
    let storm = &result["storm"];
    if !storm.is_object() {
        return Vec::new();
    }
    let count = |name: &str| storm[name].as_u64().unwrap_or(0);
    let back = match storm["all_back_ns"].as_u64() {
        Some(ns) => format!("all back after {}", show(ns)),
        None => {
            format!("{} back, {} lost", grouped(count("calls_back")), grouped(count("calls_lost")))
        }
    };
    let mut lines = vec![format!(
        "{} left at {} s by {}, {back}; {} stayed",
        counted(count("calls_left"), "call"),
        number(storm, "/at_s").unwrap_or_default(),
        text_of(&storm["how"]),
        grouped(count("calls_stayed")),
    )];
    if count("retries") > 0 {
        let refusals = storm["refusals"].as_object().into_iter().flatten();
        let named: Vec<String> = refusals.map(|(name, times)| format!("{name} {times}")).collect();
        lines.push(format!(
            "{} repeated ({})",
            counted(count("retries"), "attempt"),
            named.join(", ")
        ));
    }
    lines.extend(stayed(&result["latency_ns"]));
    if let Some(percent) =
        number(storm, "/own_cpu_percent").filter(|percent| *percent > OWN_CPU_BUSY)
    {
        lines.push(format!(
            "exo-load used {percent:.0} % of its cores meanwhile: the node may be faster than this \
             says"
        ));
    }
    if let Some(ns) = storm["server"]["cpu_ns_per_call_back"].as_u64() {
        lines.push(format!(
            "{} of the node's CPU for each call that came back, frames not counted",
            show(ns)
        ));
    }
    lines
}

/// The acks of calls that stayed, and how much slower they were in the storm.
fn stayed(latencies: &Value) -> Option<String> {
    let p99 = |name: &str| latencies[name]["p99"].as_u64();
    let before = p99("ack_before")?;
    let shown = PARTS.into_iter().filter_map(|(name, when)| {
        let ns = p99(name)?;
        let factor = if name == "ack_before" || before == 0 {
            String::new()
        } else {
            format!(" ({:.2}x)", ns as f64 / before as f64)
        };
        Some(format!("{} {when} it{factor}", show(ns)))
    });
    Some(format!("ack p99 of calls that stayed: {}", shown.collect::<Vec<_>>().join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_storm_says_how_much_slower_the_others_were() {
        let figures = |ms: u64| json!({"count": 100, "p99": ms * 1_000_000});
        let mut result = json!({
            "storm": {
                "at_s": 20.0, "how": "rst", "calls_left": 9_000, "calls_stayed": 1_000,
                "calls_back": 9_000, "calls_lost": 0, "all_back_ns": 4_200_000_000u64,
                "retries": 2, "refusals": {"refused_503": 2},
                "server": {"cpu_ns_per_call_back": 150_000},
            },
            "latency_ns": {
                "ack_before": figures(20), "ack_during": figures(30), "ack_after": figures(20),
            },
        });
        let told = storm(&result).join("\n");
        for part in [
            "9,000 calls left at 20 s by rst, all back after 4.20 s; 1,000 stayed",
            "2 attempts repeated (refused_503 2)",
            "20.0 ms before it, 30.0 ms in it (1.50x), 20.0 ms after it (1.00x)",
            "150 µs of the node's CPU",
        ] {
            assert!(told.contains(part), "{told}");
        }
        result["storm"]["all_back_ns"] = Value::Null;
        result["storm"]["calls_lost"] = 3.into();
        assert!(storm(&result)[0].contains("9,000 back, 3 lost"), "{:?}", storm(&result));
        assert!(storm(&json!({"storm": null})).is_empty());
    }

    #[test]
    fn a_certificate_that_was_not_checked_is_named() {
        let unchecked =
            tls(&json!({"version": "TLSv1.3", "is_verified": false, "handshakes_full": 3}))
                .join("\n");
        assert!(unchecked.contains("NOT checked") && unchecked.contains("3 full"), "{unchecked}");
        assert!(!tls(&json!({"is_verified": true})).join("\n").contains("NOT checked"));
        assert!(tls(&Value::Null).is_empty());
    }
}
