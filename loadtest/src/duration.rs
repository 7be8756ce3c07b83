//! Lengths of time as people write them: `200ms`, `1.5s`, `2m`.

use std::time::Duration;

/// Nanoseconds in each unit we read, longest names first so that `ms` is not taken for `s`.
const UNITS: [(&str, f64); 7] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3_600e9)];

/// Reads `60s`, `1.5ms`, `2m`, `0s`. Errors name what is wrong in one sentence, for clap to print.
pub fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| format!("'{text}' does not start with a number"))?;
    let Some((_, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("'{text}' needs a unit: us, ms, s, m or h"));
    };
    let nanos = number * nanos;
    // A century: beyond it the schedule's arithmetic in 64-bit nanoseconds would not hold.
    if nanos > 3.2e18 {
        return Err(format!("'{text}' is too long"));
    }
    Ok(Duration::from_nanos(nanos as u64))
}

/// Nanoseconds for a table: three significant digits, in the unit that suits them.
pub fn show(nanos: u64) -> String {
    let (value, unit) = match nanos {
        0..1_000 => return format!("{nanos} ns"),
        1_000..1_000_000 => (nanos as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (nanos as f64 / 1e6, "ms"),
        _ => (nanos as f64 / 1e9, "s"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, nanos) in [
            ("200ms", 200_000_000),
            ("1.5ms", 1_500_000),
            ("60s", 60_000_000_000),
            ("0s", 0),
            ("2m", 120_000_000_000),
            ("50us", 50_000),
            ("1h", 3_600_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, part) in [("60", "unit"), ("fast", "number"), ("3 days", "unit"), ("", "number"), ("9e9h", "unit")] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(parse("99999999h").unwrap_err().contains("too long"));
    }

    #[test]
    fn shows_three_digits() {
        assert_eq!(show(812), "812 ns");
        assert_eq!(show(12_345), "12.3 µs");
        assert_eq!(show(4_567_890), "4.57 ms");
        assert_eq!(show(123_000_000), "123 ms");
        assert_eq!(show(61_000_000_000), "61.0 s");
    }
}
