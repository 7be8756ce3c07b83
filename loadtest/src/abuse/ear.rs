//! Reads what the node sends to a hostile peer, to learn how it ends the connection.

#![forbid(unsafe_code)]

use tungstenite::protocol::Message;

use super::ending::Ending;
use crate::event::{self, Event};
use crate::failure::{Failure, Reason};
use crate::target::Target;
use crate::wire::{Link, Upgrade};

/// First byte of a TLS record that holds an alert (RFC 8446 §5.1).
const ALERT: u8 = 21;

/// The reader. Call contract: give `handle_bytes` the bytes of the socket until it returns an
/// ending.
pub struct Ear {
    state: State,
    /// Whether `started` has come.
    pub is_started: bool,
    /// The highest ack so far.
    pub acked: u64,
}

enum State {
    /// Waits for an HTTP answer, or for other bytes.
    Raw(Vec<u8>),
    Upgrading(Box<Upgrade>),
    Open(Box<Link>),
}

impl Ear {
    /// For a peer that does not send a whole upgrade request.
    pub fn raw() -> Self {
        Self::new(State::Raw(Vec::new()))
    }

    /// For a peer that upgrades. The bytes are its request.
    pub fn upgrading(target: &Target, token: &str) -> Result<(Self, Vec<u8>), Ending> {
        let (upgrade, request) =
            Upgrade::begin(target, token).map_err(|failure| ending_of(&failure))?;
        Ok((Self::new(State::Upgrading(Box::new(upgrade))), request))
    }

    fn new(state: State) -> Self {
        Self { state, is_started: false, acked: 0 }
    }

    /// Takes bytes from the node. Returns the ending, once a message has ended the connection.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Option<Ending> {
        match &mut self.state {
            State::Raw(heard) => {
                heard.extend_from_slice(bytes);
                return ending_in(heard);
            }
            State::Upgrading(upgrade) => match upgrade.handle_bytes(bytes) {
                Ok(Some(link)) => self.state = State::Open(Box::new(link)),
                Ok(None) => return None,
                Err(failure) => return Some(ending_of(&failure)),
            },
            State::Open(link) => link.handle_bytes(bytes),
        }
        self.poll_messages()
    }

    /// Whether the upgrade is done.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    fn poll_messages(&mut self) -> Option<Ending> {
        let State::Open(link) = &mut self.state else { return None };
        loop {
            match link.poll_message() {
                Ok(Some(Message::Close(close))) => {
                    return Some(Ending::Close(close.map_or(1005, |close| u16::from(close.code))));
                }
                Ok(Some(Message::Text(text))) => match event::parse(&text) {
                    Ok(Event::Started { .. }) => self.is_started = true,
                    Ok(Event::Ack { seq }) => self.acked = self.acked.max(seq),
                    _ => {}
                },
                // The codec makes pongs. They are thrown away: a hostile peer does not answer.
                Ok(Some(_)) => drop(link.take_output()),
                Ok(None) => return None,
                Err(failure) => return Some(Ending::Odd(failure.detail)),
            }
        }
    }
}

/// The ending of a failed upgrade.
fn ending_of(failure: &Failure) -> Ending {
    match failure.reason {
        Reason::Refused(status) => Ending::Status(status),
        _ => Ending::Odd(failure.detail.clone()),
    }
}

/// The ending in a node's first bytes: `HTTP/1.1 408 …`, or a TLS alert in the clear.
fn ending_in(heard: &[u8]) -> Option<Ending> {
    if heard.first() == Some(&ALERT) {
        return heard.get(6).map(|description| Ending::Alert(*description));
    }
    let status = heard.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    status.map(Ending::Status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_alerts_are_heard_however_they_are_cut() {
        let answers: [(&[u8], Ending); 2] = [
            (b"HTTP/1.1 408 Request Timeout\r\n\r\n", Ending::Status(408)),
            (&[21, 3, 3, 0, 2, 2, 70], Ending::Alert(70)),
        ];
        for (answer, ending) in answers {
            for split in 0..answer.len() {
                let mut ear = Ear::raw();
                let found = ear
                    .handle_bytes(&answer[..split])
                    .or_else(|| ear.handle_bytes(&answer[split..]));
                assert_eq!(found.as_ref(), Some(&ending), "{split}");
            }
        }
    }

    #[test]
    fn a_refused_upgrade_tells_its_status() {
        let target = Target::parse("ws://127.0.0.1:1/v1/ingest").unwrap();
        let (mut ear, request) = Ear::upgrading(&target, "a.b.c").unwrap();
        assert!(request.starts_with(b"GET /v1/ingest HTTP/1.1\r\n"));
        let answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(ear.handle_bytes(answer), Some(Ending::Status(401)));
    }
}
