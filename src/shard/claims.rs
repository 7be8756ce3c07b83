//! Who has a call: kept by the call's home shard, which is found by a hash of the call's ids. Newest wins.
#![forbid(unsafe_code)]

use super::mailbox::Owner;
use crate::call::{CallKey, Epoch};
use std::collections::HashMap;

/// The calls this shard arbitrates over.
#[derive(Debug, Default)]
pub struct Claims {
    newest: HashMap<CallKey, (Epoch, Owner)>,
}

impl Claims {
    /// Notes a claim; returns who has to go: the one that had the call before, or the claimant itself where a later turn had
    /// got here first.
    pub fn claim(&mut self, call: CallKey, epoch: Epoch, owner: Owner) -> Option<Owner> {
        match self.newest.get_mut(&call) {
            None => {
                self.newest.insert(call, (epoch, owner));
                None
            }
            Some(held) if held.0 < epoch => Some(std::mem::replace(held, (epoch, owner)).1),
            Some(_) => Some(owner),
        }
    }

    /// Forgets a turn that is over. A later one stays.
    pub fn release(&mut self, call: CallKey, epoch: Epoch) {
        if self.newest.get(&call).is_some_and(|held| held.0 == epoch) {
            self.newest.remove(&call);
        }
    }

    /// Number of calls with a claim.
    pub fn count(&self) -> usize {
        self.newest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::connections::ConnectionId;
    use super::*;

    fn owner(shard: usize) -> Owner {
        Owner { shard, connection: ConnectionId { index: 1, generation: 1 } }
    }

    fn epoch(micros: u64) -> Epoch {
        Epoch { boot: 1, micros, shard: 0 }
    }

    #[test]
    fn the_greater_epoch_stays_whatever_comes_first() {
        let call = CallKey(7);
        let mut claims = Claims::default();
        assert_eq!(claims.claim(call, epoch(10), owner(0)), None);
        assert_eq!(claims.claim(call, epoch(30), owner(1)), Some(owner(0)));
        assert_eq!(claims.claim(call, epoch(20), owner(2)), Some(owner(2)));
        claims.release(call, epoch(10));
        assert_eq!(claims.count(), 1);
        claims.release(call, epoch(30));
        assert_eq!(claims.count(), 0);
    }
}
