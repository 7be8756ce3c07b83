//! How the control plane and other shards talk to a shard: a bounded queue and an eventfd that the
//! shard's ring reads.
//!
//! No sender waits: a full mailbox hands the message back, and the sender keeps it and tries again
//! in its next turn.
#![forbid(unsafe_code)]

use super::connections::ConnectionId;
use super::replication::ReplicationSettings;
use crate::auth::Verifier;
pub use crate::call::ReplicatedFrames;
use crate::call::{CallKey, Epoch};
use crate::journal::writer::PreparedSegment;
use crate::latency::LatencyRequest;
use crate::tls::ServerConfig;
use crate::worst_calls::CallsRequest;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Messages that may wait in one mailbox. Calls that supersede each other send one each, and a turn
/// takes them all.
const MAILBOX_SIZE: usize = 4096;

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its shard.
    pub(crate) shard: usize,
    /// Its slot there.
    pub(crate) connection: ConnectionId,
}

/// A message to a shard.
#[derive(Debug)]
pub enum Message {
    /// To a call's home shard: this connection has sent a valid `start`.
    Claim {
        /// The call.
        call: CallKey,
        /// The connection's epoch.
        epoch: Epoch,
        /// The connection.
        owner: Owner,
    },
    /// To a call's home shard: that epoch is over.
    Release {
        /// The call.
        call: CallKey,
        /// The epoch.
        epoch: Epoch,
    },
    /// To the owner of a connection: a later one has the call.
    Superseded {
        /// The connection.
        connection: ConnectionId,
    },
    /// Check tokens with these keys from now on.
    Keys(Arc<Verifier>),
    /// Shake hands with this configuration from now on.
    Tls(Arc<ServerConfig>),
    /// Hold the new connections of each address to this from now on.
    AddressRate {
        /// So many a second for long; `None` is no limit.
        rate: Option<usize>,
        /// So many at once.
        burst: u32,
    },
    /// Close a segment of the journal at this age from now on; `None`: once it is full.
    SegmentAge(Option<Duration>),
    /// Take no new calls, close all calls evenly over the window, then end.
    Drain {
        /// How long the port answers before calls are closed; zero closes it at once.
        grace: Duration,
        /// How long the last call may take to be closed.
        window: Duration,
    },
    /// The segment that the journal asked for.
    Segment(PreparedSegment),
    /// There is no room on the disk for the segment that the journal asked for; it follows once
    /// there is.
    NoRoom,
    /// Whether less is free on the disk than new calls may use.
    Reserve {
        /// It is.
        is_low: bool,
    },
    /// Whether more of the journal waits for required sinks than may.
    Budget {
        /// It does.
        is_over: bool,
    },
    /// Seal the segments of the journal that hold what the shard has received so far.
    Seal,
    /// The message engine has acknowledged frames of calls of this shard.
    Replicated(Vec<ReplicatedFrames>),
    /// Let ACKs wait for the message engine like this from now on.
    Replication(ReplicationSettings),
    /// Exchange the latencies recorded so far for an empty set.
    Latencies(LatencyRequest),
    /// Find the calls of a page of connections that wait the longest.
    Calls(CallsRequest),
}

/// The sending end; one per sender, cheap to clone.
#[derive(Clone, Debug)]
pub struct MailboxSender {
    queue: SyncSender<Message>,
    wake: Arc<OwnedFd>,
}

/// The shard's end.
#[derive(Debug)]
pub struct Mailbox {
    queue: Receiver<Message>,
    wake: Arc<OwnedFd>,
}

/// A new mailbox. Fails where no descriptor is left.
pub fn mailbox() -> std::io::Result<(MailboxSender, Mailbox)> {
    let (sender, receiver) = sync_channel(MAILBOX_SIZE);
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    Ok((
        MailboxSender { queue: sender, wake: Arc::clone(&wake) },
        Mailbox { queue: receiver, wake },
    ))
}

impl MailboxSender {
    /// Puts a message into the mailbox and wakes its shard. Returns the message if the mailbox is
    /// full. Messages to a shard that has ended are dropped.
    pub fn try_send(&self, message: Message) -> Result<(), Message> {
        match self.queue.try_send(message) {
            Ok(()) => {
                // A full eventfd (2^64 - 1 wake-ups unread) would still wake: there is no error
                // that matters.
                let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
                Ok(())
            }
            Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(message)) => Err(message),
        }
    }
}

impl Mailbox {
    /// The next message, if any.
    pub(crate) fn try_receive(&self) -> Option<Message> {
        self.queue.try_recv().ok()
    }

    /// The eventfd that senders write to, for the shard's ring.
    pub(crate) fn wake(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.wake)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_hands_the_message_back() {
        let (sender, receiver) = mailbox().unwrap();
        for _ in 0..MAILBOX_SIZE {
            sender
                .try_send(Message::Drain { grace: Duration::ZERO, window: Duration::ZERO })
                .unwrap();
        }
        let refused = sender
            .try_send(Message::Drain { grace: Duration::ZERO, window: Duration::from_secs(7) });
        assert!(
            matches!(refused, Err(Message::Drain { window, .. }) if window == Duration::from_secs(7))
        );
        assert!(receiver.try_receive().is_some());
        sender.try_send(refused.unwrap_err()).unwrap();
        let mut count = [0; 8];
        rustix::io::read(receiver.wake(), &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), MAILBOX_SIZE as u64 + 1);
    }
}
