//! The live calls of a shard that wait the longest, for those that watch the node. They are found
//! on request, a page of connections at a time ([`crate::worst_calls`]).
#![forbid(unsafe_code)]

use super::Shard;
use super::connections::{Connection, Stage};
use super::replication::Replication;
use crate::clock::Now;
use crate::io::Io;
use crate::session::{Service, Session};
use crate::worst_calls::{CallsRequest, LiveCall, PAGE_SIZE};

impl<I: Io, S: Service> Shard<I, S> {
    /// Looks at one page of connections, and sends back the list with the worst of them.
    pub(super) fn answer_calls(&mut self, now: Now, mut request: CallsRequest) {
        let Shard { index: shard, connections, promises, replication, .. } = self;
        let (page, worst) = request.parts();
        let first = page * PAGE_SIZE;
        let end = (first + PAGE_SIZE).min(connections.slot_count());
        worst.begin_page();
        for promise in promises.iter() {
            let slot = promise.handle.index as usize;
            if (first..end).contains(&slot) {
                worst.note_promise(slot - first, promise.handle.generation, promise.since);
            }
        }
        for (id, since) in replication.iter().flat_map(Replication::held) {
            if (first..end).contains(&(id.index as usize)) {
                worst.note_promise(id.index as usize - first, id.generation, since);
            }
        }
        for slot in first..end {
            let Some(id) = connections.id_at(slot as u32) else { continue };
            let Some(Connection { stage: Stage::Open(open), timing, .. }) = connections.get(id)
            else {
                continue;
            };
            let Some(status) = open.session.status(now) else { continue };
            let promised = worst.promise(slot - first, id.generation);
            let since = [promised, timing.acks_wait_since(now.moment)].into_iter().flatten().min();
            let ack_wait = since.map(|since| now.moment.since(since)).unwrap_or_default();
            worst.offer(ack_wait.max(status.silent), |call| {
                *call = LiveCall {
                    tenant: String::from(&*status.identity.tenant),
                    interaction: String::from(&*status.identity.interaction),
                    shard: *shard,
                    epoch: (status.epoch.boot, status.epoch.micros),
                    lasted: status.lasted,
                    audio: status.audio,
                    frames: status.frames,
                    acked: status.acked.0,
                    ack_wait,
                    silent: status.silent,
                };
            });
        }
        request.answer(end < connections.slot_count());
    }
}
