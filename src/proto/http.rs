//! HTTP/1.1 request heads: collected within limits, parsed strictly (RFC 9112).
//!
//! Where the RFC allows a lenient recipient (bare LF, obs-fold, space before the colon), we refuse.
//! Two implementations in a row may read such bytes differently, and that is how requests are
//! smuggled. This module knows the syntax of a request and that it must not have a body.
//! [`super::handshake`] decides the answer.

#![forbid(unsafe_code)]

use super::refusal::Refusal;
use crate::constants::{HEAD_FIELDS_MAX, HEAD_SIZE_MAX};

/// Empty lines that are tolerated before a request line (RFC 9112 §2.2 asks for at least one).
const LEADING_LINES_MAX: u8 = 4;

/// First allocation of a head, bytes. It is enough for a health check; an upgrade with a token
/// doubles it twice.
const HEAD_CAPACITY_MIN: usize = 512;

/// Collects a request head as it arrives, however it is cut.
///
/// Each byte is read once when it arrives, and each line once when it ends. So the cost of a head
/// is linear in its size, even if it arrives byte by byte. What is refused, and at which byte,
/// depends on the bytes alone. Memory grows with the head, from 512 bytes to [`HEAD_SIZE_MAX`], and
/// nothing is allocated before the first byte. Drop the buffer after the head was judged.
///
/// ```
/// use exo_ingest::proto::http::{HeadBuffer, HeadProgress};
///
/// let mut buffer = HeadBuffer::default();
/// assert_eq!(buffer.push(b"GET /health HTTP/1.1\r\nHos"), (25, HeadProgress::Incomplete));
/// // The two bytes after the head belong to the next protocol.
/// assert_eq!(buffer.push(b"t: node\r\n\r\n\x82\x80"), (11, HeadProgress::Complete));
/// assert_eq!(buffer.head().unwrap().path, "/health");
/// ```
#[derive(Debug, Default)]
pub struct HeadBuffer {
    bytes: Vec<u8>,
    /// Where the current line starts. At most [`HEAD_SIZE_MAX`], like everything that indexes
    /// `bytes`.
    line_start: usize,
    /// Where the request line starts, after empty lines.
    head_start: usize,
    empty_lines: u8,
    fields: u8,
    in_fields: bool,
    finished: Option<Finish>,
}

/// How a head ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finish {
    Complete,
    Refused(Refusal),
}

/// Effect of a piece of input on a head.
#[derive(Debug, PartialEq, Eq)]
pub enum HeadProgress {
    /// All input was taken; the head is not complete.
    Incomplete,
    /// The head is complete: parse it with [`HeadBuffer::head`].
    Complete,
    /// It cannot become an acceptable head: answer with this refusal and close. Detected as early
    /// as the bytes allow.
    Refused(Refusal),
}

impl HeadBuffer {
    /// Takes bytes up to the end of the head, or up to the byte that makes it invalid; returns how
    /// many. Bytes after a complete head belong to the next protocol. After completion or refusal
    /// it takes nothing and returns the same result.
    pub fn push(&mut self, input: &[u8]) -> (usize, HeadProgress) {
        if let Some(finish) = self.finished {
            return (0, finish.progress());
        }
        let scanned = self.bytes.len();
        let room = HEAD_SIZE_MAX - scanned;
        self.append(&input[..input.len().min(room)]);
        self.finished = self.scan(scanned);
        match self.finished {
            Some(finish) => (self.bytes.len() - scanned, finish.progress()),
            None => (input.len(), HeadProgress::Incomplete),
        }
    }

    /// Whether the complete head asks for exactly this path; decided from its first line alone.
    pub(crate) fn asks_for(&self, path: &str) -> bool {
        let line = self.bytes.get(self.head_start..).unwrap_or_default();
        let target =
            line.strip_prefix(b"GET ").or_else(|| line.strip_prefix(b"HEAD ")).unwrap_or_default();
        target.strip_prefix(path.as_bytes()).is_some_and(|rest| matches!(rest, [b' ' | b'?', ..]))
    }

