//! What a session still has to send to its peer, and in which order.
//!
//! The debts are numbers and flags, so a peer that sends without reading makes nothing grow here.
//! They are: the number of `started`, the last frame to ack, the payload of the latest ping, and
//! whether a ping of ours is due. They are sent in the order below; a message that was begun is
//! finished first.
//!
//! ```text
//! begun ► started ► pong ► ping ► acks, each tenth frame ► close frames: [stopped] [error] Close
//! ```

#![forbid(unsafe_code)]

use crate::constants::{ACK_INTERVAL_FRAMES, CONTROL_PAYLOAD_SIZE_MAX};
use crate::proto::close::Closing;
use crate::proto::event::{self, ACK_TEXT_SIZE_MAX, Stopped};
use crate::proto::frame::{Opcode, write_frame, write_header};

/// Largest frame header that we send, bytes.
const HEADER_SIZE_MAX: usize = 10;

/// Bytes that are sent as they are, in as many pieces as needed. Only for messages that occur once
/// or twice in a call.
#[derive(Debug)]
struct Remainder {
    bytes: Vec<u8>,
    taken: usize,
}

impl Remainder {
    fn new(bytes: Vec<u8>) -> Box<Self> {
        Box::new(Remainder { bytes, taken: 0 })
    }

    /// Moves what fits to the start of `out`; returns how much.
    fn give(&mut self, out: &mut [u8]) -> usize {
        let rest = &self.bytes[self.taken..];
        let size = rest.len().min(out.len());
        out[..size].copy_from_slice(&rest[..size]);
        self.taken += size;
        size
    }

    fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }
}

/// The payload of a ping that must be answered.
#[derive(Debug)]
struct PongOwed {
    size: u8,
    payload: [u8; CONTROL_PAYLOAD_SIZE_MAX],
}

/// What a session still has to send to its peer.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// The last frame whose ack was written; a multiple of the ACK interval.
    acked: u64,
    /// The last frame whose ack is owed; also a multiple, and at least `acked`.
    ack_owed: u64,
    begun: Option<Box<Remainder>>,
    pong: Option<Box<PongOwed>>,
    close_frames: Option<Box<Remainder>>,
    started_owed: u32,
    ping_owed: bool,
    /// The close frames wait for acks that are not owed yet.
    are_close_frames_held: bool,
}

impl Outbox {
    /// One more `started`, because each `start` is answered.
    pub(super) fn owe_started(&mut self) {
        self.started_owed = self.started_owed.saturating_add(1);
    }

    /// Owes the acks of all frames up to `seq`; returns how many are new.
    pub(super) fn owe_acks(&mut self, seq: u64) -> u64 {
        let owed = seq - seq % ACK_INTERVAL_FRAMES;
        let new = owed.saturating_sub(self.ack_owed);
        self.ack_owed += new;
        new / ACK_INTERVAL_FRAMES
    }

    /// The last frame whose ack was written, and the last one whose ack is owed.
    pub(super) fn acks(&self) -> (u64, u64) {
        (self.acked, self.ack_owed)
    }

    /// Owes a pong with this payload. It replaces a pong that was not sent yet (RFC 6455 §5.5.3).
    pub(super) fn owe_pong(&mut self, payload: &[u8]) {
        let size = payload.len().min(CONTROL_PAYLOAD_SIZE_MAX);
        let fresh = || Box::new(PongOwed { size: 0, payload: [0; CONTROL_PAYLOAD_SIZE_MAX] });
        let pong = self.pong.get_or_insert_with(fresh);
        pong.payload[..size].copy_from_slice(&payload[..size]);
        pong.size = size as u8;
    }

    /// Owes a ping of ours; at most one at a time.
    pub(super) fn owe_ping(&mut self) {
        self.ping_owed = true;
    }

    /// Owes the last bytes. What is already owed goes first, except a ping of ours, because its
    /// answer would not be read. A pong is still sent (RFC 6455 §5.5.2), because its ping came
    /// before we decided to close.
    pub(super) fn owe_close_frames(&mut self, close_frames: Vec<u8>) {
        self.close_frames = Some(Remainder::new(close_frames));
        self.ping_owed = false;
    }

    /// Like [`Outbox::owe_close_frames`], but the close frames wait for
    /// [`Outbox::release_close_frames`]: acks may still be added.
    pub(super) fn hold_close_frames(&mut self, close_frames: Vec<u8>) {
        self.owe_close_frames(close_frames);
        self.are_close_frames_held = true;
    }

    /// Holds the close frames no longer.
    pub(super) fn release_close_frames(&mut self) {
        self.are_close_frames_held = false;
    }

    /// Drops what is owed and keeps what was acked: the connection is gone, or the peer's time is
    /// over.
    pub(super) fn clear(&mut self) {
        *self = Outbox { acked: self.acked, ack_owed: self.acked, ..Outbox::default() };
    }

