//! Gives the bytes of a connection to what takes them in its stage: the PROXY header, the head
//! buffer, or the decoder and the session. [`receive`](super::receive) does what follows from them.
#![forbid(unsafe_code)]

use super::connections::{Connection, Early, Open, Stage};
use super::latency_recorder::LatencyRecorder;
use super::timing::Micros32;
use crate::clock::Now;
use crate::proto::frame::{FrameLimits, WsEvent};
use crate::proto::handshake::{Answer, Refusal};
use crate::proto::http::HeadProgress;
use crate::proto::proxy::{self, Fault, Progress};
use crate::session::{Context, Session};

/// What follows from bytes that were fed, beyond the state of the connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fed {
    Nothing,
    /// The PROXY header is complete, and has taken so many of the bytes.
    ProxyHeader {
        taken: usize,
    },
    /// The connection does not begin with the PROXY header that it needs.
    ProxyRefused(Fault),
    /// The request head is complete, and waits to be judged.
    HeadComplete,
    /// The request is answered already.
    HeadRefused(Refusal),
}

impl<S> Connection<S> {
    /// Takes in bytes of a PROXY header, which may come byte by byte.
    pub(super) fn take_proxy_header(&mut self, bytes: &[u8]) -> Fed {
        let before = self.early.len();
        let room = proxy::HEADER_SIZE_MAX.saturating_sub(before);
        self.early.extend_from_slice(&bytes[..bytes.len().min(room)]);
        match proxy::parse(self.early.bytes()) {
            Progress::Incomplete => Fed::Nothing,
            Progress::Refused(fault) => Fed::ProxyRefused(fault),
            Progress::Complete { size, source } => {
                self.awaits_proxy = false;
                self.early = Early::default();
                if let Some(source) = source {
                    self.origin.peer = source.into();
                }
                Fed::ProxyHeader { taken: size.saturating_sub(before).min(bytes.len()) }
            }
        }
    }
}

/// What feeding a connection's bytes needs.
pub(super) struct Feeder<'a> {
    pub(crate) now: Now,
    pub(crate) frame_limits: &'a FrameLimits,
    pub(crate) latency: &'a mut LatencyRecorder,
    /// When the bytes came.
    pub(crate) reaped: Micros32,
    pub(crate) context: Context<'a>,
}

impl Feeder<'_> {
    /// Feeds bytes to what the stage of the connection has for them.
    pub(crate) fn feed<S: Session>(
        &mut self,
        connection: &mut Connection<S>,
        bytes: &mut [u8],
    ) -> Fed {
        match &mut connection.stage {
            Stage::Head(buffer) => {
                let (taken, progress) = buffer.push(bytes);
                match progress {
                    HeadProgress::Incomplete => {}
                    HeadProgress::Complete => {
                        connection.early.extend_from_slice(&bytes[taken..]);
                        connection.stage = Stage::Waiting(std::mem::take(buffer));
                        return Fed::HeadComplete;
                    }
                    HeadProgress::Refused(refusal) => {
                        connection.answer(Answer::refused(refusal, false));
                        return Fed::HeadRefused(refusal);
                    }
                }
            }
            Stage::Waiting(_) => connection.early.extend_from_slice(bytes),
            Stage::Open(open) if !open.session.is_deaf() => {
                decode(open, &mut connection.message_since, bytes, self);
            }
            Stage::Open(_) | Stage::Done => {
                connection.discarded = connection.discarded.saturating_add(bytes.len() as u32);
            }
        }
        Fed::Nothing
    }
}

/// The hot loop: frames out of received bytes, into the session. `message_since` is when the
/// message under way began to come in.
fn decode<S: Session>(
    open: &mut Open<S>,
    message_since: &mut Micros32,
    bytes: &mut [u8],
    feeder: &mut Feeder<'_>,
) {
    let Feeder { now, frame_limits, latency, reaped, context } = feeder;
    let mut at = 0;
    while at < bytes.len() && !open.deaf {
        match open.decoder.decode(&mut bytes[at..], frame_limits) {
            Ok((taken, event)) => {
                at += taken;
                match event {
                    Some(WsEvent::Data(piece)) => {
                        if piece.first {
                            *message_since = *reaped;
                        }
                        if open.session.handle_data(*now, piece, context) {
                            latency.handle_frame(*message_since);
                        }
                    }
                    Some(WsEvent::Control(control)) => {
                        open.session.handle_control(*now, control, context)
                    }
                    None => {}
                }
            }
            Err(violation) => {
                open.deaf = true;
                open.session.handle_violation(*now, violation, context);
            }
        }
    }
}
