//! Asks the kernel what `ethtool` shows: rings, queues, coalescing, offloads of a network card.
//!
//! The questions go through generic netlink (`Documentation/networking/ethtool-netlink.rst`).
//! Rejected: the older `SIOCETHTOOL`, which takes unsafe code, and the program `ethtool`, which is
//! missing on many hosts.
//!
//! ```text
//!  message    length u32 | family u16 | flags u16 | sequence u32 | port u32      netlink
//!             command u8 | version u8 | reserved u16                             generic netlink
//!             attributes: length u16 | kind u16 | payload, padded to 4 bytes
//! ```
//! Numbers have the byte order of the machine.

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};
use std::io;
use std::time::Duration;

/// The family of families, and its question for the number of a family by name.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// Questions of the family `ethtool`.
const FEATURES_GET: u8 = 11;
const RINGS_GET: u8 = 15;
const CHANNELS_GET: u8 = 17;
const COALESCE_GET: u8 = 19;

/// Every question has a header with the name of the card.
const HEADER: u16 = 1;
const DEVICE_NAME: u16 = 2;

/// Types of messages, and a flag.
const ERROR: u16 = 2;
const REQUEST: u16 = 1;

/// Sizes of the two headers of a message, and of that of an attribute.
const HEADER_SIZE: usize = 16;
const GENERIC_SIZE: usize = 4;
const ATTRIBUTE_SIZE: usize = 4;

/// Bit of an attribute's kind: it holds attributes.
const NESTED: u16 = 1 << 15;

/// The kernel answers at once, or never.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a card said. `None`: its driver does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ethtool {
    /// Why nothing could be asked.
    pub(super) error: Option<String>,
    /// Entries of the receive ring: now, at most.
    pub(super) receive_ring: Option<(u32, u32)>,
    /// Combined queues: now, at most.
    pub(super) queues: Option<(u32, u32)>,
    /// How long it gathers received packets, µs.
    pub(super) gather_micros: Option<u32>,
    /// Whether it chooses that time by itself.
    pub(super) is_adaptive: Option<bool>,
    /// Names of the features that are on.
    pub(super) offloads: Option<Vec<String>>,
}

impl Ethtool {
    /// Why a value is missing.
    pub(super) fn reason(&self, card: &str) -> String {
        match &self.error {
            Some(error) => format!("the kernel cannot be asked about {card}: {error}"),
            None => format!("the driver of {card} does not say"),
        }
    }
}

/// Asks about a card.
pub(super) fn ask(card: &str) -> Ethtool {
    let socket = match Socket::open() {
        Ok(socket) => socket,
        Err(error) => return Ethtool { error: Some(error.to_string()), ..Ethtool::default() },
    };
    let about = |question: u8| socket.ask(question, card).unwrap_or_default();
    let (rings, channels) = (about(RINGS_GET), about(CHANNELS_GET));
    let (coalesce, features) = (about(COALESCE_GET), about(FEATURES_GET));
    let number = |answer: &[u8], kind| attribute(answer, kind).and_then(number_of);
    Ethtool {
        error: None,
        receive_ring: number(&rings, 6).zip(number(&rings, 2)),
        queues: number(&channels, 9).zip(number(&channels, 5)),
        gather_micros: number(&coalesce, 2),
        is_adaptive: attribute(&coalesce, 11).and_then(|payload| Some(*payload.first()? != 0)),
        offloads: attribute(&features, 4).map(names_of_bitset),
    }
}

struct Socket {
    socket: OwnedFd,
    /// The number of the family `ethtool`.
    family: u16,
}

impl Socket {
    fn open() -> io::Result<Socket> {
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(netlink::GENERIC))?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        let mut socket = Socket { socket, family: CONTROL };
        let name = attribute_of(FAMILY_NAME, b"ethtool\0");
        let answer = socket.exchange(GET_FAMILY, &name)?;
        let family = attribute(&answer, FAMILY_ID).and_then(|payload| payload.try_into().ok());
        socket.family = family.map(u16::from_ne_bytes).ok_or(io::ErrorKind::Unsupported)?;
        Ok(socket)
    }

    /// The attributes of the answer to a question about a card.
    fn ask(&self, question: u8, card: &str) -> io::Result<Vec<u8>> {
        let name = attribute_of(DEVICE_NAME, format!("{card}\0").as_bytes());
        self.exchange(question, &attribute_of(HEADER | NESTED, &name))
    }

    fn exchange(&self, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        send(&self.socket, &message(self.family, command, attributes), SendFlags::empty())?;
        // The answer to FEATURES_GET with all names has some 8 KiB.
        let mut answer = vec![0; 64 * 1024];
        let (size, _) = recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
        answer.truncate(size);
        attributes_of(&answer)
    }
}

