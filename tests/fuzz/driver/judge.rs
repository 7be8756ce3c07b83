//! What rustls says about a stream, and in which cases we differ from it.
//!
//! rustls gets the stream record by record. So for each difference that is right we know the record
//! at which it begins, and can say what our record layer must do there.

use super::plan::{KEY_UPDATE_HEADER, Plan, content};
use super::session::Session;
use exo_ingest::tls::TlsFailure;
use exo_ingest::tls::records::{HEADER_SIZE, record_size};
use rustls::{Error, InvalidMessage, PeerMisbehaved, ServerConnection};
use std::io::{Read, Write};

/// What the server sends after a stream.
pub const REPLY: &[u8] = b"reply";

/// Most records in a row without payload.
const QUIET_RECORDS_MAX: usize = 32;

/// Alerts (RFC 8446 §6).
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;
const LEVELS: [u8; 2] = [1, 2];

/// What our record layer must return.
#[derive(Debug)]
pub struct Verdict {
    pub data: Vec<u8>,
    pub ending: Ending,
    /// So many bytes of the stream count. After them rustls and we may go different ways.
    pub size: usize,
    /// What must be sent, if it has to be the same.
    pub sent: Option<Vec<u8>>,
}

/// How it must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// More may come.
    Open,
    /// `close_notify` has come.
    Closed,
    /// By a failure; `None` for any.
    Failed(Option<TlsFailure>),
}

/// Gives a stream to rustls.
pub fn judge(session: &Session, plan: &Plan) -> Verdict {
    let (mut server, mut following) = (session.server(), Following::default());
    let (mut data, mut at) = (Vec::new(), 0);
    let stream = &plan.stream;
    let verdict = |data, ending, size, sent| Verdict { data, ending, size, sent };
    while let Some(header) = stream[at..].first_chunk::<HEADER_SIZE>() {
        if let Some(failure) = refused_at_header(session, header) {
            return verdict(data, Ending::Failed(Some(failure)), stream.len(), None);
        }
        let end = at + HEADER_SIZE + usize::from(u16::from_be_bytes([header[3], header[4]]));
        // We wait for the rest of a record, and so does rustls.
        let Some(record) = stream.get(at..end) else { break };
        // RFC 8446 §5.2: the header is authenticated. rustls takes the header that should be there.
        if session.is_new() && header[1..3] != [3, 3] {
            let failure = Some(TlsFailure::BadRecordMac);
            return verdict(data, Ending::Failed(failure), stream.len(), None);
        }
        at = end;
        let outcome = give(&mut server, record, &mut data);
        let content = plan.contents.get(record).map(|(kind, content)| (*kind, &content[..]));
        match outcome {
            Ok(Gave::Closed) => {
                let sent = Some(reply(&mut server));
                return verdict(data, Ending::Closed, stream.len(), sent);
            }
            Ok(gave) => {
                if let Some(failure) = following.refuses(session, gave, content) {
                    return verdict(data, Ending::Failed(Some(failure)), stream.len(), None);
                }
            }
            Err(error) => {
                if let Some(ending) = goes_on(session, &error, content) {
                    return verdict(data, ending, at, None);
                }
                let failure = following.same_failure(session, &error, content);
                let sent = following.same_alert(&error).then(|| drain(&mut server));
                return verdict(data, Ending::Failed(failure), stream.len(), sent);
            }
        }
    }
    let sent = Some(reply(&mut server));
    verdict(data, Ending::Open, stream.len(), sent)
}

/// What rustls gave for a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gave {
    Payload,
    Nothing,
    Closed,
}

fn give(
    server: &mut ServerConnection,
    mut record: &[u8],
    data: &mut Vec<u8>,
) -> Result<Gave, Error> {
    let before = data.len();
    let mut outcome = Ok(false);
    while !record.is_empty() && outcome.is_ok() {
        server.read_tls(&mut record).expect("memory is read");
        outcome = server.process_new_packets().map(|state| state.peer_has_closed());
        let _ = server.reader().read_to_end(data);
    }
    Ok(match outcome? {
        true => Gave::Closed,
        false if data.len() > before => Gave::Payload,
        false => Gave::Nothing,
    })
}

/// We refuse some records at their header, and rustls when they are whole.
fn refused_at_header(session: &Session, header: &[u8; HEADER_SIZE]) -> Option<TlsFailure> {
    // RFC 8446 §5.2: after the handshake the outer type is always "data". rustls does not look at
    // it.
    let is_known = match session.is_new() {
        true => header[0] == content::DATA,
        false => (content::ALERT..=content::DATA).contains(&header[0]),
    };
    if !is_known {
        return Some(TlsFailure::UnexpectedMessage);
    }
    // RFC 8446 §5.2 allows 256 bytes more than a payload, and AEAD suites of TLS 1.2 add less.
    // rustls allows 2,048, as RFC 5246 §6.2.3 does for suites of other kinds.
    record_size(header).is_none().then_some(TlsFailure::RecordOverflow)
}

