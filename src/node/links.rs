//! What threads that hand the journal over may know of the shards and tell them. No shard waits
//! for them.

#![forbid(unsafe_code)]

use crate::archive::layout::RunName;
use crate::format::Lsn;
use crate::handover::lag::OwnShards;
use crate::handover::live::shared::NodeShards;
use crate::metrics::Counters;
use crate::shard::mailbox::{MailboxSender, Message, ReplicatedFrames};
use std::sync::Arc;

/// The shards of a running node, as their journal's readers see them.
#[derive(Clone, Debug)]
pub struct ShardLinks {
    run: RunName,
    counters: Vec<Arc<Counters>>,
    mailboxes: Vec<MailboxSender>,
}

impl ShardLinks {
    pub(super) fn new(
        run: RunName,
        counters: Vec<Arc<Counters>>,
        mailboxes: Vec<MailboxSender>,
    ) -> ShardLinks {
        ShardLinks { run, counters, mailboxes }
    }

    /// The ends of the shards' journals, to measure how far a sink is behind.
    pub fn own_shards(&self) -> OwnShards {
        OwnShards::new(self.run, self.counters.clone())
    }
}

impl NodeShards for ShardLinks {
    fn durable_lsn(&self, run: &RunName, shard: u16) -> Option<Lsn> {
        let counters = self.counters.get(usize::from(shard)).filter(|_| *run == self.run)?;
        Some(Lsn(counters.journal_position_bytes.read()))
    }

    fn report_replicated(
        &self,
        shard: u16,
        frames: Vec<ReplicatedFrames>,
    ) -> Result<(), Vec<ReplicatedFrames>> {
        let Some(mailbox) = self.mailboxes.get(usize::from(shard)) else { return Ok(()) };
        mailbox.try_send(Message::Replicated(frames)).map_err(|message| match message {
            Message::Replicated(frames) => frames,
            _ => unreachable!("a mailbox hands back what it was given"),
        })
    }
}
