//! The names of a call and of its epochs.
#![forbid(unsafe_code)]

use crate::clock::Moment;
use crate::constants::ID_SIZE_MAX;

/// Whether `id` may name a tenant or an interaction: 1 to 256 bytes without control characters. A
/// `/` is allowed.
pub fn valid_id(id: &str) -> bool {
    (1..=ID_SIZE_MAX).contains(&id.len()) && !id.chars().any(char::is_control)
}

/// The two ids of a call as the peer wrote them: each has 1 to 256 bytes of UTF-8, without control
/// characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallIdentity {
    /// The customer of the call.
    pub tenant: Box<str>,
    /// The call itself; unique within the tenant.
    pub interaction: Box<str>,
}

impl CallIdentity {
    /// A key that differs for different calls: the first 128 bits of SHA-256 over both ids, each
    /// after its length. So `("ab","c")` and `("a","bc")` differ. It is computed once per call, at
    /// its `start`.
    pub fn key(&self) -> CallKey {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for id in [&self.tenant, &self.interaction] {
            context.update(&(id.len() as u32).to_le_bytes());
            context.update(id.as_bytes());
        }
        let digest = context.finish();
        let mut key = [0; 16];
        key.copy_from_slice(&digest.as_ref()[..16]);
        CallKey(u128::from_le_bytes(key))
    }
}

/// Identifies a call among all calls of a node, and the shard that decides about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallKey(pub u128);

impl CallKey {
    /// The call number in journal records: the lower half of the key. Readers use it as a filter.
    /// The call record has the ids, and the epoch tells two calls apart even if these 64 bits are
    /// equal.
    pub const fn record_number(self) -> u64 {
        self.0 as u64
    }

    /// The shard whose mailbox decides which connection to this call is the newest. `shard_count`
    /// is at least 1.
    pub(crate) const fn home_shard(self, shard_count: usize) -> usize {
        ((self.0 >> 64) as u64 % shard_count as u64) as usize
    }
}

/// Which connection has a call; a later one compares greater.
///
/// The fields are in the order of comparison: the boot number in the data directory, microseconds
/// since that boot, the shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Number of the machine's boots, as seen by the data directory; 0 without a data directory.
    pub boot: u32,
    /// `CLOCK_BOOTTIME` in microseconds.
    pub micros: u64,
    /// The shard that assigned it.
    pub shard: u16,
}

/// Assigns a shard's epochs: each is greater than the one before, even within a microsecond.
#[derive(Debug)]
pub struct EpochSource {
    last: Epoch,
}

impl EpochSource {
    /// For `shard` in the boot numbered `boot`.
    pub const fn new(boot: u32, shard: u16) -> Self {
        EpochSource { last: Epoch { boot, micros: 0, shard } }
    }

    /// The next epoch. `now` may stand still. It is a monotonic clock, so it never goes back.
    pub(crate) fn next(&mut self, now: Moment) -> Epoch {
        self.last.micros = now.as_micros().max(self.last.micros + 1);
        self.last
    }
}

/// Number of an audio frame within its epoch, from 1; 0 means "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// Frames that the message engine has acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicatedFrames {
    /// The call's number in journal records.
    pub(crate) call: u64,
    /// The epoch of its connection.
    pub(crate) epoch: Epoch,
    /// The engine has all frames from this one on …
    pub(crate) first: Seq,
    /// … up to this one.
    pub(crate) last: Seq,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(tenant: &str, interaction: &str) -> CallIdentity {
        CallIdentity { tenant: tenant.into(), interaction: interaction.into() }
    }

    #[test]
    fn ids_are_short_and_printable() {
        for id in ["a", "call/1", "Zürich ☎", " ", &"x".repeat(256), &"é".repeat(128)] {
            assert!(valid_id(id), "{id:?}");
        }
        for id in ["", "a\nb", "\0", "\u{7f}", "\u{85}", &"x".repeat(257), &"é".repeat(129)] {
            assert!(!valid_id(id), "{id:?}");
        }
    }

    #[test]
    fn keys_depend_on_where_one_id_ends_and_the_other_starts() {
        assert_eq!(identity("acme", "1").key(), identity("acme", "1").key());
        assert_ne!(identity("ab", "c").key(), identity("a", "bc").key());
        assert_ne!(identity("a", "b").key(), identity("b", "a").key());
    }

    #[test]
    fn epochs_grow_while_the_clock_stands_still() {
        let mut source = EpochSource::new(3, 1);
        let now = Moment::from_nanos(5_000_000);
        let first = source.next(now);
        let second = source.next(now);
        assert!(second > first);
        assert_eq!((first.boot, first.micros, first.shard), (3, 5_000, 1));
        assert!(source.next(now + std::time::Duration::from_secs(1)) > second);
    }
}