/// rustls fails at an alert, and we do not.
fn goes_on(session: &Session, error: &Error, content: Option<(u8, &[u8])>) -> Option<Ending> {
    let Some((content::ALERT, &[level, description])) = content else { return None };
    // It ends after four warnings. We count them with the other records that carry no payload.
    let is_fifth = *error == Error::PeerMisbehaved(PeerMisbehaved::TooManyWarningAlertsReceived);
    let is_refused = matches!(error, Error::AlertReceived(_));
    // The peer closes, whatever the level is: to fail would say that data may be missing.
    if is_refused && description == CLOSE_NOTIFY && !LEVELS.contains(&level) {
        return Some(Ending::Closed);
    }
    // RFC 8446 §6: the level can be ignored. rustls wants user_canceled to be a warning.
    if is_refused && description == USER_CANCELED && session.is_new() {
        return Some(Ending::Open);
    }
    is_fifth.then_some(Ending::Open)
}

/// What we count, and rustls does not or not in the same way.
#[derive(Default)]
struct Following {
    /// Records in a row without payload.
    quiet: usize,
    /// The bytes so far of a handshake message.
    message: Vec<u8>,
    /// The peer has asked for a KeyUpdate.
    answer_due: bool,
}

impl Following {
    /// rustls accepts a record. Returns why we refuse it, if we do.
    fn refuses(
        &mut self,
        session: &Session,
        gave: Gave,
        content: Option<(u8, &[u8])>,
    ) -> Option<TlsFailure> {
        if let Some((content::HANDSHAKE, content)) = content {
            let failure = self.refuses_message(session, content);
            if failure.is_some() {
                return failure;
            }
        }
        // rustls has a count of its own for empty records, for warnings, and for KeyUpdates. A
        // record without payload costs us the same, whatever it is.
        self.quiet = if gave == Gave::Payload { 0 } else { self.quiet + 1 };
        (self.quiet > QUIET_RECORDS_MAX).then_some(TlsFailure::UnexpectedMessage)
    }

    fn refuses_message(&mut self, session: &Session, content: &[u8]) -> Option<TlsFailure> {
        // A hello would begin a renegotiation. rustls refuses it by a warning, once (RFC 5746 §4.5
        // allows both), and waits for the end of longer messages.
        if !session.is_new() {
            return Some(TlsFailure::Renegotiation);
        }
        // RFC 8446 §5.1: a fragment of a handshake message has at least one byte. rustls drops it.
        if content.is_empty() {
            return Some(TlsFailure::UnexpectedMessage);
        }
        self.message.extend_from_slice(content);
        // No other message may come. We refuse it at its first byte, and rustls at its last.
        if self.message[0] != KEY_UPDATE_HEADER[0] {
            return Some(TlsFailure::UnexpectedMessage);
        }
        let (header, rest) = self.message.split_first_chunk()?;
        match *rest {
            // The same for a wrong length, when all of it has come.
            _ if *header != KEY_UPDATE_HEADER => Some(TlsFailure::DecodeError),
            [] => None,
            [last] => {
                self.answer_due |= last == 1;
                self.message.clear();
                None
            }
            // RFC 8446 §5.1: nothing may follow it in its record.
            _ => Some(TlsFailure::UnexpectedMessage),
        }
    }

    /// rustls fails. Returns our failure, if it is always the same.
    fn same_failure(
        &mut self,
        session: &Session,
        error: &Error,
        content: Option<(u8, &[u8])>,
    ) -> Option<TlsFailure> {
        match error {
            Error::DecryptError => return Some(TlsFailure::BadRecordMac),
            Error::PeerSentOversizedRecord => return Some(TlsFailure::RecordOverflow),
            Error::AlertReceived(_) => return Some(TlsFailure::PeerAlert),
            // Found in the header. We find it with the tag.
            Error::InvalidMessage(
                InvalidMessage::UnknownProtocolVersion | InvalidMessage::InvalidEmptyPayload,
            ) => return Some(TlsFailure::BadRecordMac),
            _ => {}
        }
        match content {
            Some((content::HANDSHAKE, content)) => {
                if let Some(failure) = self.refuses_message(session, content) {
                    return Some(failure);
                }
            }
            // RFC 8446 §5.4. rustls answers with another alert.
            Some((content::ALERT, [])) => return Some(TlsFailure::UnexpectedMessage),
            _ => {}
        }
        match error {
            Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::PeerMisbehaved(_)
            | Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                Some(TlsFailure::UnexpectedMessage)
            }
            Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => {
                Some(TlsFailure::IllegalParameter)
            }
            Error::InvalidMessage(_) => Some(TlsFailure::DecodeError),
            _ => None,
        }
    }

    /// Whether rustls sends the same alert, sealed with the same keys.
    fn same_alert(&self, error: &Error) -> bool {
        // rustls sends an answer before its alert, and we do not: so the alert has other keys.
        !self.answer_due && matches!(error, Error::DecryptError | Error::PeerSentOversizedRecord)
    }
}

/// What a server sends that has not failed: answers that are due, a payload, `close_notify`.
fn reply(server: &mut ServerConnection) -> Vec<u8> {
    server.writer().write_all(REPLY).expect("memory takes all");
    server.send_close_notify();
    drain(server)
}

fn drain(server: &mut ServerConnection) -> Vec<u8> {
    let mut sent = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut sent).expect("memory takes all");
    }
    sent
}
