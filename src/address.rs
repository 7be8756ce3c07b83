//! Addresses of peers: networks as an operator writes them, and a compact form for tables.
//!
//! Only values: nothing here opens a socket.
#![forbid(unsafe_code)]

use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::fmt::{self, Write};

/// A block of addresses: `10.0.0.0/8`, `2001:db8::/32`, or a single address.
///
/// An IPv4 block is stored as the IPv4-mapped IPv6 block, so one comparison serves both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The first address of the block.
    base: u128,
    /// Number of leading bits that count, of 128.
    prefix: u32,
}

/// Bits before the IPv4 address in an IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2).
const MAPPED_BITS: u32 = 96;

impl Network {
    /// Reads text; `None` if it is not an address, or if the prefix is longer than the address.
    /// Bits after the prefix must be zero: `10.0.0.1/8` is more likely a mistake than intended.
    pub(crate) fn parse(text: &str) -> Option<Network> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let (bits, skipped) = if address.is_ipv4() { (32, MAPPED_BITS) } else { (128, 0) };
        let is_number =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = match prefix {
            Some(text) if is_number(text) => {
                text.parse::<u32>().ok().filter(|prefix| *prefix <= bits)?
            }
            Some(_) => return None,
            None => bits,
        };
        let network = Network { base: number_of(address), prefix: prefix + skipped };
        (network.base & network.mask() == network.base).then_some(network)
    }

    /// Whether `address` is in the block. An IPv4-mapped IPv6 address counts as IPv4.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        number_of(address) & self.mask() == self.base
    }

    fn mask(&self) -> u128 {
        u128::MAX.checked_shl(128 - self.prefix).unwrap_or(0)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from(self.base).to_canonical();
        let prefix =
            if address.is_ipv4() { self.prefix.saturating_sub(MAPPED_BITS) } else { self.prefix };
        write!(f, "{address}/{prefix}")
    }
}

fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The other end of a connection. It has 18 bytes, because each slot of a table holds one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress {
    /// As IPv6; an IPv4 address is mapped.
    octets: [u8; 16],
    port: u16,
}

const _: () = assert!(size_of::<PeerAddress>() == 18);

/// Most bytes of a peer's address as text: an IPv6 address of eight groups, brackets, colon, port.
pub(crate) const PEER_TEXT_MAX: usize = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".len();

/// A peer's address as text, without an allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerText {
    bytes: [u8; PEER_TEXT_MAX],
    size: usize,
}

impl PeerText {
    /// No address.
    pub(crate) const NONE: PeerText = PeerText { bytes: [0; PEER_TEXT_MAX], size: 0 };

    /// The text, in ASCII.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

impl Write for PeerText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let free = self.bytes.get_mut(self.size..).unwrap_or_default();
        free.get_mut(..text.len()).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.size += text.len();
        Ok(())
    }
}

impl PeerAddress {
    /// The unit that limits by address count: an IPv4 address, or an IPv6 network of 64 bits. A
    /// customer has at least such a network and may use any address of it.
    pub(crate) fn group(&self) -> u128 {
        let number = u128::from_be_bytes(self.octets);
        match Ipv6Addr::from(self.octets).to_ipv4_mapped() {
            Some(_) => number,
            None => number >> 64 << 64,
        }
    }

    /// The address.
    pub(crate) fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.octets).to_canonical()
    }

    /// The address as it is shown and as the journal holds it.
    pub(crate) fn text(&self) -> PeerText {
        let mut text = PeerText::NONE;
        // It cannot fail: `PEER_TEXT_MAX` bytes hold every address.
        let _ = write!(text, "{self}");
        text
    }

    /// The address and port as an index holds them.
    pub(crate) fn to_bytes(self) -> [u8; 18] {
        let mut bytes = [0; 18];
        bytes[..16].copy_from_slice(&self.octets);
        bytes[16..].copy_from_slice(&self.port.to_le_bytes());
        bytes
    }

    /// The inverse of [`PeerAddress::to_bytes`].
    pub(crate) fn from_bytes(bytes: [u8; 18]) -> PeerAddress {
        let [octets @ .., low, high] = bytes;
        PeerAddress { octets, port: u16::from_le_bytes([low, high]) }
    }

    /// Reads the text of an address; `None` if it is not one.
    pub(crate) fn parse(text: &[u8]) -> Option<PeerAddress> {
        let address: SocketAddr = std::str::from_utf8(text).ok()?.parse().ok()?;
        Some(address.into())
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        PeerAddress { octets: number_of(address.ip()).to_be_bytes(), port: address.port() }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.ip(), self.port).fmt(f)
    }
}

impl fmt::Debug for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_read_back_as_printed() {
        for text in ["10.0.0.0/8", "192.0.2.7/32", "0.0.0.0/0", "2001:db8::/32", "::1/128", "::/0"]
        {
            assert_eq!(
                Network::parse(text).map(|network| network.to_string()).as_deref(),
                Some(text)
            );
        }
        assert_eq!(
            Network::parse("192.0.2.7").map(|network| network.to_string()).as_deref(),
            Some("192.0.2.7/32")
        );
        for text in [
            "",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0.0/+8",
            "10.0.0/8",
            "::1/129",
            "::1/64",
            "a/8",
        ] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_network_contains_addresses_with_its_prefix() {
        let contains = |network: &str, address: &str| {
            Network::parse(network)
                .expect("a network")
                .contains(address.parse().expect("an address"))
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"), "IPv4 that came through an IPv6 socket");
        assert!(contains("0.0.0.0/0", "203.0.113.9") && !contains("0.0.0.0/0", "2001:db8::1"));
        assert!(contains("::/0", "2001:db8::1") && contains("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!contains("2001:db8::/32", "2001:db9::1") && !contains("192.0.2.7", "192.0.2.8"));
    }

    #[test]
    fn a_peer_keeps_its_address_and_is_grouped_by_network() {
        let peer = |text: &str| PeerAddress::from(text.parse::<SocketAddr>().expect("an address"));
        for text in ["198.51.100.7:4000", "[2001:db8::1]:65535"] {
            assert_eq!(peer(text).to_string(), text);
        }
        assert_eq!(peer("[::ffff:198.51.100.7]:1").to_string(), "198.51.100.7:1");
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        for text in ["0.0.0.0:0", "198.51.100.7:4000", "[::1]:1", longest] {
            assert_eq!(peer(text).text().bytes(), text.as_bytes());
            assert_eq!(PeerAddress::parse(text.as_bytes()), Some(peer(text)));
            assert_eq!(PeerAddress::from_bytes(peer(text).to_bytes()), peer(text));
        }
        for text in ["", "198.51.100.7", "198.51.100.7:65536", "host:1", "é:1"] {
            assert_eq!(PeerAddress::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(peer("198.51.100.7:1").group(), peer("198.51.100.7:2").group());
        assert_ne!(peer("198.51.100.7:1").group(), peer("198.51.100.8:1").group());
        assert_eq!(peer("[2001:db8::1]:1").group(), peer("[2001:db8::ffff:1]:1").group());
        assert_ne!(peer("[2001:db8::1]:1").group(), peer("[2001:db8:0:1::1]:1").group());
    }
}
