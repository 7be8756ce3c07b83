//! Which connection has a call. The home shard of a call keeps this, and the call's ids decide
//! which shard that is. The newest connection wins.
#![forbid(unsafe_code)]

use super::mailbox::Owner;
use crate::call::{CallKey, Epoch};
use std::collections::HashMap;

/// The owners of the calls whose home is this shard.
#[derive(Debug, Default)]
pub(crate) struct Ownership {
    newest: HashMap<CallKey, (Epoch, Owner)>,
}

impl Ownership {
    /// A connection takes a call. Returns the connection that has to give it up: the previous
    /// owner, or the claimant itself if a later epoch got here first.
    pub(crate) fn claim(&mut self, call: CallKey, epoch: Epoch, owner: Owner) -> Option<Owner> {
        match self.newest.get_mut(&call) {
            None => {
                self.newest.insert(call, (epoch, owner));
                None
            }
            Some(held) if held.0 < epoch => Some(std::mem::replace(held, (epoch, owner)).1),
            Some(_) => Some(owner),
        }
    }

    /// Forgets an epoch that is over. A later one stays.
    pub(crate) fn release(&mut self, call: CallKey, epoch: Epoch) {
        if self.newest.get(&call).is_some_and(|held| held.0 == epoch) {
            self.newest.remove(&call);
        }
    }

    /// Number of calls with an owner.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
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
        let mut ownership = Ownership::default();
        assert_eq!(ownership.claim(call, epoch(10), owner(0)), None);
        assert_eq!(ownership.claim(call, epoch(30), owner(1)), Some(owner(0)));
        assert_eq!(ownership.claim(call, epoch(20), owner(2)), Some(owner(2)));
        ownership.release(call, epoch(10));
        assert_eq!(ownership.count(), 1);
        ownership.release(call, epoch(30));
        assert_eq!(ownership.count(), 0);
    }
}
