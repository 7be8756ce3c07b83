//! Calls over TLS: what they say comes out as in the clear, however it is cut, and what a shard
//! keeps for TLS is bounded.

#![forbid(unsafe_code)]

use super::pieces::{Outcome, conversations, play, said_and_counted};
use super::*;
use crate::constants::room_needed;
use crate::metrics::Counter;
use crate::tls::tests::pair::{
    client_config, combinations, drain, hear, new_client, server_config,
};
use crate::tls::{SpillPool, TlsFailure};
use crate::transport::Transport;
use rustls::ClientConnection;
use std::io::{Read, Write};

/// A rustls client on a socket of the script.
struct Client {
    socket: Socket,
    tls: ClientConnection,
}

impl Client {
    /// One that has connected, and sent nothing.
    fn connect(rig: &Rig, which: usize) -> Client {
        Client { socket: rig.connect(), tls: new_client(client_config(combinations()[which])) }
    }

    /// Sends what it has to say.
    fn send(&mut self, rig: &Rig) {
        rig.send(self.socket, &drain(&mut self.tls));
    }

    /// Reads what has come for it.
    fn receive(&mut self, rig: &Rig) {
        hear(&mut self.tls, &rig.world.peer_reads(self.socket)).expect("good records");
    }

    fn shake_hands(&mut self, rig: &mut Rig) {
        while self.tls.is_handshaking() {
            self.send(rig);
            rig.quiet();
            self.receive(rig);
        }
        self.send(rig);
        rig.quiet();
        self.receive(rig);
    }

    fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(bytes).expect("memory takes all");
        drain(&mut self.tls)
    }

    /// What the node has said since it was last asked, and whether it has ended.
    fn heard(&mut self, rig: &Rig) -> (Vec<u8>, bool) {
        self.receive(rig);
        let mut heard = Vec::new();
        let is_over = self.tls.reader().read_to_end(&mut heard).is_ok();
        (heard, is_over)
    }

    fn said(&mut self, rig: &Rig) -> Vec<String> {
        said(&self.heard(rig).0)
    }

    fn ask(&mut self, rig: &mut Rig, bytes: &[u8]) -> Vec<String> {
        let sealed = self.seal(bytes);
        rig.send(self.socket, &sealed);
        rig.quiet();
        self.said(rig)
    }
}

impl Rig {
    /// On tiny limits, with a port that speaks TLS.
    fn tls(change: impl FnOnce(&mut Limits)) -> Rig {
        let mut rig = Rig::with(change);
        let config = Arc::new(server_config());
        rig.shard.tls = Some(ShardTls::new(config, &rig.shard.limits));
        rig
    }

    fn tls_client(&mut self, which: usize) -> Client {
        let mut client = Client::connect(self, which);
        client.shake_hands(self);
        client
    }

    /// A live call over TLS.
    fn tls_call(&mut self, interaction: &str) -> Client {
        let mut client = self.tls_client(0);
        let opening = [head(interaction), start(interaction)].concat();
        assert_eq!(client.ask(self, &opening), ["101", "started"]);
        client
    }

    fn tls_failures(&self, failure: TlsFailure) -> u64 {
        self.counters.tls_failures[failure.index()].read()
    }

    fn all_tls_failures(&self) -> u64 {
        self.counters.tls_failures.iter().map(Counter::read).sum()
    }
}

/// Plays a conversation over TLS.
fn play_sealed(which: usize, bytes: &[u8], receive_size_max: usize, finish: bool) -> Outcome {
    let mut rig = Rig::tls(|limits| {
        limits.completions_per_turn = 100_000;
        limits.max_ahead = Some(Duration::from_secs(1));
    });
    let mut client = rig.tls_client(which);
    rig.world.set_receive_size_max(receive_size_max);
    let sealed = client.seal(bytes);
    rig.send(client.socket, &sealed);
    if finish {
        rig.world.peer_finishes(client.socket);
    }
    rig.quiet();
    let (heard, is_over) = client.heard(&rig);
    let has_ended = rig.world.is_shut_down(client.socket) || rig.world.is_closed(client.socket);
    assert_eq!(is_over, has_ended, "close_notify comes before FIN");
    assert_eq!(rig.all_tls_failures(), 0);
    let outcome = said_and_counted(heard, &rig);
    rig.end();
    outcome
}

