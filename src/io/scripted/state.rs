//! State of a simulated world, and its answers to a shard's operations.

use super::event::Event;
use super::file::{File, FileOperation};
use crate::io::{Completion, Socket, UserData, Wait};
use bytes::BytesMut;
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

#[derive(Default)]
pub(super) struct State {
    pub(super) elapsed: Duration,
    /// Passes in the next submit.
    pub(super) sleep: Duration,
    /// Passes whenever the shard reads the clock.
    pub(super) tick: Duration,
    pub(super) wall_shift_secs: i64,
    pub(super) backlog: VecDeque<Result<Socket, Errno>>,
    pub(super) sockets: BTreeMap<i32, Peer>,
    pub(super) files: HashMap<i32, File>,
    /// Writes and syncs in progress, oldest first, with their numbers.
    pub(super) held: VecDeque<(u64, FileOperation)>,
    pub(super) holds_files: bool,
    pub(super) file_operation_count: u64,
    /// Events so far, if a test keeps a log.
    pub(super) log: Option<Vec<Event>>,
    pub(super) accepting: VecDeque<UserData>,
    pub(super) listener_closed: bool,
    pub(super) waking: Option<UserData>,
    pub(super) woken: bool,
    pub(super) completions: VecDeque<Completion>,
    pub(super) receive_buffers_free: Option<usize>,
    pub(super) receive_size_max: usize,
    pub(super) last_wait: Option<Wait>,
    pub(super) socket_count: i32,
}

/// Both ends of one connection.
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// From peer to node, not received yet.
    pub(super) inbound: VecDeque<u8>,
    pub(super) inbound_end: Option<End>,
    pub(super) receive: Option<UserData>,
    /// From node to peer, already sent.
    pub(super) outbound: Vec<u8>,
    /// Bytes that the peer's window still accepts; `None` is unlimited.
    pub(super) window: Option<usize>,
    pub(super) sending: Option<(UserData, BytesMut)>,
    pub(super) shut_down: bool,
    pub(super) closed: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum End {
    Finished,
    Reset,
}

/// Result of a read.
pub(super) struct ReadOutcome {
    pub(super) result: Result<u32, Errno>,
    pub(super) bytes: Option<Vec<u8>>,
    pub(super) socket_has_more: bool,
}

/// Bytes for the receive that they belong to.
pub(super) type Delivery = (Vec<u8>, UserData);

impl State {
    pub(super) fn peer(&mut self, socket: Socket) -> &mut Peer {
        self.sockets.get_mut(&socket.0).expect("the shard names a socket it accepted")
    }

    pub(super) fn complete(&mut self, user_data: UserData, result: Result<u32, Errno>) {
        let (more, socket_has_more, received) = (false, false, None);
        self.completions.push_back(Completion {
            user_data,
            result,
            more,
            socket_has_more,
            received,
        });
    }

    pub(super) fn deliver_accepts(&mut self) {
        while let (false, Some(next)) = (self.accepting.is_empty(), self.backlog.front().copied()) {
            let Some(user_data) = self.accepting.pop_front() else { return };
            self.backlog.pop_front();
            self.complete(user_data, next.map(|socket| socket.0 as u32));
        }
    }

    pub(super) fn deliver_rests(&mut self, rests: &mut HashMap<UserData, BytesMut>) {
        let (mut done, mut told) = (Vec::new(), Vec::new());
        for (socket, peer) in &mut self.sockets {
            let Some((user_data, bytes)) = peer.sending.take() else { continue };
            let result = match peer.take(&bytes) {
                _ if peer.inbound_end == Some(End::Reset) => Err(Errno::CONNRESET),
                0 => {
                    peer.sending = Some((user_data, bytes));
                    continue;
                }
                taken => {
                    told.push((Socket(*socket), bytes[..taken].to_vec()));
                    Ok(taken as u32)
                }
            };
            rests.insert(user_data, bytes);
            done.push((user_data, result));
        }
        told.into_iter().for_each(|(socket, bytes)| self.note(|| Event::Told { socket, bytes }));
        done.into_iter().for_each(|(user_data, result)| self.complete(user_data, result));
    }

    /// One receive: `None` if there is nothing to report, `Some(None)` if the receive ended without
    /// bytes.
    pub(super) fn deliver_receive(&mut self, socket: Socket) -> Option<Option<Delivery>> {
        let size_max = self.receive_size_max;
        let buffers_free = self.receive_buffers_free;
        let peer = self.peer(socket);
        let user_data = peer.receive?;
        if peer.inbound.is_empty() {
            let end = peer.inbound_end?;
            peer.receive = None;
            self.complete(
                user_data,
                if end == End::Finished { Ok(0) } else { Err(Errno::CONNRESET) },
            );
            return Some(None);
        }
        if buffers_free == Some(0) {
            peer.receive = None;
            self.complete(user_data, Err(Errno::NOBUFS));
            return Some(None);
        }
        let size = peer.inbound.len().min(size_max).min(crate::constants::RECEIVE_BUFFER_SIZE);
        let bytes = peer.inbound.drain(..size).collect();
        if let Some(free) = &mut self.receive_buffers_free {
            *free -= 1;
        }
        Some(Some((bytes, user_data)))
    }

    /// What a read of the socket brings at once, if a buffer `is_free`.
    pub(super) fn read(&mut self, socket: Socket, is_free: bool) -> ReadOutcome {
        let size_max = self.receive_size_max;
        let peer = self.peer(socket);
        let (result, bytes) = match (peer.inbound.is_empty(), peer.inbound_end) {
            (false, _) if !is_free => (Err(Errno::NOBUFS), None),
            (false, _) => {
                let size =
                    peer.inbound.len().min(size_max).min(crate::constants::RECEIVE_BUFFER_SIZE);
                (Ok(size as u32), Some(peer.inbound.drain(..size).collect()))
            }
            (true, Some(End::Finished)) => (Ok(0), None),
            (true, Some(End::Reset)) => (Err(Errno::CONNRESET), None),
            (true, None) => (Err(Errno::AGAIN), None),
        };
        ReadOutcome { result, bytes, socket_has_more: !peer.inbound.is_empty() }
    }

    pub(super) fn cancel(&mut self, target: UserData) -> bool {
        if let Some(at) = self.accepting.iter().position(|user_data| *user_data == target) {
            self.accepting.remove(at);
            self.complete(target, Err(Errno::CANCELED));
            return true;
        }
        let mut found = false;
        for peer in self.sockets.values_mut() {
            if peer.receive == Some(target) {
                peer.receive = None;
                found = true;
            }
            if peer.sending.as_ref().is_some_and(|(user_data, _)| *user_data == target) {
                // The bytes are not needed any more; take_rest returns an empty buffer.
                peer.sending = None;
                found = true;
            }
        }
        if found {
            self.complete(target, Err(Errno::CANCELED));
        }
        found
    }
}

impl Peer {
    /// Takes what the window lets through; a peer that has reset takes nothing.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        if self.inbound_end == Some(End::Reset) {
            return 0;
        }
        let taken = bytes.len().min(self.window.unwrap_or(usize::MAX));
        self.outbound.extend_from_slice(&bytes[..taken]);
        if let Some(window) = &mut self.window {
            *window -= taken;
        }
        taken
    }
}