    /// Whether [`Outbox::transmit`] has something to do.
    #[inline]
    pub(super) fn has_output(&self) -> bool {
        self.acked < self.ack_owed
            || self.begun.is_some()
            || self.started_owed > 0
            || self.pong.is_some()
            || self.ping_owed
            || (self.close_frames.is_some() && !self.are_close_frames_held)
    }

    /// Writes what is owed and fits to the start of `out`. Returns its length, and whether the last
    /// byte of the close frames is written.
    pub(super) fn transmit(&mut self, interaction_id: &str, out: &mut [u8]) -> (usize, bool) {
        let mut size = 0;
        loop {
            if let Some(begun) = &mut self.begun {
                size += begun.give(&mut out[size..]);
                if !begun.is_empty() {
                    return (size, false);
                }
                self.begun = None;
            }
            if self.started_owed == 0 {
                break;
            }
            self.started_owed -= 1;
            self.begun = Some(Remainder::new(started_frame(interaction_id)));
        }
        let (written, fitted) = self.transmit_frames(&mut out[size..]);
        size += written;
        if let (true, Some(close_frames)) =
            (fitted && !self.are_close_frames_held, &mut self.close_frames)
        {
            size += close_frames.give(&mut out[size..]);
            return (size, close_frames.is_empty());
        }
        (size, false)
    }

    /// Pong, ping and acks, only as whole frames. Also returns whether all of them fitted.
    fn transmit_frames(&mut self, out: &mut [u8]) -> (usize, bool) {
        let mut size = 0;
        if let Some(pong) = &self.pong {
            let Some(written) =
                write_frame(Opcode::Pong, &pong.payload[..usize::from(pong.size)], out)
            else {
                return (size, false);
            };
            size += written;
            self.pong = None;
        }
        if self.ping_owed {
            let Some(written) = write_frame(Opcode::Ping, &[], &mut out[size..]) else {
                return (size, false);
            };
            size += written;
            self.ping_owed = false;
        }
        while self.acked < self.ack_owed {
            let mut text = [0; ACK_TEXT_SIZE_MAX];
            let text_size = event::write_ack(self.acked + ACK_INTERVAL_FRAMES, &mut text);
            let Some(written) = write_frame(Opcode::Text, &text[..text_size], &mut out[size..])
            else {
                return (size, false);
            };
            size += written;
            self.acked += ACK_INTERVAL_FRAMES;
        }
        (size, true)
    }
}

fn started_frame(interaction_id: &str) -> Vec<u8> {
    let mut text = Vec::new();
    event::push_started(interaction_id, &mut text);
    let mut frame = Vec::with_capacity(HEADER_SIZE_MAX + text.len());
    push_frame(Opcode::Text, &text, &mut frame);
    frame
}

/// The frames of a Close that we decide on, with the error event before it if there is one.
/// `message` overrides the usual message.
pub(super) fn refusal_frames(closing: Closing, message: Option<&str>) -> Vec<u8> {
    let mut frames = Vec::new();
    if closing.has_event() {
        let message = message.unwrap_or(closing.message());
        let mut text = Vec::new();
        event::push_error(
            closing.event_code(),
            closing.reason(),
            message,
            closing.is_retryable(),
            &mut text,
        );
        push_frame(Opcode::Text, &text, &mut frames);
    }
    push_close(Some(closing.code()), closing.reason(), &mut frames);
    frames
}

/// The frames at the normal end of a call: `stopped`, if the peer asked for it, and a Close with
/// `code`.
pub(super) fn closing_frames(stopped: Option<&Stopped<'_>>, code: Option<u16>) -> Vec<u8> {
    let mut frames = Vec::new();
    if let Some(stopped) = stopped {
        let mut text = Vec::new();
        event::push_stopped(stopped, &mut text);
        push_frame(Opcode::Text, &text, &mut frames);
    }
    push_close(code, "", &mut frames);
    frames
}

/// RFC 6455 §5.5.1: a Close without a code has no text either.
fn push_close(code: Option<u16>, reason: &str, out: &mut Vec<u8>) {
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
    }
    push_frame(Opcode::Close, &payload, out);
}

fn push_frame(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    let mut header = [0; HEADER_SIZE_MAX];
    let header_size = write_header(opcode, payload.len(), &mut header);
    out.extend_from_slice(&header[..header_size]);
    out.extend_from_slice(payload);
}

#[cfg(test)]
impl Outbox {
    /// Bytes held on the heap.
    pub(super) fn size_on_heap(&self) -> usize {
        let remainders = [&self.begun, &self.close_frames].into_iter().flatten();
        let remainders: usize =
            remainders.map(|remainder| size_of::<Remainder>() + remainder.bytes.capacity()).sum();
        remainders + self.pong.iter().map(|_| size_of::<PongOwed>()).sum::<usize>()
    }
}