#[test]
fn conversations_over_tls_come_out_as_in_the_clear() {
    for (name, bytes) in conversations() {
        let plain = play(&bytes, usize::MAX, false);
        for (which, combination) in combinations().into_iter().enumerate() {
            assert_eq!(
                play_sealed(which, &bytes, usize::MAX, false),
                plain,
                "{name}, {combination:?}"
            );
        }
        for size in [1, 7, 64, 1000] {
            assert_eq!(play_sealed(0, &bytes, size, false), plain, "{name}, by {size}");
        }
    }
}

#[test]
fn with_a_fin_after_them_too() {
    for (name, bytes) in conversations() {
        let plain = play(&bytes, usize::MAX, true);
        for size in [7, usize::MAX] {
            let sealed = play_sealed(3, &bytes, size, true);
            assert_eq!(sealed.counted, plain.counted, "{name}, by {size}");
        }
    }
}

#[test]
fn handshakes_have_a_budget_and_a_live_calls_frames_come_first() {
    let mut rig = Rig::tls(|_| {});
    let mut live = rig.tls_call("live");
    let mut clients: Vec<_> = (0..7).map(|_| Client::connect(&rig, 0)).collect();
    rig.quiet();
    clients.iter_mut().for_each(|client| client.send(&rig));
    let sealed = live.seal(&frames(10, 10));
    rig.send(live.socket, &sealed);
    rig.turn();
    assert_eq!(rig.counters.frames.read(), 10);
    for left in [5, 3, 1, 0] {
        assert_eq!(rig.counters.tls_handshakes_waiting.read(), left);
        assert_eq!(rig.shard.next_wait() == Wait::No, left > 0);
        rig.turn();
    }
    assert_eq!(live.said(&rig), ["ack 10"]);
    for client in &mut clients {
        client.shake_hands(&mut rig);
    }
    assert_eq!(rig.counters.tls_handshakes_full.read(), 8);
    rig.end();
}

#[test]
fn a_handshake_that_is_nearly_through_goes_before_new_ones() {
    let mut rig = Rig::tls(|limits| limits.handshakes_per_turn = 1);
    let mut first = Client::connect(&rig, 0);
    first.send(&rig);
    rig.quiet();
    first.receive(&rig);
    let mut others: Vec<_> = (0..5).map(|_| Client::connect(&rig, 0)).collect();
    rig.quiet();
    others.iter_mut().for_each(|client| client.send(&rig));
    rig.turn();
    first.send(&rig);
    rig.turn();
    assert_eq!(rig.counters.tls_handshakes_full.read(), 1);
    assert!(rig.counters.tls_handshakes_waiting.read() > 1);
    rig.quiet();
    rig.end();
}

#[test]
fn time_in_our_queue_is_not_the_peers() {
    let mut rig = Rig::tls(|limits| limits.handshakes_per_turn = 0);
    let mut client = Client::connect(&rig, 0);
    client.send(&rig);
    for _ in 0..50 {
        rig.turn();
        rig.world.advance(rig.shard.limits.head_timeout / 10);
    }
    assert_eq!((rig.all_tls_failures(), rig.counters.tls_handshakes_waiting.read()), (0, 1));
    rig.shard.limits.handshakes_per_turn = 1;
    client.shake_hands(&mut rig);
    assert_eq!(client.ask(&mut rig, &[head("a"), start("a")].concat()), ["101", "started"]);
    rig.end();
}

