//! Numbers for people: in decimal units, as disks and networks are sold.

use crate::config::format::show_duration;
use std::time::Duration;

/// `400 MB`, `34.5 TB`.
pub(super) fn bytes(count: u64) -> String {
    scaled(count, ["B", "kB", "MB", "GB", "TB", "PB"])
}

/// `3.29 Gbit/s`.
pub(super) fn bits(count: u64) -> String {
    scaled(count, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s", "Pbit/s"])
}

/// `1m 28s`, `3h 20m`: the two largest units.
pub(super) fn span(seconds: u64) -> String {
    let unit = match seconds {
        0..3_600 => 1,
        3_600..86_400 => 60,
        _ => 3_600,
    };
    show_duration(Duration::from_secs(seconds / unit * unit))
}

fn scaled(count: u64, units: [&str; 6]) -> String {
    let mut value = count as f64;
    let mut unit = units[0];
    for larger in &units[1..] {
        if value < 1_000.0 {
            break;
        }
        value /= 1_000.0;
        unit = larger;
    }
    match value {
        value if value < 10.0 && count >= 1_000 => format!("{value:.2} {unit}"),
        value if value < 100.0 && count >= 1_000 => format!("{value:.1} {unit}"),
        value => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_shown() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(399_360_000), "399 MB");
        assert_eq!(bytes(34_504_704_000_000), "34.5 TB");
        assert_eq!((span(88).as_str(), span(12_059).as_str()), ("1m 28s", "3h 20m"));
        assert_eq!(bits(3_287_040_000), "3.29 Gbit/s");
    }
}
