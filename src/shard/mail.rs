//! Messages between this shard and the others: what its mailbox brings, and what waits because the
//! mailbox of another shard is full. Messages to one shard stay in order: a release must not
//! overtake its claim.
#![forbid(unsafe_code)]

use super::connections::ConnectionId;
use super::mailbox::{Mailbox, MailboxSender, Message, Owner};
use super::ownership::Ownership;
use crate::call::{CallKey, Epoch};
use std::collections::VecDeque;

/// A shard's messages.
#[derive(Debug)]
pub(super) struct Mail {
    /// The number of this shard.
    shard: usize,
    mailbox: Mailbox,
    /// The other shards, and this one, by number.
    recipients: Vec<Recipient>,
    /// Calls whose home is this shard.
    ownership: Ownership,
}

#[derive(Debug)]
struct Recipient {
    sender: MailboxSender,
    /// Messages that its mailbox had no room for, in order.
    waiting: VecDeque<Message>,
}

impl Recipient {
    fn send(&mut self, message: Message) {
        if !self.waiting.is_empty() {
            self.waiting.push_back(message);
        } else if let Err(message) = self.sender.try_send(message) {
            self.waiting.push_back(message);
        }
    }

    fn flush(&mut self) {
        while let Some(message) = self.waiting.pop_front() {
            if let Err(message) = self.sender.try_send(message) {
                return self.waiting.push_front(message);
            }
        }
    }
}

impl Mail {
    /// For the shard with this number. `shards` are the mailboxes of all shards, by number.
    pub(super) fn new(shard: usize, mailbox: Mailbox, shards: Vec<MailboxSender>) -> Self {
        let recipient = |sender| Recipient { sender, waiting: VecDeque::new() };
        let recipients = shards.into_iter().map(recipient).collect();
        Mail { shard, mailbox, recipients, ownership: Ownership::default() }
    }

    /// Sends again what found no room before.
    pub(super) fn flush(&mut self) {
        self.recipients.iter_mut().for_each(Recipient::flush);
    }

    /// The next message that has come.
    pub(super) fn poll(&self) -> Option<Message> {
        self.mailbox.try_receive()
    }

    /// `owner` takes a call whose home is this shard: tells the connection that has to give it up.
    pub(super) fn handle_claim(&mut self, call: CallKey, epoch: Epoch, owner: Owner) {
        if let Some(Owner { shard, connection }) = self.ownership.claim(call, epoch, owner) {
            self.recipients[shard].send(Message::Superseded { connection });
        }
    }

    /// An epoch of a call whose home is this shard is over.
    pub(super) fn handle_release(&mut self, call: CallKey, epoch: Epoch) {
        self.ownership.release(call, epoch);
    }

    /// A connection of this shard has sent a valid `start`: tells the call's home shard.
    pub(super) fn send_claim(&mut self, call: CallKey, epoch: Epoch, connection: ConnectionId) {
        let owner = Owner { shard: self.shard, connection };
        self.home(call).send(Message::Claim { call, epoch, owner });
    }

    /// The epoch of a call is over: tells the call's home shard.
    pub(super) fn send_release(&mut self, call: CallKey, epoch: Epoch) {
        self.home(call).send(Message::Release { call, epoch });
    }

    fn home(&mut self, call: CallKey) -> &mut Recipient {
        let count = self.recipients.len();
        &mut self.recipients[call.home_shard(count)]
    }

    /// Number of messages that wait for room.
    pub(super) fn waiting_count(&self) -> usize {
        self.recipients.iter().map(|recipient| recipient.waiting.len()).sum()
    }

    /// Number of calls with an owner.
    #[cfg(test)]
    pub(super) fn owned_count(&self) -> usize {
        self.ownership.count()
    }

    /// The mailbox of a shard.
    #[cfg(test)]
    pub(super) fn sender(&self, shard: usize) -> &MailboxSender {
        &self.recipients[shard].sender
    }
}
