//! Lengths of time: read from the command line, and shown in tables.

use std::time::Duration;

/// The longest that is read: a century. Beyond it the schedule's arithmetic in 64-bit nanoseconds
/// would overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Reads `60s`, `1.5ms`, `2m`, `1h 30m`. The error is a sentence for clap to print.
pub fn parse(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("'{text}': {error}; write a time like 200ms, 1.5s or 2m"))?;
    if duration > LONGEST {
        return Err(format!("'{text}' is too long"));
    }
    Ok(duration)
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
            ("0.5us", 500),
            ("60s", 60_000_000_000),
            ("0s", 0),
            ("2m", 120_000_000_000),
            ("50us", 50_000),
            ("50µs", 50_000),
            (" 7 ns ", 7),
            ("1.5h", 5_400_000_000_000),
            ("1h 30m", 5_400_000_000_000),
            ("1day", 86_400_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, part) in [
            ("60", "unit"),
            ("fast", "number"),
            ("3 fortnights", "unit"),
            ("", "empty"),
            ("9e9h", "unit"),
            ("-1s", "number"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part) && error.contains("like 200ms"), "{text}: {error}");
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