    /// Whether no byte of a request has arrived yet: such a connection may be closed without an
    /// answer.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// At most doubles, and never beyond [`HEAD_SIZE_MAX`]. The growth of `Vec` would exceed it,
    /// and there may be 10,000 heads.
    fn append(&mut self, input: &[u8]) {
        let needed = self.bytes.len() + input.len();
        if needed > self.bytes.capacity() {
            let capacity = needed.next_power_of_two().clamp(HEAD_CAPACITY_MIN, HEAD_SIZE_MAX);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(input);
    }

    /// Reads the bytes from `scanned` on; if they complete the head, drops the bytes after it.
    fn scan(&mut self, scanned: usize) -> Option<Finish> {
        let mut at = scanned;
        // The CR that ended the previous piece.
        let cut_after_cr = scanned > 0 && self.bytes[scanned - 1] == b'\r';
        if cut_after_cr && self.bytes.get(scanned).is_some_and(|&byte| byte != b'\n') {
            return self.finish(scanned + 1, Finish::Refused(Refusal::BadRequest));
        }
        loop {
            // RFC 9112 §3.1: a request starts with a token. TLS on a plain port is refused at its
            // first byte.
            let opens_badly = self
                .bytes
                .get(self.line_start)
                .is_some_and(|&byte| !is_token_byte(byte) && byte != b'\r');
            if !self.in_fields && opens_badly {
                return self.finish(self.line_start + 1, Finish::Refused(Refusal::BadRequest));
            }
            let Some(found) = find_control(&self.bytes[at..]) else { break };
            let position = at + found;
            at = position + 1;
            let after_cr = position > 0 && self.bytes[position - 1] == b'\r';
            match self.bytes[position] {
                // LF must come next. If it has not arrived yet, it is checked when it does.
                b'\r' => match self.bytes.get(at) {
                    Some(b'\n') | None => {}
                    Some(_) => return self.finish(at + 1, Finish::Refused(Refusal::BadRequest)),
                },
                b'\n' if after_cr => {
                    if let Some(finish) = self.end_line(position - 1) {
                        return self.finish(at, finish);
                    }
                    self.line_start = at;
                }
                _ => return self.finish(at, Finish::Refused(Refusal::BadRequest)),
            }
        }
        (self.bytes.len() == HEAD_SIZE_MAX).then_some(Finish::Refused(Refusal::HeadTooLarge))
    }

    /// The line from `line_start` to its CR at `end` is complete.
    fn end_line(&mut self, end: usize) -> Option<Finish> {
        let line = &self.bytes[self.line_start..end];
        if line.is_empty() {
            if self.in_fields {
                return Some(Finish::Complete);
            }
            self.empty_lines += 1;
            self.head_start = end + 2;
            return (self.empty_lines > LEADING_LINES_MAX)
                .then_some(Finish::Refused(Refusal::BadRequest));
        }
        if self.in_fields {
            self.fields += 1;
            if !is_field_line(line) {
                return Some(Finish::Refused(Refusal::BadRequest));
            }
            return (usize::from(self.fields) > HEAD_FIELDS_MAX)
                .then_some(Finish::Refused(Refusal::HeadTooLarge));
        }
        self.in_fields = true;
        (!is_request_line(line)).then_some(Finish::Refused(Refusal::BadRequest))
    }

    fn finish(&mut self, end: usize, finish: Finish) -> Option<Finish> {
        self.bytes.truncate(end);
        Some(finish)
    }

    /// Parses the complete head; an error is the answer to send (400 or 431). An incomplete head is
    /// an error.
    pub fn head(&self) -> Result<Head<'_>, Refusal> {
        match self.finished {
            Some(Finish::Complete) => Head::parse(&self.bytes[self.head_start..]),
            Some(Finish::Refused(refusal)) => Err(refusal),
            None => Err(Refusal::BadRequest),
        }
    }
}

const _: () = assert!(HEAD_FIELDS_MAX < u8::MAX as usize && HEAD_SIZE_MAX.is_power_of_two());

impl Finish {
    fn progress(self) -> HeadProgress {
        match self {
            Finish::Complete => HeadProgress::Complete,
            Finish::Refused(refusal) => HeadProgress::Refused(refusal),
        }
    }
}

/// A field that may appear once in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Single<'a> {
    /// Not there.
    #[default]
    Absent,
    /// Present once: its value, without surrounding white space. May contain bytes over 0x7f.
    Once(&'a [u8]),
    /// Present more than once.
    Repeated,
}