#[test]
fn a_handshake_not_complete_in_time_is_closed_without_a_word() {
    let mut rig = Rig::tls(|_| {});
    let head_timeout = rig.shard.limits.head_timeout;
    let hello = drain(&mut Client::connect(&rig, 0).tls);
    let sockets: Vec<_> =
        [0, 1, 5, hello.len() - 1, hello.len()].map(|size| (rig.connect(), size)).to_vec();
    for (socket, size) in &sockets {
        rig.send(*socket, &hello[..*size]);
    }
    rig.quiet();
    for (socket, size) in &sockets {
        let flight = rig.world.peer_reads(*socket);
        assert_eq!(flight.is_empty(), *size < hello.len());
    }
    rig.pass(head_timeout + millis(10));
    for (socket, _) in &sockets {
        assert!(rig.world.is_shut_down(*socket));
        assert_eq!(rig.world.peer_reads(*socket), b"");
    }
    // The one that only connected is the client that made the hello.
    assert_eq!(rig.tls_failures(TlsFailure::HandshakeTimeout), sockets.len() as u64 + 1);
    rig.end();
}

#[test]
fn the_head_timer_covers_handshake_and_head_together() {
    let mut rig = Rig::tls(|_| {});
    let head_timeout = rig.shard.limits.head_timeout;
    let mut client = Client::connect(&rig, 0);
    rig.quiet();
    rig.pass(head_timeout / 2);
    client.shake_hands(&mut rig);
    rig.pass(head_timeout / 2 + millis(10));
    assert_eq!(client.said(&rig), ["408"]);
    rig.end();
}

#[test]
fn a_client_that_says_all_at_once_and_ends_is_heard() {
    let mut rig = Rig::tls(|limits| limits.handshakes_per_turn = 1);
    // Others stand before it in the queue.
    let mut others: Vec<_> = (0..3).map(|_| Client::connect(&rig, 0)).collect();
    let mut client = Client::connect(&rig, 0);
    client.send(&rig);
    rig.quiet();
    client.receive(&rig);
    others.iter_mut().for_each(|client| client.send(&rig));
    let last = client.seal(&[head("a"), start("a"), frames(12, 100)].concat());
    rig.send(client.socket, &last);
    rig.world.peer_finishes(client.socket);
    rig.quiet();
    assert_eq!((rig.counters.frames.read(), rig.counters.calls_ended.read()), (12, 1));
    assert_eq!(rig.all_tls_failures(), 0);
    rig.end();
}

#[test]
fn a_peer_that_is_gone_while_it_waits_costs_no_signature() {
    let mut rig = Rig::tls(|limits| limits.handshakes_per_turn = 0);
    let mut client = Client::connect(&rig, 0);
    client.send(&rig);
    (0..3).for_each(|_| rig.turn());
    rig.world.peer_resets(client.socket);
    (0..3).for_each(|_| rig.turn());
    rig.shard.limits.handshakes_per_turn = 1;
    rig.quiet();
    assert_eq!((rig.tls_failures(TlsFailure::HungUp), rig.counters.sends.read()), (1, 0));
    rig.end();
}

#[test]
fn without_spill_buffers_one_call_fails_and_the_others_go_on() {
    let mut rig = Rig::tls(|_| {});
    let count = rig.shard.limits.spill_buffers;
    let mut calls: Vec<_> =
        (0..=count).map(|number| rig.tls_call(&format!("call-{number}"))).collect();
    let sealed: Vec<_> = calls.iter_mut().map(|call| call.seal(&frames(10, 1000))).collect();
    for (call, sealed) in calls.iter().zip(&sealed) {
        rig.send(call.socket, &sealed[..3000]);
        rig.quiet();
    }
    assert_eq!(rig.tls_failures(TlsFailure::NoSpillBuffer), 1);
    assert_eq!(rig.counters.tls_spill_buffers_used.read(), count as u64);
    let mut last = calls.pop().unwrap();
    let told = hear(&mut last.tls, &rig.world.peer_reads(last.socket));
    let alert = rustls::AlertDescription::InternalError;
    assert_eq!(told, Err(rustls::Error::AlertReceived(alert)));
    for (call, sealed) in calls.iter_mut().zip(&sealed) {
        rig.send(call.socket, &sealed[3000..]);
        rig.quiet();
        assert_eq!(call.said(&rig), ["ack 10"]);
    }
    assert_eq!(rig.counters.tls_spill_buffers_used.read(), 0);
    assert_eq!(rig.counters.frames.read(), 10 * count as u64);
    rig.end();
}

