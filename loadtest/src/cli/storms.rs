//! Flags of storms and churn: calls that come and go while others are up.

use std::time::Duration;

use clap::Args;

use super::duration;
use crate::schedule::Schedule;
use crate::storm::{How, Plan};

/// The flags.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Storms")]
pub struct StormArgs {
    /// At this time after the start of the run all calls lose their connections and connect again.
    /// The time must be after the ramp and before the end. Failed attempts are repeated, as with
    /// --reconnect
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub reconnect_all_at: Option<Duration>,
    /// How they lose them
    #[arg(long, value_enum, default_value_t = How::Rst, requires = "reconnect_all_at")]
    pub reconnect_how: How,
    /// Each call waits for a random time up to this before it connects again
    #[arg(long, value_name = "TIME", default_value = "0s", requires = "reconnect_all_at")]
    #[arg(value_parser = duration::parse)]
    pub reconnect_jitter: Duration,
    /// Share of the calls that take part. The others stay up; ack_before, ack_during and ack_after
    /// are their latencies
    #[arg(long, value_name = "SHARE", default_value = "1", requires = "reconnect_all_at")]
    #[arg(value_parser = share)]
    pub reconnect_share: f64,
    /// Number of calls that end each second after the ramp. A new call with the next number
    /// replaces each
    #[arg(long, value_name = "CALLS_PER_SEC", conflicts_with = "reconnect_all_at")]
    #[arg(value_parser = super::positive)]
    pub churn: Option<f64>,
}

impl StormArgs {
    /// The storm that the flags ask for, if they do.
    pub fn storm(&self, schedule: &Schedule) -> Result<Option<Plan>, String> {
        let Some(at) = self.reconnect_all_at else { return Ok(None) };
        let at = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        if at < schedule.ramp || at >= schedule.end {
            return Err(format!(
                "--reconnect-all-at: all calls are up from {} s to {} s after the start; give a \
                 time between",
                schedule.ramp as f64 / 1e9,
                schedule.end as f64 / 1e9,
            ));
        }
        Ok(Some(Plan {
            at,
            how: self.reconnect_how,
            jitter: self.reconnect_jitter,
            share: self.reconnect_share,
        }))
    }

    /// Calls that are replaced in `duration`.
    pub fn replaced(&self, duration: Duration) -> u64 {
        // One less: the last replacement needs time to come up.
        self.churn.map_or(0, |rate| (rate * duration.as_secs_f64()).ceil() as u64).saturating_sub(1)
    }
}

/// Reads `0.9` or `90%`.
fn share(text: &str) -> Result<f64, String> {
    let number = match text.trim().strip_suffix('%') {
        Some(percent) => percent.trim_end().parse::<f64>().map(|percent| percent / 100.0),
        None => text.trim().parse(),
    };
    let share = number.ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| format!("'{text}' is no share of the calls; write one like 0.9 or 90%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_both_ways() {
        for (text, value) in [("0.9", 0.9), ("90%", 0.9), ("1", 1.0), ("100 %", 1.0)] {
            assert_eq!(share(text), Ok(value), "{text}");
        }
        for text in ["0", "1.1", "-1", "all", "101%", ""] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
