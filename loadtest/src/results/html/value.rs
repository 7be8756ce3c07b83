//! Values of `result.json` as text for the page: with units, and digits in groups of three.

use serde_json::Value;

use crate::duration::show;
use crate::plural::grouped;
use crate::results::summary::short;
use crate::results::text;

/// Units in names. They are shown with the value instead.
const UNITS: [&str; 4] = ["ns", "ms", "s", "percent"];

const MEBIBYTE: u64 = 1 << 20;

/// Whether there is nothing to show.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// A member's name without its unit: `cpu_ns_per_frame` is shown as `cpu per frame`.
pub fn label(name: &str) -> String {
    let words: Vec<&str> = name.split('_').filter(|word| !UNITS.contains(word)).collect();
    words.join(" ")
}

/// A member's value, with the unit that is in its name.
pub fn shown(name: &str, value: &Value) -> String {
    let unit =
        name.split('_').find(|word| UNITS.contains(word) || *word == "bytes").unwrap_or_default();
    match value {
        Value::Null => "–".to_owned(),
        Value::Bool(is) => if *is { "yes" } else { "no" }.to_owned(),
        Value::Array(items) if !items.is_empty() => {
            items.iter().map(|item| shown(name, item)).collect::<Vec<_>>().join(", ")
        }
        value if is_empty(value) => "none".to_owned(),
        Value::Number(number) => match (unit, number.as_u64(), number.as_f64().unwrap_or_default())
        {
            ("ns", Some(nanos), _) => show(nanos),
            ("bytes", Some(bytes), _) if bytes >= MEBIBYTE => {
                format!("{} ({:.1} MiB)", grouped(bytes), bytes as f64 / MEBIBYTE as f64)
            }
            ("percent", _, percent) => format!("{percent:.1} %"),
            ("s" | "ms", _, time) => format!("{} {unit}", short(time)),
            (_, Some(number), _) => grouped(number),
            (_, None, number) => short(number),
        },
        other => text(other),
    }
}

/// Unix seconds as date and time of day in UTC; days to dates by Howard Hinnant's
/// `civil_from_days`.
pub fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", second / 3_600, second / 60 % 60)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_have_units_and_groups() {
        for (name, value, label_shown, value_shown) in [
            ("cpu_ns_per_frame", json!(338_728), "cpu per frame", "339 µs"),
            ("cpu_percent", json!(8.465_253), "cpu", "8.5 %"),
            ("ramp_s", json!(4.0), "ramp", "4 s"),
            ("steady_s", json!([4.000_67, 14.0]), "steady", "4 s, 14 s"),
            ("frame_ms", json!(200), "frame", "200 ms"),
            ("rss_bytes", json!(31_064_064), "rss bytes", "31,064,064 (29.6 MiB)"),
            ("frame_bytes", json!(9_600), "frame bytes", "9,600"),
            ("bytes_per_call", json!(-1), "bytes per call", "-1"),
            ("gigabytes_per_second", json!(0.314_735), "gigabytes per second", "0.31"),
            ("reconnect", json!(false), "reconnect", "no"),
            ("ack_level", json!(null), "ack level", "–"),
            ("ills", json!([]), "ills", "none"),
            ("url", json!("ws://x"), "url", "ws://x"),
        ] {
            assert_eq!(
                (label(name).as_str(), shown(name, &value).as_str()),
                (label_shown, value_shown)
            );
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (1_795_374_256, "2026-11-22 19:04 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(utc(seconds), date);
        }
    }
}