#[test]
fn requests_in_pieces_leave_spill_buffers_to_calls() {
    let mut rig = Rig::tls(|_| {});
    let mut calls: Vec<_> = (0..3).map(|number| rig.tls_call(&format!("call-{number}"))).collect();
    let mut heads: Vec<_> = (0..2).map(|_| rig.tls_client(0)).collect();
    for client in heads.iter_mut().chain(&mut calls) {
        let sealed = client.seal(&[b'x'; 1000]);
        rig.send(client.socket, &sealed[..500]);
        rig.quiet();
    }
    // A quarter of four buffers is one.
    assert_eq!(rig.tls_failures(TlsFailure::NoSpillBuffer), 1);
    assert_eq!(rig.counters.tls_spill_buffers_used.read(), 4);
    rig.end();
}

#[test]
fn a_cut_record_counts_when_the_ring_is_nearly_full() {
    let mut rig = Rig::tls(|limits| limits.max_ahead = None);
    rig.hold_ring();
    let mut call = rig.tls_call("a");
    // Small frames, which need far more of the ring than of the wire: 12 KB in one record.
    let sealed = call.seal(&frames(2000, 0));
    let (most, last) = sealed.split_at(sealed.len() - 10);
    rig.send(call.socket, most);
    rig.quiet();
    assert_eq!(rig.counters.frames.read(), 0);
    rig.fill_ring(room_needed(last.len(), rig.connections()) + 64 * 1024);
    rig.send(call.socket, last);
    rig.quiet();
    assert_eq!(rig.counters.receives_deferred.read(), 1, "there is no room for the record");
    rig.let_ring_go();
    rig.quiet();
    assert_eq!(rig.counters.frames.read(), 2000);
    let expected: Vec<_> = (1..=200).map(|tens| format!("ack {tens}0")).collect();
    assert_eq!(call.said(&rig), expected);
    rig.end();
}

#[test]
fn a_damaged_record_ends_the_call_after_the_good_ones() {
    let mut rig = Rig::tls(|_| {});
    let mut call = rig.tls_call("a");
    let good = call.seal(&frames(10, 100));
    let mut bad = call.seal(&frames(10, 100));
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    let after = call.seal(&frames(10, 100));
    rig.send(call.socket, &[good, bad, after].concat());
    rig.quiet();
    assert_eq!((rig.counters.frames.read(), rig.counters.calls_ended.read()), (10, 1));
    assert_eq!(rig.tls_failures(TlsFailure::BadRecordMac), 1);
    let told = hear(&mut call.tls, &rig.world.peer_reads(call.socket));
    let alert = rustls::AlertDescription::BadRecordMac;
    assert_eq!(told, Err(rustls::Error::AlertReceived(alert)));
    assert!(rig.world.is_shut_down(call.socket));
    rig.end();
}

#[test]
fn an_alert_waits_for_a_send_slot() {
    let mut rig = Rig::tls(|_| {});
    let mut call = rig.tls_call("a");
    let mut bad = call.seal(&audio(100));
    bad[20] ^= 1;
    let slots: Vec<_> = std::iter::from_fn(|| rig.shard.io.acquire_slot()).collect();
    rig.send(call.socket, &bad);
    (0..5).for_each(|_| rig.turn());
    assert!(!rig.world.is_shut_down(call.socket));
    slots.into_iter().for_each(|slot| rig.shard.io.release_slot(slot));
    rig.quiet();
    assert!(hear(&mut call.tls, &rig.world.peer_reads(call.socket)).is_err());
    assert!(rig.world.is_shut_down(call.socket));
    rig.end();
}

#[test]
fn close_notify_instead_of_a_close_ends_the_call_and_is_answered() {
    let mut rig = Rig::tls(|_| {});
    let mut call = rig.tls_call("a");
    let mut last = call.seal(&frames(10, 100));
    call.tls.send_close_notify();
    last.extend(drain(&mut call.tls));
    last.extend([0; 100]);
    rig.send(call.socket, &last);
    rig.quiet();
    assert_eq!((rig.counters.frames.read(), rig.counters.calls_ended.read()), (10, 1));
    let (_, is_over) = call.heard(&rig);
    assert!(is_over, "close_notify");
    rig.assert_closed(call.socket);
    rig.end();
}

