//! A run in one sentence: the head of the table and of the page.

use serde_json::Value;

use super::{connections, text};
use crate::plural::{counted, grouped};

/// The sentence.
pub fn summary(result: &Value) -> String {
    let run = &result["run"];
    let number = |name: &str, words: &dyn Fn(f64) -> String| {
        run[name].as_f64().map_or_else(|| "–".to_owned(), words)
    };
    let frame = run["frame_bytes"].as_u64().map_or_else(|| "–".to_owned(), grouped);
    let interval = number("frame_ms", &|ms| format!("{} ms", short(ms)));
    let [duration, ramp] = ["duration_s", "ramp_s"]
        .map(|name| number(name, &|seconds| format!("{} s", short(seconds))));
    let level = run["ack_level"]
        .as_str()
        .map_or_else(String::new, |level| format!(", ACKs of level {level}"));
    let calls =
        run["calls"].as_u64().map_or_else(|| "– calls".to_owned(), |calls| counted(calls, "call"));
    let insecure = connections::insecure(&result["tls"])
        .map_or_else(String::new, |warning| format!("; {warning}"));
    let url = text(&run["url"]);
    format!(
        "{calls}, {frame} bytes every {interval}, {duration} after a ramp of {ramp}, \
         {url}{level}{insecure}"
    )
}

/// A number with two decimals at most.
pub fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