impl<'a> Single<'a> {
    fn add(&mut self, value: &'a [u8]) {
        *self = match self {
            Single::Absent => Single::Once(value.trim_ascii()),
            _ => Single::Repeated,
        };
    }
}

/// A syntactically valid request head without a body.
#[derive(Debug)]
pub struct Head<'a> {
    /// As sent; methods are case-sensitive.
    pub method: &'a str,
    /// Path without the query, percent-encoding as sent. Only the plain spelling of a route names
    /// that route.
    pub path: &'a str,
    /// HTTP/1.0: its `Upgrade` is ignored (RFC 9110 §7.8).
    pub is_http_1_0: bool,
    /// `Upgrade` names `websocket`.
    pub upgrade_websocket: bool,
    /// `Connection` names `upgrade`.
    pub connection_upgrade: bool,
    /// `Sec-WebSocket-Version`
    pub websocket_version: Single<'a>,
    /// `Sec-WebSocket-Key`
    pub websocket_key: Single<'a>,
    /// `Origin`
    pub origin: Single<'a>,
    /// `traceparent`
    pub traceparent: Single<'a>,
    /// `Authorization`; a head with two of them is invalid.
    pub authorization: Option<&'a [u8]>,
}

impl<'a> Head<'a> {
    /// `bytes`: a whole head, from the request line to its empty line. All lines are valid:
    /// [`HeadBuffer::end_line`] has checked each when it was complete.
    fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let text = |part| std::str::from_utf8(part).map_err(|_| Refusal::BadRequest);
        let mut lines = lines(bytes);
        let [method, target, version] =
            lines.next().and_then(split_request_line).ok_or(Refusal::BadRequest)?;
        let method = text(method)?;
        let mut head = Head {
            method,
            path: path_of(method, text(target)?).ok_or(Refusal::BadRequest)?,
            is_http_1_0: version == b"HTTP/1.0",
            upgrade_websocket: false,
            connection_upgrade: false,
            websocket_version: Single::Absent,
            websocket_key: Single::Absent,
            origin: Single::Absent,
            traceparent: Single::Absent,
            authorization: None,
        };
        head.read_fields(lines)?;
        Ok(head)
    }

    fn read_fields(&mut self, lines: impl Iterator<Item = &'a [u8]>) -> Result<(), Refusal> {
        let mut host = Single::Absent;
        let mut content_length = Single::Absent;
        let mut authorization = Single::Absent;
        for line in lines {
            let (name, value) = split_field(line).ok_or(Refusal::BadRequest)?;
            // The lengths differ, so most fields cost one comparison of a length.
            let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
            if is("host") {
                host.add(value);
            } else if is("upgrade") {
                self.upgrade_websocket |= has_token(value, "websocket");
            } else if is("connection") {
                self.connection_upgrade |= has_token(value, "upgrade");
            } else if is("authorization") {
                authorization.add(value);
            } else if is("sec-websocket-key") {
                self.websocket_key.add(value);
            } else if is("sec-websocket-version") {
                self.websocket_version.add(value);
            } else if is("origin") {
                self.origin.add(value);
            } else if is("traceparent") {
                self.traceparent.add(value);
            } else if is("content-length") {
                content_length.add(value);
            } else if is("transfer-encoding") {
                return Err(Refusal::BadRequest);
            }
        }
        // `Expect: 100-continue` is ignored: it announces a body, and we accept none (RFC 9110
        // §10.1.1).
        let has_body = !matches!(content_length, Single::Absent | Single::Once(b"0"));
        // RFC 9112 §3.2: exactly one valid Host, which HTTP/1.0 may omit. It may be empty: then the
        // client knows no name for us, like a health check by address.
        let host_valid = match host {
            Single::Once(value) => value.is_empty() || is_host(value),
            Single::Absent => self.is_http_1_0,
            Single::Repeated => false,
        };
        if has_body || !host_valid {
            return Err(Refusal::BadRequest);
        }
        self.authorization = match authorization {
            Single::Absent => None,
            Single::Once(value) => Some(value),
            Single::Repeated => return Err(Refusal::BadRequest),
        };
        Ok(())
    }
}