fn message(family: u16, command: u8, attributes: &[u8]) -> Vec<u8> {
    let size = HEADER_SIZE + GENERIC_SIZE + attributes.len();
    let mut message = Vec::with_capacity(size);
    message.extend((size as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // Sequence and port: there is one question at a time, and the kernel knows the port.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    message
}

fn attribute_of(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut attribute = Vec::new();
    attribute.extend(((ATTRIBUTE_SIZE + payload.len()) as u16).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(payload);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// The attributes of an answer, or the error that it is.
fn attributes_of(answer: &[u8]) -> io::Result<Vec<u8>> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = answer.get(4..6).and_then(|it| it.try_into().ok()).map(u16::from_ne_bytes);
    let body = answer.get(HEADER_SIZE..).ok_or_else(broken)?;
    if kind == Some(ERROR) {
        let code = number_of(body.get(..4).ok_or_else(broken)?).ok_or_else(broken)?;
        return Err(Errno::from_raw_os_error(code.cast_signed().wrapping_neg()).into());
    }
    Ok(body.get(GENERIC_SIZE..).ok_or_else(broken)?.to_vec())
}

/// The attributes in some bytes: kind and payload. Broken ones end it.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let half = |at: usize| {
            let half = bytes.get(at..at + 2)?.try_into().ok()?;
            Some(u16::from_ne_bytes(half))
        };
        let (size, kind) = (usize::from(half(0)?), half(2)?);
        let payload = bytes.get(ATTRIBUTE_SIZE..size)?;
        bytes = bytes.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !NESTED, payload))
    })
}

fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, payload)| (found == kind).then_some(payload))
}

fn number_of(payload: &[u8]) -> Option<u32> {
    payload.try_into().ok().map(u32::from_ne_bytes)
}

/// Names of the bits in a bitset: `BITS { BIT { NAME } … }`. A set without a mask lists the bits
/// that are on; a set with one marks them with `VALUE`.
fn names_of_bitset(bitset: &[u8]) -> Vec<String> {
    const NO_MASK: u16 = 1;
    const BITS: u16 = 3;
    const NAME: u16 = 2;
    const VALUE: u16 = 3;
    let has_no_mask = attribute(bitset, NO_MASK).is_some();
    let bits = attributes(attribute(bitset, BITS).unwrap_or_default());
    let on = bits.filter(|(_, bit)| has_no_mask || attribute(bit, VALUE).is_some());
    let names = on.filter_map(|(_, bit)| {
        let name = attribute(bit, NAME)?;
        Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back_as_written_and_broken_ones_end() {
        let both = [attribute_of(2, b"eth0\0"), attribute_of(6 | NESTED, &7u32.to_ne_bytes())];
        let mut bytes = both.concat();
        assert_eq!(bytes.len(), 12 + 8);
        assert_eq!(attribute(&bytes, 2), Some(&b"eth0\0"[..]));
        assert_eq!(attribute(&bytes, 6).and_then(number_of), Some(7));
        assert_eq!(attribute(&bytes, 3), None);
        bytes.truncate(17);
        assert_eq!(attributes(&bytes).count(), 1);
        // A length of zero would never end.
        assert_eq!(attributes(&[0; 8]).count(), 0);
        let message = message(20, RINGS_GET, &bytes[..12]);
        assert_eq!(attributes_of(&message).unwrap(), &bytes[..12]);
        assert!(attributes_of(&message[..10]).is_err());
    }

    #[test]
    fn an_error_of_the_kernel_is_an_error() {
        let mut answer = message(ERROR, 0, &[]);
        answer[HEADER_SIZE..].copy_from_slice(&(-19i32).to_ne_bytes());
        assert_eq!(attributes_of(&answer).unwrap_err().raw_os_error(), Some(19));
    }

    #[test]
    fn a_bitset_names_what_is_on() {
        let bit = |name: &[u8], is_on: bool| {
            let value = if is_on { attribute_of(3, &[]) } else { Vec::new() };
            attribute_of(1 | NESTED, &[attribute_of(2, name), value].concat())
        };
        let bits = attribute_of(3, &[bit(b"rx-gro\0", true), bit(b"rx-lro\0", false)].concat());
        assert_eq!(names_of_bitset(&bits), ["rx-gro"]);
        assert_eq!(names_of_bitset(&[attribute_of(1, &[]), bits].concat()), ["rx-gro", "rx-lro"]);
    }

    #[test]
    fn every_machine_has_loopback_which_joins_packets() {
        let answer = ask("lo");
        // A kernel without the family says so.
        if answer.error.is_none() {
            assert!(answer.offloads.is_some_and(|names| names.iter().any(|it| it == "rx-gro")));
            assert_eq!(answer.receive_ring, None, "it has none");
        }
        assert_eq!(ask("no-such-card").offloads, None);
    }
}
