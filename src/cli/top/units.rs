//! Numbers as people read them.

#![forbid(unsafe_code)]

use crate::config::ring_size::show_count;

/// A whole number with commas between thousands.
pub(super) fn count(number: u64) -> String {
    show_count(usize::try_from(number).unwrap_or(usize::MAX))
}

/// A rate: a digit after the point where it is small.
pub(super) fn rate(number: f64) -> String {
    if number >= 100.0 || number == 0.0 { count(number.round() as u64) } else { tenths(number) }
}

fn tenths(number: f64) -> String {
    format!("{number:.1}")
}

/// Bytes in the largest decimal unit, as disks and networks are sold.
pub(super) fn bytes(number: f64) -> String {
    scaled(number, 1e3, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// A short time, from microseconds.
pub(super) fn micros(micros: u64) -> String {
    match micros {
        0 => "0".into(),
        1..1_000 => format!("{micros} us"),
        1_000..100_000 => format!("{:.1} ms", micros as f64 / 1e3),
        100_000..1_000_000 => format!("{} ms", micros / 1_000),
        _ => seconds(micros as f64 / 1e6),
    }
}

/// A time in the two largest units.
pub(super) fn seconds(seconds: f64) -> String {
    let whole = seconds.abs() as u64;
    let sign = if seconds <= -1.0 { "-" } else { "" };
    match whole {
        // Without the sign of what rounds to zero.
        0..60 => format!("{:.1} s", if seconds.abs() < 0.05 { 0.0 } else { seconds }),
        60..3_600 => format!("{sign}{}m {:02}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{sign}{}h {:02}m", whole / 3_600, whole / 60 % 60),
        _ => format!("{sign}{}d {:02}h", whole / 86_400, whole / 3_600 % 24),
    }
}

fn scaled(number: f64, step: f64, units: &[&str]) -> String {
    let (mut number, mut index) = (number, 0);
    while number >= step * 0.9995 && index + 1 < units.len() {
        number /= step;
        index += 1;
    }
    match (index, number) {
        (0, _) => format!("{number:.0} {}", units[0]),
        (_, ..100.0) => format!("{number:.1} {}", units[index]),
        _ => format!("{number:.0} {}", units[index]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_have_their_unit() {
        assert_eq!([0, 999, 1_000, 12_319_743].map(count), ["0", "999", "1,000", "12,319,743"]);
        assert_eq!([0.0, 0.25, 99.94, 5_000.4].map(rate), ["0", "0.2", "99.9", "5,000"]);
        let shown = [0.0, 999.0, 999.6, 48e6, 123e6, 2.5e12].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "48.0 MB", "123 MB", "2.5 TB"]);
        let shown = [0, 999, 18_400, 196_900, 2_100_000, 90_000_000].map(micros);
        assert_eq!(shown, ["0", "999 us", "18.4 ms", "196 ms", "2.1 s", "1m 30s"]);
        assert_eq!(seconds(-0.01), "0.0 s");
        let shown = [-12.5, 59.0, 3_725.0, 90_000.0, -75.0].map(seconds);
        assert_eq!(shown, ["-12.5 s", "59.0 s", "1h 02m", "1d 01h", "-1m 15s"]);
    }
}