/// The path that a request target names, depending on its form (RFC 9112 §3.2); `None` if the form
/// does not fit the method.
fn path_of<'a>(method: &str, target: &'a str) -> Option<&'a str> {
    if method == "CONNECT" {
        // Authority-form: well-formed, but none of our routes.
        return is_host(target.as_bytes()).then_some(target);
    }
    if target == "*" {
        return (method == "OPTIONS").then_some(target);
    }
    if target.starts_with('/') {
        return target.split('?').next();
    }
    // Absolute-form, as sent to proxies. Its authority replaces Host, and neither matters here.
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let authority = rest.split(['/', '?']).next()?;
    if !is_host(authority.as_bytes()) {
        return None;
    }
    match rest[authority.len()..].split('?').next()? {
        "" => Some("/"),
        path => Some(path),
    }
}

/// The lines of a whole head, up to its empty line. There, CR is only at the end of a line.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    memchr::memchr_iter(b'\r', head)
        .map(move |end| {
            let line = head.get(start..end).unwrap_or_default();
            start = end + 2;
            line
        })
        .take_while(|line| !line.is_empty())
}

/// Method, target and version, each separated by one space, and nothing else (RFC 9112 §3).
fn split_request_line(line: &[u8]) -> Option<[&[u8]; 3]> {
    let mut parts = line.split(|&byte| byte == b' ');
    let whole = [parts.next()?, parts.next()?, parts.next()?];
    parts.next().is_none().then_some(whole)
}

fn is_request_line(line: &[u8]) -> bool {
    let Some([method, target, version]) = split_request_line(line) else { return false };
    let method_valid = !method.is_empty() && method.iter().all(|&byte| is_token_byte(byte));
    let target_valid = !target.is_empty() && target.iter().all(|&byte| is_target_byte(byte));
    // A later minor version would be read as 1.1, if one existed. Other major versions are other
    // protocols.
    method_valid && target_valid && matches!(version, b"HTTP/1.1" | b"HTTP/1.0")
}

/// Visible ASCII except what RFC 3986 never allows (`"<>`), and no fragment. Browsers do send
/// `{|}^` in queries.
fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>')
}

/// The name of a field, and its value with the white space around it.
fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', line)?;
    Some((&line[..colon], &line[colon + 1..]))
}

/// A field name that is a token, directly followed by a colon (RFC 9112 §5.1): so no fold, and no
/// space before the colon. Control bytes were refused when they arrived.
fn is_field_line(line: &[u8]) -> bool {
    split_field(line)
        .is_some_and(|(name, _)| !name.is_empty() && name.iter().all(|&byte| is_token_byte(byte)))
}

/// `uri-host [":" port]` (RFC 9110 §7.2), where the host is not empty (§4.2.1).
fn is_host(value: &[u8]) -> bool {
    let (host, port) = if value.first() == Some(&b'[') {
        let Some(end) = value.iter().position(|&byte| byte == b']') else { return false };
        let literal = &value[1..end];
        let valid = literal.contains(&b':')
            && literal.iter().all(|&byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
        if !valid {
            return false;
        }
        (literal, &value[end + 1..])
    } else {
        let end = value.iter().position(|&byte| byte == b':').unwrap_or(value.len());
        value.split_at(end)
    };
    let is_name_byte =
        |&byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:".contains(&byte);
    let port_valid = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !host.is_empty() && host.iter().all(is_name_byte) && port_valid
}

/// Whether a comma-separated list of tokens contains `wanted`, in any case.
fn has_token(value: &[u8], wanted: &str) -> bool {
    value
        .split(|&byte| byte == b',')
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
}

/// Position of the first control byte. Chunks without one cost no branch per byte, because most of
/// a head is one long token.
fn find_control(bytes: &[u8]) -> Option<usize> {
    const CHUNK_SIZE: usize = 32;
    let has_control = |chunk: &[u8; CHUNK_SIZE]| {
        chunk.iter().fold(false, |found, &byte| found | is_control(byte))
    };
    let clean_size =
        bytes.as_chunks().0.iter().take_while(|chunk| !has_control(chunk)).count() * CHUNK_SIZE;
    bytes[clean_size..]
        .iter()
        .position(|&byte| is_control(byte))
        .map(|position| clean_size + position)
}

/// Bytes that are not allowed in a line: C0 controls except tab, and DEL (RFC 9110 §5.5).
fn is_control(byte: u8) -> bool {
    ((byte < b' ') & (byte != b'\t')) | (byte == 0x7f)
}

/// `tchar` of RFC 9110 §5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