#[test]
fn a_plain_request_on_a_tls_port_gets_health_and_no_ingest() {
    let mut rig = Rig::tls(|_| {});
    let socket = rig.connect();
    assert_eq!(rig.ask(socket, b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n"), ["200"]);
    let socket = rig.connect();
    assert_eq!(rig.ask(socket, &head("a")), ["403"]);
    // The checks before it come first.
    let socket = rig.connect();
    assert_eq!(rig.ask(socket, b"GET /nowhere HTTP/1.1\r\nHost: node\r\n\r\n"), ["404"]);
    rig.shard.limits.allow_plain = true;
    let mut live = rig.call("b");
    assert_eq!(rig.ask(live, &frames(10, 10)), ["ack 10"]);
    live = rig.connect();
    assert_eq!(rig.ask(live, &[0x15]), ["400"]);
    rig.end();
}

#[test]
fn a_drain_in_the_middle_of_a_handshake_ends_it() {
    let mut rig = Rig::tls(|_| {});
    let mut half = Client::connect(&rig, 0);
    half.send(&rig);
    rig.quiet();
    half.receive(&rig);
    let mut idle = rig.tls_client(0);
    let mut call = rig.tls_call("a");
    rig.shard
        .mail
        .sender(0)
        .try_send(Message::Drain { grace: Duration::ZERO, window: Duration::ZERO })
        .unwrap();
    rig.quiet();
    assert_eq!(idle.said(&rig), ["503"]);
    assert!(rig.world.is_shut_down(half.socket));
    rig.pass(millis(50));
    assert_eq!(call.said(&rig).last().unwrap(), "close 1001");
    rig.end();
}

#[test]
fn a_silent_peer_of_a_port_that_closes_gets_an_alert() {
    let mut rig = Rig::tls(|_| {});
    let silent = rig.connect();
    rig.quiet();
    rig.shard
        .mail
        .sender(0)
        .try_send(Message::Drain { grace: Duration::ZERO, window: Duration::ZERO })
        .unwrap();
    rig.quiet();
    assert_eq!(rig.world.peer_reads(silent), [21, 3, 3, 0, 2, 2, 80]);
    assert!(rig.world.is_shut_down(silent));
    rig.end();
}

#[test]
fn a_key_that_has_sealed_enough_is_replaced_or_the_call_ends() {
    for (which, is_new) in [(0, true), (3, false)] {
        let mut rig = Rig::tls(|limits| limits.max_ahead = None);
        let mut client = rig.tls_client(which);
        let id = rig.shard.connections.ids().next().unwrap();
        let connection = rig.shard.connections.get(id).unwrap();
        let Transport::Records(records) = &mut connection.transport else {
            panic!("{connection:?}")
        };
        records.set_records_max(8);
        client.ask(&mut rig, &[head("a"), start("a")].concat());
        let mut acks = 0;
        for _ in 0..20 {
            if rig.world.is_closed(client.socket) || rig.world.is_shut_down(client.socket) {
                break;
            }
            acks += client.ask(&mut rig, &frames(10, 100)).len();
        }
        assert_eq!(rig.tls_failures(TlsFailure::KeyExhausted), u64::from(!is_new));
        match is_new {
            true => assert!(acks == 20 && rig.counters.tls_key_updates.read() >= 2),
            false => assert!(acks < 8 && client.heard(&rig).1, "close_notify"),
        }
        assert_eq!(rig.counters.calls_ended.read(), u64::from(!is_new));
        rig.end();
    }
}

#[test]
fn a_pool_of_spill_buffers_is_reserved_and_not_touched() {
    // 68 MB of addresses: a test that touched them would be noticed.
    assert_eq!(SpillPool::new(Limits::production().spill_buffers).used(), 0);
}
