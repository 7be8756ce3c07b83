//! What names a call and a connection's turn at it.
#![forbid(unsafe_code)]

use crate::clock::Moment;
use crate::constants::ID_SIZE_MAX;

/// Whether `id` may name a tenant or an interaction: 1 to 256 bytes without control characters. A `/` is allowed.
pub fn valid_id(id: &str) -> bool {
    (1..=ID_SIZE_MAX).contains(&id.len()) && !id.chars().any(char::is_control)
}

/// The two ids of a call as the peer wrote them: 1 to 256 bytes of UTF-8 each, without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallIdentity {
    /// The customer the call belongs to.
    pub tenant: Box<str>,
    /// The call itself; unique within the tenant.
    pub interaction: Box<str>,
}

impl CallIdentity {
    /// A key that two different calls do not share: the first 128 bits of SHA-256 over both ids, each preceded by its length
    /// (so that `("ab","c")` and `("a","bc")` differ). It is computed once per call, at its `start`.
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

/// Names a call among all calls of a node, and the shard that arbitrates over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallKey(pub u128);

impl CallKey {
    /// The call number in journal records: the key's low half. Readers use it as a filter; who a call is stands in its call
    /// record, and the epoch tells two calls apart even where these 64 bits agree.
    pub const fn record_number(self) -> u64 {
        self.0 as u64
    }

    /// The shard whose mailbox decides who is the newest at this call. `shard_count` is at least 1.
    pub const fn home_shard(self, shard_count: usize) -> usize {
        ((self.0 >> 64) as u64 % shard_count as u64) as usize
    }
}

/// One connection's turn at a call; the later turn compares greater.
///
/// Fields in order of comparison: the boot number kept in the data directory, microseconds since that boot, the shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Counts the machine's boots as the data directory saw them; 0 without a data directory.
    pub boot: u32,
    /// `CLOCK_BOOTTIME` in microseconds.
    pub micros: u64,
    /// The shard that assigned it.
    pub shard: u16,
}

/// Hands out a shard's epochs: each greater than the one before, even within a microsecond.
#[derive(Debug)]
pub struct EpochSource {
    last: Epoch,
}

impl EpochSource {
    /// For `shard` in the boot numbered `boot`.
    pub const fn new(boot: u32, shard: u16) -> Self {
        EpochSource { last: Epoch { boot, micros: 0, shard } }
    }

    /// The next epoch. `now` may stand still; it is a monotonic clock, so it does not go back.
    pub fn next(&mut self, now: Moment) -> Epoch {
        self.last.micros = now.as_micros().max(self.last.micros + 1);
        self.last
    }
}

/// Number of an audio frame within its epoch, from 1; 0 stands for "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

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
