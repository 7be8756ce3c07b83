#![forbid(unsafe_code)]
//! The settings of a journal: for its writers, and for the store of its files.

use crate::constants::SEGMENT_AGE_MAX;
use crate::declare::settings_struct;
use std::time::Duration;

/// The rows of [`JournalSettings`], for the macro that is named first.
macro_rules! journal_settings {
    ($macro:ident! $($head:tt)*) => {
        $macro! {
            $($head)*
            /// Counts bytes on disk of all segments and indexes, with those in use. `None` keeps
            /// everything. Room is made before a segment is. So only bytes that cannot be removed
            /// exceed the limit: segments being read, a shard's two in use if the limit is
            /// smaller, and indexes stored since the last segment was made.
            retain_bytes: Option<u64> = None;
            {
                "journal.retain_bytes" flag "retain-bytes", SIZE_OR_OFF,
                "Maximum size of the journal: its oldest segments make room for new ones",
                reloadable
            }
            /// `None` keeps everything. Checked every five seconds. It counts from a segment's
            /// end.
            retain_age: Option<Duration> = None;
            {
                "journal.retain_age" flag "retain-age", DURATION_OR_OFF,
                "Age after which segments of the journal are deleted", reloadable
            }
            /// Bytes: 0 is none.
            reserve: Option<u64> = None;
            {
                "journal.reserve", RESERVE,
                "Free space below which new calls get 503; off: none; unset: 5 % of the \
                 filesystem, at least 1GiB", reloadable
            }
            /// Bytes: whole blocks.
            segment_size: u64 = 128 << 20;
            { "journal.segment_size", SIZE_U64, "Size of a segment of the journal" }
            /// A segment without data has no age. With `journal.retain_age` at most a tenth of it
            /// holds, and at most an hour, even if this is off. So a quiet node's audio does not
            /// stay much longer.
            segment_age: Option<Duration> = Some(Duration::from_secs(600));
            {
                "journal.segment_age", DURATION_OR_OFF,
                "How long a segment takes audio before it is sealed, and can be deleted", reloadable
            }
            sync_interval: Duration = Duration::from_millis(20);
            {
                "journal.sync_interval", DURATION_OR_ZERO,
                "Minimum time between two syncs of a shard"
            }
            stall_timeout: Duration = Duration::from_secs(60);
            {
                "journal.stall_timeout", DURATION,
                "How long the disk may make no progress before calls are closed"
            }
            prefill: bool = false;
            {
                "journal.prefill", SWITCH,
                "Fill segments with zeros before use: cheaper syncs, but twice the bytes to disk"
            }
        }
    };
}
pub(crate) use journal_settings;

journal_settings! { settings_struct!
    /// How a journal is written, and how much of it is kept.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct JournalSettings;
}

/// A segment is sealed at the latest after this part of `retain_age`.
const RETAIN_AGE_SHARE: u32 = 10;

/// The shortest time in which a segment is sealed because of `retain_age`.
const SEGMENT_AGE_MIN: Duration = Duration::from_secs(1);

impl JournalSettings {
    /// How long a segment takes audio. `None`: until it is full.
    pub(crate) fn segment_age_max(&self) -> Option<Duration> {
        let share =
            |age: Duration| (age / RETAIN_AGE_SHARE).clamp(SEGMENT_AGE_MIN, SEGMENT_AGE_MAX);
        let ages = [self.segment_age, self.retain_age.map(share)];
        ages.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_retention_by_age_a_segment_never_stays_open_for_long() {
        const HOUR: Duration = Duration::from_secs(3_600);
        let day = 24 * HOUR;
        for (segment_age, retain_age, expected) in [
            (None, None, None),
            (Some(day), None, Some(day)),
            (Some(HOUR / 6), Some(day), Some(HOUR / 6)),
            (Some(HOUR / 6), Some(HOUR), Some(HOUR / 10)),
            (None, Some(HOUR), Some(HOUR / 10)),
            (None, Some(30 * day), Some(HOUR)),
            (Some(day), Some(30 * day), Some(HOUR)),
            (None, Some(Duration::from_secs(3)), Some(Duration::from_secs(1))),
        ] {
            let settings =
                JournalSettings { segment_age, retain_age, ..JournalSettings::default() };
            assert_eq!(settings.segment_age_max(), expected, "{segment_age:?}, {retain_age:?}");
        }
    }
}
