//! Times on the command line, and in tables and JSON.

#![forbid(unsafe_code)]

use super::Failure;
use crate::clock::UnixMicros;
use clap::Args;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::{OffsetDateTime, UtcOffset};

const HELP: &str = "write a time like 2026-11-30, 2026-11-30T09:00Z or 2026-11-30T09:00:00+01:00, \
                    or how long ago it was, like 2h or 30d";

/// Reads a time: RFC 3339, where time of day and zone may be left out, or how long ago it was.
pub(super) fn parse_time(text: &str) -> Result<UnixMicros, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    parse_time_at(text, now).ok_or_else(|| HELP.into())
}

fn parse_time_at(text: &str, now: Duration) -> Option<UnixMicros> {
    let text = text.trim();
    let ago = text.strip_suffix("ago").map_or(text, str::trim_end);
    if let Ok(ago) = humantime::parse_duration(ago) {
        return Some(micros(now.saturating_sub(ago)));
    }
    let (date, clock) = match text.split_once(['T', 't', ' ']) {
        Some((date, clock)) => (date, clock),
        None => (text, "00:00"),
    };
    let (clock, offset) = zone(clock)?;
    if !clock.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.')) {
        return None;
    }
    // humantime needs the seconds.
    let seconds = if clock.matches(':').count() == 1 { ":00" } else { "" };
    let utc = humantime::parse_rfc3339(&format!("{date}T{clock}{seconds}Z")).ok()?;
    let utc = micros(utc.duration_since(UNIX_EPOCH).ok()?);
    Some(UnixMicros(utc.0.checked_add_signed(-offset)?))
}

/// Splits a time of day from its zone, which is UTC if it is left out. The offset is in
/// microseconds.
fn zone(clock: &str) -> Option<(&str, i64)> {
    if let Some(clock) = clock.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let Some(at) = clock.rfind(['+', '-']) else { return Some((clock, 0)) };
    let (clock, zone) = clock.split_at(at);
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = zone[1..].split_once(':')?;
    let number = |text: &str, most: i64| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i64>().ok().filter(|number| is_number && *number <= most)
    };
    let minutes = number(hours, 23)? * 60 + number(minutes, 59)?;
    Some((clock, sign * minutes * 60_000_000))
}

fn micros(since: Duration) -> UnixMicros {
    UnixMicros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// The zone in which times are shown.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(in crate::cli) struct Zone {
    /// Show times in this machine's zone (TZ), with the offset from UTC
    #[arg(long)]
    local: bool,
}

impl Zone {
    /// An error if the zone is asked for and not known.
    pub(crate) fn check(self) -> Result<(), Failure> {
        match self.local && offset(UnixMicros(0)).is_none() {
            true => Err(Failure::Run(
                "cannot tell this machine's time zone: set TZ, or leave --local out".into(),
            )),
            false => Ok(()),
        }
    }

    /// A time in this zone, to the millisecond; an impossible time as a number.
    pub(crate) fn show(self, at: UnixMicros) -> String {
        let Some(offset) = offset(at).filter(|_| self.local) else { return rfc3339(at) };
        let shifted = UnixMicros(at.0.saturating_add_signed(offset * 60_000_000));
        let shown = rfc3339(shifted);
        let Some(shown) = shown.strip_suffix('Z') else { return rfc3339(at) };
        let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs());
        format!("{shown}{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

/// How far this machine's zone is ahead of UTC at a time, minutes. The C library tells only while
/// the process has one thread, as these commands have.
fn offset(at: UnixMicros) -> Option<i64> {
    let seconds = i64::try_from(at.0 / 1_000_000).ok()?;
    let at = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    let offset = UtcOffset::local_offset_at(at).ok()?;
    Some(i64::from(offset.whole_minutes()))
}

/// A time in UTC, to the millisecond; an impossible time as a number.
pub(in crate::cli) fn rfc3339(at: UnixMicros) -> String {
    // The format ends with the last year of four digits.
    match system_time(at).filter(|_| at.0 < 253_402_300_800_000_000) {
        Some(time) => humantime::format_rfc3339_millis(time).to_string(),
        None => format!("{} us", at.0),
    }
}

/// A time as the system's files have it; `None` if it is impossible.
pub(super) fn system_time(at: UnixMicros) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_micros(at.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-30T09:00:00Z.
    const NOW: u64 = 1_796_029_200;

    fn parsed(text: &str) -> Option<u64> {
        parse_time_at(text, Duration::from_secs(NOW)).map(|at| at.0 / 1_000)
    }

    #[test]
    fn a_time_is_a_date_a_moment_or_how_long_ago() {
        for (text, seconds_before) in [
            ("2026-11-30T09:00:00Z", 0),
            ("2026-11-30T09:00Z", 0),
            ("2026-11-30 09:00", 0),
            ("2026-11-30T10:30+01:30", 0),
            ("2026-11-30T01:00:00-08:00", 0),
            ("2026-11-29T23:00:00-10:00", 0),
            ("2026-11-30", 9 * 3600),
            ("2h", 7200),
            ("2h ago", 7200),
            (" 1day 1s ago ", 86_401),
        ] {
            assert_eq!(parsed(text), Some((NOW - seconds_before) * 1000), "{text}");
        }
        assert_eq!(parsed("2026-11-30T09:00:00.250Z"), Some(NOW * 1000 + 250));
        assert_eq!(parsed("100years"), Some(0), "before 1970");
    }

    #[test]
    fn what_is_no_time_says_what_to_write() {
        for text in [
            "",
            "ago",
            "yesterday",
            "2026-11",
            "30.11.2026",
            "2026-11-31",
            "2026-11-30T",
            "2026-11-30T9",
            "2026-11-30T09:00+1",
            "2026-11-30T09:00+24:00",
            "2026-11-30T09:00+é1:00",
            "2026-11-30T09:00:00ZZ",
            "5",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
        assert!(parse_time("yesterday").unwrap_err().contains("30d"));
    }

    #[test]
    fn times_are_shown_with_milliseconds_and_zone() {
        assert_eq!(rfc3339(UnixMicros(NOW * 1_000_000 + 1_999)), "2026-11-30T09:00:00.001Z");
        assert_eq!(rfc3339(UnixMicros(u64::MAX)), format!("{} us", u64::MAX));
    }
}
