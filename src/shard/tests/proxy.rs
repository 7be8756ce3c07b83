//! Connections of balancers that say whom they speak for.

#![forbid(unsafe_code)]

use super::*;
use crate::address::Network;
use crate::format::CallRecord;

const BALANCER: &str = "10.1.2.3:5000";

/// For 203.0.113.9:40000, with a TLV after the addresses.
const HEADER: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11\xcb\0\x71\x09\x0a\0\0\x01\x9c\x40\x20\xfb\x04\0\x02ab";

const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn rig() -> Rig {
    Rig::with(|limits| limits.proxy_from = vec![Network::parse("10.0.0.0/8").unwrap()])
}

impl Rig {
    fn connect_from(&mut self, address: &str) -> Socket {
        let socket = self.world.connect(address);
        self.sockets.borrow_mut().push(socket);
        self.quiet();
        socket
    }

    /// The address that the log would name.
    fn peer_of_the_only_one(&mut self) -> String {
        let id = self.shard.connections.ids().next().expect("there is one");
        self.shard.connections.get(id).expect("it is there").origin.peer.to_string()
    }

    /// The address in the record of the only call.
    fn peer_of_the_call(&self) -> String {
        let call = self.shard.ring.calls_after(None).next().expect("a call has begun");
        let record = CallRecord::decode(call.payload).expect("a valid call record");
        record.peer.expect("a shard knows its peers").to_string()
    }
}

#[test]
fn a_header_that_comes_in_any_two_pieces_names_the_peer_and_the_call_begins() {
    let request = head("call");
    let whole = [HEADER, &request, &start("call")].concat();
    for cut in 0..=HEADER.len() + 20 {
        let mut rig = rig();
        let socket = rig.connect_from(BALANCER);
        assert_eq!(rig.ask(socket, &whole[..cut]), [""; 0], "{cut}");
        assert_eq!(rig.ask(socket, &whole[cut..]), ["101", "started"], "{cut}");
        assert_eq!(rig.peer_of_the_only_one(), "203.0.113.9:40000");
        assert_eq!(rig.peer_of_the_call(), "203.0.113.9:40000");
        assert_eq!(rig.ask(socket, &frames(10, 10)), ["ack 10"]);
        rig.end();
    }
}

#[test]
fn a_header_that_comes_byte_by_byte_is_the_same() {
    for (header, peer) in [(HEADER, "203.0.113.9:40000"), (LOCAL, BALANCER)] {
        let mut rig = rig();
        rig.world.set_receive_size_max(1);
        let socket = rig.connect_from(BALANCER);
        assert_eq!(rig.ask(socket, &[header, &head("call")].concat()), ["101"]);
        assert_eq!(rig.peer_of_the_only_one(), peer);
        rig.end();
    }
}

#[test]
fn a_balancer_that_sends_none_is_closed_unanswered_and_counted() {
    let large = [&HEADER[..13], &[0x11, 0xff, 0xff]].concat();
    let version_1: &[u8] = b"PROXY TCP4 203.0.113.9 10.0.0.1 40000 8443\r\n";
    for (bytes, is_version_1) in
        [(&head("call")[..], 0), (version_1, 1), (&large, 0), (b"\x16\x03\x01", 0)]
    {
        let mut rig = rig();
        let socket = rig.connect_from(BALANCER);
        rig.send(socket, bytes);
        rig.quiet();
        assert_eq!((rig.world.peer_reads(socket), rig.world.is_closed(socket)), (vec![], true));
        let counted = [rig.counters.proxy_refused.read(), rig.counters.proxy_text_refused.read()];
        assert_eq!(counted, [1, is_version_1]);
        rig.end();
    }
}

#[test]
fn half_a_header_has_the_time_of_a_head() {
    let mut rig = rig();
    let [silent, half] = [rig.connect_from(BALANCER), rig.connect_from(BALANCER)];
    rig.send(half, &HEADER[..20]);
    rig.pass(Limits::tiny().head_timeout + millis(20));
    for socket in [silent, half] {
        assert_eq!((rig.world.peer_reads(socket), rig.world.is_closed(socket)), (vec![], true));
    }
    assert_eq!(rig.counters.proxy_refused.read(), 2);
    rig.end();
}

#[test]
fn from_another_network_a_header_is_a_bad_request() {
    let mut rig = rig();
    let socket = rig.connect_from(ADDRESS);
    assert_eq!(rig.ask(socket, &[HEADER, &head("call")].concat()), ["400"]);
    assert_eq!(rig.counters.proxy_refused.read(), 0);
    let socket = rig.connect_from(ADDRESS);
    assert_eq!(rig.ask(socket, &head("call")), ["101"]);
    rig.end();
}

#[test]
fn limits_by_address_are_those_of_the_peer_it_names() {
    let mut rig = Rig::with(|limits| {
        limits.proxy_from = vec![Network::parse("10.0.0.0/8").unwrap()];
        (limits.address_rate, limits.address_burst) = (Some(1), 1);
    });
    let mut ask = |last: u8| {
        let socket = rig.connect_from(BALANCER);
        let mut header = HEADER.to_vec();
        header[19] = last;
        rig.ask(socket, &[header, head_with_token("a.b.c")].concat())
    };
    assert_eq!([ask(1), ask(2), ask(1)], [["401"], ["401"], ["429"]]);
    rig.end();
}
