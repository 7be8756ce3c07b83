//! HTTP/1.1 request heads: collected within bounds, parsed strictly (RFC 9112).
//!
//! Where the RFC lets a recipient be lenient (bare LF, obs-fold, space before the colon), we refuse: each of these is read
//! differently by two implementations in a row somewhere, and that is how requests are smuggled. This module knows the
//! syntax of a request and that it must not have a body; what to answer is decided in [`super::handshake`].

#![forbid(unsafe_code)]

use super::handshake::Refusal;
use crate::constants::{HEAD_FIELDS_MAX, HEAD_SIZE_MAX};

/// Empty lines tolerated in front of a request line (RFC 9112 §2.2 asks for at least one).
const LEADING_LINES_MAX: u8 = 4;

/// First allocation of a head, bytes. A health check fits; an upgrade with a token doubles it twice.
const HEAD_CAPACITY_MIN: usize = 512;

/// Collects a request head as it comes in, however it is cut.
///
/// Each byte is looked at once as it arrives and each line once when it ends, so the cost of a head is linear in its size
/// even when it comes byte by byte. What is refused, and at which byte, depends on the bytes alone. Memory grows with the
/// head, from 512 bytes to [`HEAD_SIZE_MAX`]; nothing is allocated before the first byte. Drop it once the head has been
/// judged.
///
/// ```
/// use exo_ingest::proto::http::{HeadBuffer, HeadProgress};
///
/// let mut buffer = HeadBuffer::default();
/// assert_eq!(buffer.push(b"GET /health HTTP/1.1\r\nHos"), (25, HeadProgress::Incomplete));
/// // The two bytes behind the head belong to the next protocol.
/// assert_eq!(buffer.push(b"t: node\r\n\r\n\x82\x80"), (11, HeadProgress::Complete));
/// assert_eq!(buffer.head().unwrap().path, "/health");
/// ```
#[derive(Debug, Default)]
pub struct HeadBuffer {
    bytes: Vec<u8>,
    /// Where the line that is coming in starts. Never above [`HEAD_SIZE_MAX`], like everything that indexes `bytes`.
    line_start: usize,
    /// Where the request line starts, behind empty lines.
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

/// What a piece of input did to a head.
#[derive(Debug, PartialEq, Eq)]
pub enum HeadProgress {
    /// All of the input was taken; the head is not complete.
    Incomplete,
    /// The head is complete: parse it with [`HeadBuffer::head`].
    Complete,
    /// It cannot become an acceptable head: answer with this and close. Found as early as the bytes allow.
    Refused(Refusal),
}

impl HeadBuffer {
    /// Takes bytes up to the end of the head, or to the one that spoils it; returns how many. What stands behind a complete
    /// head belongs to the next protocol. Once complete or refused, it takes nothing more and repeats itself.
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

    /// Whether no byte of a request has come yet: closing such a connection needs no answer.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Doubles at most up to [`HEAD_SIZE_MAX`]: `Vec`'s own growth overshoots it, and there may be 10,000 of us.
    fn append(&mut self, input: &[u8]) {
        let needed = self.bytes.len() + input.len();
        if needed > self.bytes.capacity() {
            let capacity = needed.next_power_of_two().clamp(HEAD_CAPACITY_MIN, HEAD_SIZE_MAX);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(input);
    }

    /// Looks at the bytes from `scanned` on; when they finish the head, drops what stands behind.
    fn scan(&mut self, scanned: usize) -> Option<Finish> {
        let mut at = scanned;
        // The CR that the last piece ended with.
        let cut_after_cr = scanned > 0 && self.bytes[scanned - 1] == b'\r';
        if cut_after_cr && self.bytes.get(scanned).is_some_and(|&byte| byte != b'\n') {
            return self.finish(scanned + 1, Finish::Refused(Refusal::BadRequest));
        }
        loop {
            // RFC 9112 §3.1: a request starts with a token. TLS to a plain port is refused at its first byte.
            let opens_badly = self.bytes.get(self.line_start).is_some_and(|&byte| !is_token_byte(byte) && byte != b'\r');
            if !self.in_fields && opens_badly {
                return self.finish(self.line_start + 1, Finish::Refused(Refusal::BadRequest));
            }
            let Some(found) = find_control(&self.bytes[at..]) else { break };
            let position = at + found;
            at = position + 1;
            let after_cr = position > 0 && self.bytes[position - 1] == b'\r';
            match self.bytes[position] {
                // What comes next must be LF; if it has not come yet, it is checked when it does.
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
            return (self.empty_lines > LEADING_LINES_MAX).then_some(Finish::Refused(Refusal::BadRequest));
        }
        if self.in_fields {
            self.fields += 1;
            if !is_field_line(line) {
                return Some(Finish::Refused(Refusal::BadRequest));
            }
            return (usize::from(self.fields) > HEAD_FIELDS_MAX).then_some(Finish::Refused(Refusal::HeadTooLarge));
        }
        self.in_fields = true;
        (!is_request_line(line)).then_some(Finish::Refused(Refusal::BadRequest))
    }

    fn finish(&mut self, end: usize, finish: Finish) -> Option<Finish> {
        self.bytes.truncate(end);
        Some(finish)
    }

    /// The complete head, parsed: an error is the answer to give (400 or 431). A head that is not complete is a bad one.
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

/// A field that a request may carry once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Single<'a> {
    /// Not there.
    #[default]
    Absent,
    /// There once: its value, without the white space around it. May hold bytes over 0x7f.
    Once(&'a [u8]),
    /// There more than once.
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
    /// Path without the query, percent-encoding as sent: only the plain spelling of a route is that route.
    pub path: &'a str,
    /// HTTP/1.0: its `Upgrade` counts for nothing (RFC 9110 §7.8).
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
    /// `Authorization`; two of them are no valid head.
    pub authorization: Option<&'a [u8]>,
}

impl<'a> Head<'a> {
    /// `bytes`: a whole head, from the request line to its empty line.
    fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(size)) if size == bytes.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
            _ => return Err(Refusal::BadRequest),
        }
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
            return Err(Refusal::BadRequest);
        };
        let is_http_1_0 = version == 0;
        let mut head = Head {
            method,
            path: path_of(method, target).ok_or(Refusal::BadRequest)?,
            is_http_1_0,
            upgrade_websocket: false,
            connection_upgrade: false,
            websocket_version: Single::Absent,
            websocket_key: Single::Absent,
            origin: Single::Absent,
            authorization: None,
        };
        head.read_fields(request.headers)?;
        Ok(head)
    }

