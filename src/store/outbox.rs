#![forbid(unsafe_code)]
//! Events for shards, each in its order. A shard that takes no mail delays only its own.

use super::{StoreEvent, Tell};
use std::collections::VecDeque;

/// Events that wait for their shards.
pub(super) struct Outbox {
    tell: Tell,
    /// By shard.
    waiting: Vec<VecDeque<StoreEvent>>,
}

impl Outbox {
    pub(super) fn new(tell: Tell, shard_count: usize) -> Outbox {
        Outbox { tell, waiting: (0..shard_count).map(|_| VecDeque::new()).collect() }
    }

    /// Tells a shard, now or once it takes the events before.
    pub(super) fn send(&mut self, shard: usize, event: StoreEvent) {
        self.waiting[shard].push_back(event);
        self.retry_shard(shard);
    }

    /// Tries again to tell the shards that took no mail.
    pub(super) fn retry(&mut self) {
        (0..self.waiting.len()).for_each(|shard| self.retry_shard(shard));
    }

    /// Whether an event waits.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.iter().any(|events| !events.is_empty())
    }

    fn retry_shard(&mut self, shard: usize) {
        let events = &mut self.waiting[shard];
        while let Some(event) = events.pop_front() {
            if let Err(refused) = (self.tell)(shard, event) {
                events.push_front(refused);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_shard_without_room_delays_no_other_and_gets_its_events_in_order() {
        let (room, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (room_of_first, log) = (Arc::clone(&room), Arc::clone(&told));
        let tell = move |shard, event| {
            let StoreEvent::Reserve { is_low } = event else { panic!("{event:?}") };
            let has_room = shard == 1
                || room_of_first
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1))
                    .is_ok();
            if !has_room {
                return Err(event);
            }
            log.lock().unwrap().push((shard, is_low));
            Ok(())
        };
        let mut outbox = Outbox::new(Arc::new(tell), 2);
        for is_low in [true, false, true] {
            outbox.send(0, StoreEvent::Reserve { is_low });
            outbox.send(1, StoreEvent::Reserve { is_low });
        }
        assert_eq!(*told.lock().unwrap(), [(1, true), (1, false), (1, true)]);
        room.store(2, Ordering::Relaxed);
        outbox.retry();
        assert_eq!(told.lock().unwrap()[3..], [(0, true), (0, false)]);
        assert!(outbox.has_waiting());
        room.store(2, Ordering::Relaxed);
        outbox.retry();
        assert_eq!(told.lock().unwrap()[5..], [(0, true)]);
        assert!(!outbox.has_waiting());
    }
}
