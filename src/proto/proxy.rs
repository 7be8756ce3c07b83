//! PROXY protocol, version 2: what a load balancer sends first, about the connection that it
//! forwards.
//!
//! ```text
//!   0                      12    13    14      16
//!   +----------------------+-----+-----+-------+----------------------+----------- …
//!   | \r\n\r\n\0\r\nQUIT\n | 2|c | f|p | size  | addresses, by family | TLVs
//!   +----------------------+-----+-----+-------+----------------------+----------- …
//!     signature       version, command  big-endian: of all that follows
//! ```
//! Source: <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, section 2.2. TLVs are
//! skipped. Rejected: the crates `ppp` and `proxy-header`. They also need the whole header in one
//! slice, and we would not use most of what they parse.
#![forbid(unsafe_code)]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Start of a version 1 header.
const VERSION_1: &[u8] = b"PROXY ";

/// Bytes before the addresses.
const FIXED_SIZE: usize = 16;

/// Longest header, bytes: the specification asks receivers to take this much at once, with
/// addresses of Unix sockets. Balancers that add TLVs stay far below it.
pub(crate) const HEADER_SIZE_MAX: usize = 536;

/// What the start of a connection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The header is not complete.
    Incomplete,
    /// A header of `size` bytes. `source` is `None` if the balancer speaks for itself (LOCAL), or
    /// if the family is neither IPv4 nor IPv6. Then the connection's own address is used.
    Complete {
        /// Bytes of the header.
        size: usize,
        /// The client that the balancer forwards for.
        source: Option<SocketAddr>,
    },
    /// No header that we accept.
    Refused(Fault),
}

/// Why a connection does not begin with a header that we accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection begins with something else.
    Missing,
    /// A version 1 header, which is text.
    Version1,
    /// A header with a wrong version, command or size.
    Malformed,
    /// A header larger than [`HEADER_SIZE_MAX`].
    TooLarge,
}

impl Fault {
    /// Label in the log.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Fault::Missing => "proxy_header_missing",
            Fault::Version1 => "proxy_header_version_1",
            Fault::Malformed => "proxy_header_malformed",
            Fault::TooLarge => "proxy_header_too_large",
        }
    }
}

/// Reads the first bytes of a connection, possibly only a few. A fault is found as early as the
/// bytes allow.
pub(crate) fn parse(bytes: &[u8]) -> Progress {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        let known = bytes.len().min(VERSION_1.len());
        return match (bytes[..known] == VERSION_1[..known], known == VERSION_1.len()) {
            (true, true) => Progress::Refused(Fault::Version1),
            (true, false) => Progress::Incomplete,
            (false, _) => Progress::Refused(Fault::Missing),
        };
    }
    // Version 2 in the upper four bits, LOCAL (0) or PROXY (1) in the lower four.
    let is_local = match bytes.get(SIGNATURE.len()) {
        None => return Progress::Incomplete,
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Progress::Refused(Fault::Malformed),
    };
    let Some(&[family, high, low]) = bytes.get(SIGNATURE.len() + 1..FIXED_SIZE) else {
        return Progress::Incomplete;
    };
    let size = FIXED_SIZE + usize::from(u16::from_be_bytes([high, low]));
    if size > HEADER_SIZE_MAX {
        return Progress::Refused(Fault::TooLarge);
    }
    let Some(addresses) = bytes.get(FIXED_SIZE..size) else { return Progress::Incomplete };
    if is_local {
        return Progress::Complete { size, source: None };
    }
    match source(family, addresses) {
        Ok(source) => Progress::Complete { size, source },
        Err(fault) => Progress::Refused(fault),
    }
}