    fn read_fields(&mut self, fields: &[httparse::Header<'a>]) -> Result<(), Refusal> {
        let mut host = Single::Absent;
        let mut content_length = Single::Absent;
        let mut authorization = Single::Absent;
        for field in fields {
            let name = field.name;
            // Lengths differ, so that most fields cost one comparison of a byte count.
            let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
            if is("host") {
                host.add(field.value);
            } else if is("upgrade") {
                self.upgrade_websocket |= has_token(field.value, "websocket");
            } else if is("connection") {
                self.connection_upgrade |= has_token(field.value, "upgrade");
            } else if is("authorization") {
                authorization.add(field.value);
            } else if is("sec-websocket-key") {
                self.websocket_key.add(field.value);
            } else if is("sec-websocket-version") {
                self.websocket_version.add(field.value);
            } else if is("origin") {
                self.origin.add(field.value);
            } else if is("content-length") {
                content_length.add(field.value);
            } else if is("transfer-encoding") {
                return Err(Refusal::BadRequest);
            }
        }
        // `Expect: 100-continue` is not looked at: it announces a body, and there is none to wait for (RFC 9110 §10.1.1).
        let has_body = !matches!(content_length, Single::Absent | Single::Once(b"0"));
        // RFC 9112 §3.2: exactly one valid Host, which HTTP/1.0 may leave out.
        let host_valid = match host {
            Single::Once(value) => is_host(value),
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

/// The path that a request target names, by its form (RFC 9112 §3.2); `None` where the form does not fit the method.
fn path_of<'a>(method: &str, target: &'a str) -> Option<&'a str> {
    if method == "CONNECT" {
        // Authority-form. No route of ours, but well-formed.
        return is_host(target.as_bytes()).then_some(target);
    }
    if target == "*" {
        return (method == "OPTIONS").then_some(target);
    }
    if target.starts_with('/') {
        return target.split('?').next();
    }
    // Absolute-form, as sent to proxies: its authority replaces Host, and neither matters here.
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

/// Method, target and version with one space between and nothing else (RFC 9112 §3).
fn is_request_line(line: &[u8]) -> bool {
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let method_valid = !method.is_empty() && method.iter().all(|&byte| is_token_byte(byte));
    let target_valid = !target.is_empty() && target.iter().all(|&byte| is_target_byte(byte));
    // A later minor version would be read as 1.1, if there were one. Other majors are other protocols.
    method_valid && target_valid && matches!(version, b"HTTP/1.1" | b"HTTP/1.0")
}

/// Visible ASCII but what RFC 3986 allows nowhere (`"<>`), and no fragment. Browsers do send `{|}^` in queries.
fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>')
}

/// A field name that is a token, directly followed by a colon (RFC 9112 §5.1); so neither a fold nor a space before the
/// colon. Control bytes have been refused as they came.
fn is_field_line(line: &[u8]) -> bool {
    let name_size = line.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(line.len());
    name_size > 0 && line.get(name_size) == Some(&b':')
}

/// `uri-host [":" port]` (RFC 9110 §7.2), where the host is not empty (§4.2.1).
fn is_host(value: &[u8]) -> bool {
    let (host, port) = if value.first() == Some(&b'[') {
        let Some(end) = value.iter().position(|&byte| byte == b']') else { return false };
        let literal = &value[1..end];
        let valid = literal.contains(&b':') && literal.iter().all(|&byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
        if !valid {
            return false;
        }
        (literal, &value[end + 1..])
    } else {
        let end = value.iter().position(|&byte| byte == b':').unwrap_or(value.len());
        value.split_at(end)
    };
    let is_name_byte = |&byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:".contains(&byte);
    let port_valid = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !host.is_empty() && host.iter().all(is_name_byte) && port_valid
}

/// Whether a comma-separated list of tokens holds `wanted`, in any case.
fn has_token(value: &[u8], wanted: &str) -> bool {
    value.split(|&byte| byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
}

/// Position of the first control byte. Whole chunks without one are passed over without a branch per byte: most of a head is
/// one long token.
fn find_control(bytes: &[u8]) -> Option<usize> {
    const CHUNK_SIZE: usize = 32;
    let has_control = |chunk: &[u8; CHUNK_SIZE]| chunk.iter().fold(false, |found, &byte| found | is_control(byte));
    let clean_size = bytes.as_chunks().0.iter().take_while(|chunk| !has_control(chunk)).count() * CHUNK_SIZE;
    bytes[clean_size..].iter().position(|&byte| is_control(byte)).map(|position| clean_size + position)
}

/// What may not stand in a line: C0 controls but tab, and DEL (RFC 9110 §5.5).
fn is_control(byte: u8) -> bool {
    ((byte < b' ') & (byte != b'\t')) | (byte == 0x7f)
}

/// `tchar` of RFC 9110 §5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