/// The source address of a PROXY header: the family is in the upper four bits, the protocol in the
/// lower four.
fn source(family: u8, addresses: &[u8]) -> Result<Option<SocketAddr>, Fault> {
    match family >> 4 {
        // Source address, destination address, source port, destination port.
        1 => {
            let block: &[u8; 12] = addresses.first_chunk().ok_or(Fault::Malformed)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *block;
            Ok(Some(SocketAddr::new(
                IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
                u16::from_be_bytes([high, low]),
            )))
        }
        2 => {
            let block: &[u8; 36] = addresses.first_chunk().ok_or(Fault::Malformed)?;
            let (octets, rest) = block.split_first_chunk::<16>().ok_or(Fault::Malformed)?;
            let (ip, port) = (Ipv6Addr::from(*octets), u16::from_be_bytes([rest[16], rest[17]]));
            Ok(Some(SocketAddr::new(ip.to_canonical(), port)))
        }
        // UNSPEC and Unix sockets: a receiver accepts the header and ignores the addresses.
        0 | 3 => Ok(None),
        _ => Err(Fault::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let size = (rest.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &size, rest].concat()
    }

    const V4: [u8; 12] = [203, 0, 113, 9, 10, 0, 0, 1, 0x9c, 0x40, 0x20, 0xfb];

    fn v6() -> Vec<u8> {
        let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        [&ip("2001:db8::9")[..], &ip("2001:db8::1"), &[0x9c, 0x40, 0x20, 0xfb]].concat()
    }

    /// Every kind of valid header, with its source.
    fn good() -> Vec<(Vec<u8>, Option<SocketAddr>)> {
        let address = |text: &str| Some(text.parse().unwrap());
        let tlvs = [&V4[..], &[0x04, 0, 3, 1, 2, 3], &[0xee, 0, 0]].concat();
        let mapped =
            [&Ipv4Addr::new(203, 0, 113, 9).to_ipv6_mapped().octets()[..], &v6()[16..]].concat();
        vec![
            (header(0x21, 0x11, &V4), address("203.0.113.9:40000")),
            (header(0x21, 0x21, &v6()), address("[2001:db8::9]:40000")),
            (header(0x21, 0x21, &mapped), address("203.0.113.9:40000")),
            (header(0x21, 0x11, &tlvs), address("203.0.113.9:40000")),
            (header(0x21, 0x11, &[&V4[..], &[0; 508]].concat()), address("203.0.113.9:40000")),
            (header(0x20, 0x00, &[]), None),
            (header(0x20, 0x11, &V4), None),
            (header(0x21, 0x00, &[1, 2, 3]), None),
            (header(0x21, 0x31, &[b'x'; 216]), None),
        ]
    }

    #[test]
    fn every_cut_of_a_valid_header_is_incomplete_and_later_bytes_are_left() {
        for (bytes, source) in good() {
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Progress::Incomplete, "{cut} of {bytes:?}");
            }
            for after in [&b""[..], b"G", b"GET / HTTP/1.1\r\n", &[0x16, 3, 1]] {
                let whole = [&bytes[..], after].concat();
                assert_eq!(parse(&whole), Progress::Complete { size: bytes.len(), source });
            }
        }
    }

    #[test]
    fn other_bytes_are_refused_as_early_as_possible() {
        let refused = |bytes: &[u8]| match parse(bytes) {
            Progress::Refused(fault) => Some(fault),
            _ => None,
        };
        for bytes in [
            &b"G"[..],
            b"GET /health HTTP/1.1\r\n\r\n",
            b"\r\n\r\n\0\r\nQUIX",
            b"PROXX",
            &[0x16, 3, 1],
            b"\0",
        ] {
            assert_eq!(refused(bytes), Some(Fault::Missing), "{bytes:?}");
        }
        assert_eq!(refused(b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2\r\n"), Some(Fault::Version1));
        assert_eq!(refused(b"PROXY "), Some(Fault::Version1));
        assert_eq!(refused(b"PROXY"), None, "it may become one");
        for command in [0x11, 0x00, 0x22, 0x2f, 0x31] {
            assert_eq!(
                refused(&[&SIGNATURE[..], &[command]].concat()),
                Some(Fault::Malformed),
                "{command:x}"
            );
        }
        for (family, rest) in [(0x11, 11), (0x21, 35), (0x41, 0), (0xf1, 40), (0x11, 0)] {
            assert_eq!(
                refused(&header(0x21, family, &vec![0; rest])),
                Some(Fault::Malformed),
                "{family:x}"
            );
        }
        let largest = HEADER_SIZE_MAX - FIXED_SIZE;
        assert_eq!(refused(&header(0x21, 0x11, &vec![0; largest])), None);
        assert_eq!(
            refused(&header(0x21, 0x11, &vec![0; largest + 1])[..FIXED_SIZE]),
            Some(Fault::TooLarge)
        );
        assert_eq!(refused(&header(0x20, 0, &[0; 65_535])[..FIXED_SIZE]), Some(Fault::TooLarge));
    }

    proptest! {
        /// More bytes do not change a verdict on the first ones, and no bytes cause a panic.
        #[test]
        fn more_bytes_change_no_verdict(
            mut bytes in prop::collection::vec(any::<u8>(), 0..600),
            cut in 0usize..600,
            signed in any::<bool>(),
        ) {
            if signed {
                bytes.splice(..0, SIGNATURE);
            }
            let first = parse(&bytes[..cut.min(bytes.len())]);
            prop_assert!(first == Progress::Incomplete || first == parse(&bytes));
            prop_assert!(parse(&bytes) != Progress::Incomplete || bytes.len() < HEADER_SIZE_MAX);
        }
    }
}
