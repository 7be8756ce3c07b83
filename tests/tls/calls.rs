//! Calls over TLS by a rustls client: in both versions, with every cipher suite, wherever the bytes
//! are cut. What is acked is in the journal, byte for byte.

use exo_ingest::io::probe::KernelFeatures;
use exo_ingest::journal::settings::JournalSettings;
use exo_ingest::metrics::TlsFailure;
use exo_ingest::store::JournalConfig;
use exo_ingest_harness::tls::Certificate;
use exo_ingest_harness::wire::{self, BINARY, FIN};
use exo_ingest_harness::{
    INTERACTION, Message, Peer, Played, Setup, TENANT, TestNode, audio, audit, eventually, mint,
    on_both_kernels,
};
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const STOP: &str = r#"{"event":"stop"}"#;

fn certificate() -> &'static Certificate {
    static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();
    CERTIFICATE.get_or_init(Certificate::make)
}

fn start(features: KernelFeatures, change: impl FnOnce(&mut Setup)) -> TestNode {
    TestNode::start(features, |setup| {
        setup.tls = Some(certificate().server());
        change(setup);
    })
}

/// A client of each version.
fn clients() -> [Arc<ClientConfig>; 2] {
    [ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3].map(|version| {
        let mut suites = default_provider().cipher_suites;
        suites.retain(|suite| suite.version().version == version);
        certificate().client_with(suites, |_| {})
    })
}

fn all_failures(node: &TestNode) -> u64 {
    TlsFailure::ALL.map(|failure| node.tls_failures(failure)).iter().sum()
}

fn frame(seed: u64, seq: u64) -> Vec<u8> {
    wire::frame(FIN | BINARY, &audio(seed, seq))
}

/// Plays 30 frames and `stop` on a call that has started.
#[track_caller]
fn play(peer: &mut Peer, seed: u64, mut send: impl FnMut(&mut Peer, &[u8])) {
    for seq in 1..=30 {
        send(peer, &frame(seed, seq));
        if seq % 10 == 0 {
            peer.expect_ack(seq);
        }
    }
    send(peer, &wire::text(STOP));
    let message = peer.receive();
    let Message::Text(text) = &message else { panic!("{message:?}") };
    assert!(
        text.starts_with(r#"{"event":"stopped""#) && text.contains(r#""durable_seq":30"#),
        "{text}"
    );
    peer.expect_close(1000, "");
}

fn played(interaction: &str, seed: u64) -> Played {
    let interaction = interaction.to_owned();
    let pid = std::process::id();
    Played { interaction, pid, seed, sent: 30, acked: 30, stopped: Some(30), close: Some(1000) }
}

fn with_journal(setup: &mut Setup, directory: &Path) {
    let settings = JournalSettings { reserve: Some(1), ..JournalSettings::default() };
    setup.journal = Some(JournalConfig::new(directory.to_owned(), settings));
    setup.ingest.has_journal = true;
    setup.limits.max_ahead = None;
}

#[track_caller]
fn call(node: &TestNode, config: &Arc<ClientConfig>, interaction: &str) -> Peer {
    let mut peer = node.connect_tls(config);
    peer.upgrade(&mint(TENANT, interaction));
    peer.start(TENANT, interaction);
    peer
}

#[test]
fn every_suite_carries_a_call_into_the_journal() {
    on_both_kernels(|features| {
        let directory = tempfile::tempdir().unwrap();
        let node = start(features, |setup| with_journal(setup, &directory.path().join("data")));
        let mut all = Vec::new();
        for (number, suite) in default_provider().cipher_suites.into_iter().enumerate() {
            let name = format!("{suite:?}");
            // The certificate's key is no RSA key.
            if name.contains("_RSA_") {
                continue;
            }
            let config = certificate().client_with(vec![suite], |_| {});
            let mut peer = call(&node, &config, &name);
            let negotiated = peer.tls().connection().negotiated_cipher_suite().unwrap();
            assert_eq!(negotiated.suite(), suite.suite());
            assert_eq!(peer.tls().connection().alpn_protocol(), None);
            play(&mut peer, number as u64, |peer, bytes| peer.send(bytes));
            all.push(played(&name, number as u64));
        }
        assert_eq!(all.len(), 6);
        assert_eq!(node.count(|counters| &counters.tls_handshakes_full), 6);
        assert_eq!(all_failures(&node), 0);
        node.await_no_connections();
        node.finish(Duration::ZERO).unwrap();
        let audit = audit(&directory.path().join("data"), &all);
        assert_eq!((audit.calls, audit.acked, audit.beyond), (6, 180, 0));
    });
}

#[test]
fn records_cut_anywhere_make_the_same_call() {
    on_both_kernels(|features| {
        let directory = tempfile::tempdir().unwrap();
        let node = start(features, |setup| with_journal(setup, &directory.path().join("data")));
        let mut all = Vec::new();
        for (number, config) in clients().iter().enumerate() {
            for (size, pause) in [(1, false), (3, false), (700, true), (1448, false), (4099, true)]
            {
                let interaction = format!("{number}-{size}");
                let seed = (number * 10_000 + size) as u64;
                let mut peer = call(&node, config, &interaction);
                let mut sent = 0;
                play(&mut peer, seed, |peer, bytes| {
                    let sealed = peer.tls().seal(bytes);
                    // Byte by byte takes a system call for each byte, so it is done for some frames
                    // only.
                    let is_cut = size > 3 || sent % 10 == 9;
                    sent += 1;
                    for piece in sealed.chunks(if is_cut { size } else { 100_000 }) {
                        peer.send_raw(piece);
                        if pause {
                            std::thread::sleep(Duration::from_micros(200));
                        }
                    }
                });
                all.push(played(&interaction, seed));
            }
        }
        assert!(node.count(|counters| &counters.tls_spills) > 0, "no record was cut");
        node.await_no_connections();
        eventually("spill buffers are free", || {
            node.count(|counters| &counters.tls_spill_buffers_used) == 0
        });
        node.finish(Duration::ZERO).unwrap();
        let audit = audit(&directory.path().join("data"), &all);
        assert_eq!((audit.calls, audit.acked, audit.beyond), (10, 300, 0));
    });
}

#[test]
fn a_hello_and_a_request_come_byte_by_byte() {
    on_both_kernels(|features| {
        let node = start(features, |_| {});
        for config in clients() {
            let mut peer = node.connect();
            let mut client = exo_ingest_harness::tls::Client::new(&config);
            for byte in client.pending() {
                peer.send(&[byte]);
            }
            let mut socket = peer.socket().try_clone().unwrap();
            assert_eq!(client.shake_hands(&mut socket).unwrap(), Some(HandshakeKind::Full));
            for byte in client.seal(wire::upgrade_request(&mint(TENANT, INTERACTION)).as_bytes()) {
                peer.send(&[byte]);
            }
            let mut answer = [0; 12];
            let mut have = 0;
            while have < answer.len() {
                have += client.read(&mut socket, &mut answer[have..]).unwrap();
            }
            assert_eq!(&answer, b"HTTP/1.1 101");
        }
    });
}

#[test]
fn a_second_connection_resumes_the_session() {
    on_both_kernels(|features| {
        let node = start(features, |_| {});
        for config in clients() {
            let before = node.count(|counters| &counters.tls_handshakes_resumed);
            let mut first = node.call_tls(&config);
            assert_eq!(first.tls().connection().handshake_kind(), Some(HandshakeKind::Full));
            first.send_frames(10, 960);
            first.expect_ack(10);
            let mut second = call(&node, &config, "another");
            assert_eq!(second.tls().connection().handshake_kind(), Some(HandshakeKind::Resumed));
            second.send_frames(10, 960);
            second.expect_ack(10);
            assert_eq!(node.count(|counters| &counters.tls_handshakes_resumed), before + 1);
        }
    });
}

#[test]
fn keys_are_replaced_within_a_call() {
    on_both_kernels(|features| {
        let node = start(features, |setup| setup.limits.max_ahead = None);
        let [_, config] = clients();
        let mut peer = node.call_tls(&config);
        for round in 1..=5 {
            peer.send_frames(5, 960);
            peer.tls().connection().refresh_traffic_keys().unwrap();
            peer.send_pending();
            peer.send_frames(5, 960);
            peer.expect_ack(round * 10);
        }
        eventually("keys of both sides are new", || {
            node.count(|counters| &counters.tls_key_updates) == 10
        });
        peer.send(&wire::close(1000));
        peer.expect_close(1000, "");
    });
}

#[test]
fn a_record_with_a_wrong_byte_ends_the_call_and_nothing_of_it_is_kept() {
    on_both_kernels(|features| {
        let node = start(features, |_| {});
        for config in clients() {
            let (frames, failed) = (
                node.count(|counters| &counters.frames),
                node.tls_failures(TlsFailure::BadRecordMac),
            );
            let mut peer = node.call_tls(&config);
            peer.send_frames(10, 960);
            peer.expect_ack(10);
            let mut sealed = peer.tls().seal(&frame(1, 1));
            let middle = sealed.len() / 2;
            sealed[middle] ^= 1;
            peer.send_raw(&sealed);
            let error = peer.tls_error();
            assert_eq!(error, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
            eventually("it is counted", || {
                node.tls_failures(TlsFailure::BadRecordMac) == failed + 1
            });
            assert_eq!(node.count(|counters| &counters.frames), frames + 10);
            eventually("the call has ended", || {
                node.count(|counters| &counters.calls_ended)
                    == node.count(|counters| &counters.calls_started)
            });
        }
    });
}

#[test]
fn close_notify_without_a_close_ends_the_call() {
    on_both_kernels(|features| {
        let node = start(features, |_| {});
        for config in clients() {
            let ended = node.count(|counters| &counters.calls_ended);
            let mut peer = node.call_tls(&config);
            peer.send_frames(10, 960);
            peer.expect_ack(10);
            peer.tls().connection().send_close_notify();
            peer.send_pending();
            peer.expect_end_unasked();
            eventually("the call has ended", || {
                node.count(|counters| &counters.calls_ended) == ended + 1
            });
            assert_eq!(all_failures(&node), 0);
        }
    });
}

#[test]
fn on_a_tls_port_plain_http_gets_health_and_no_ingest() {
    on_both_kernels(|features| {
        let node = start(features, |_| {});
        let mut peer = node.connect();
        peer.send(b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n");
        let response = peer.response();
        assert_eq!(
            (response.status, &*response.body),
            (200, r#"{"status":"ok","service":"ingest"}"#)
        );
        peer.expect_end();
        let mut peer = node.connect();
        peer.send(wire::upgrade_request(&mint(TENANT, INTERACTION)).as_bytes());
        let response = peer.response();
        assert_eq!(response.status, 403, "{}", response.body);
        assert!(response.body.contains("tls_required"), "{}", response.body);
        peer.expect_end();
        let mut peer = node.connect_tls(&clients()[1]);
        peer.send(b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n");
        assert_eq!(peer.response().status, 200);
        peer.expect_end();
    });
}

#[test]
fn plain_ingest_can_be_allowed() {
    let node = start(KernelFeatures::Newest, |setup| setup.limits.allow_plain = true);
    let mut peer = node.call();
    peer.send_frames(10, 960);
    peer.expect_ack(10);
    let mut peer = call(&node, &clients()[1], "sealed");
    peer.send_frames(10, 960);
    peer.expect_ack(10);
}

#[test]
fn a_handshake_that_is_not_complete_in_time_is_closed_and_leaves_nothing() {
    on_both_kernels(|features| {
        let node = start(features, |setup| {
            setup.limits.head_timeout = Duration::from_millis(300);
            setup.limits.close_timeout = Duration::from_millis(200);
        });
        let hello = exo_ingest_harness::tls::Client::new(&clients()[1]).pending();
        let halves = [0, 1, 4, 5, hello.len() / 2, hello.len() - 1, hello.len()];
        let mut peers: Vec<_> = halves
            .into_iter()
            .map(|size| {
                let mut peer = node.connect();
                peer.send(&hello[..size]);
                peer
            })
            .collect();
        // A client that completed its handshake and sends no request gets an answer.
        let mut silent = node.connect_tls(&clients()[1]);
        assert_eq!(silent.response().status, 408);
        for peer in &mut peers {
            peer.rest();
        }
        assert_eq!(node.tls_failures(TlsFailure::HandshakeTimeout), halves.len() as u64);
        drop((peers, silent));
        node.await_no_connections();
    });
}

#[test]
fn hellos_that_cannot_be_served_get_an_alert() {
    on_both_kernels(|features| {
        let node = start(features, |_| {});
        // No protocol in common.
        let config = certificate().client(|config| config.alpn_protocols = vec![b"h2".to_vec()]);
        let mut client = exo_ingest_harness::tls::Client::new(&config);
        let error =
            client.shake_hands(&mut node.connect().socket().try_clone().unwrap()).unwrap_err();
        assert!(format!("{error:?}").contains("NoApplicationProtocol"), "{error:?}");
        eventually("it is counted", || node.tls_failures(TlsFailure::Incompatible) == 1);
        // A certificate that the client does not trust: the client sends an alert.
        let config = Certificate::make().client(|_| {});
        let mut client = exo_ingest_harness::tls::Client::new(&config);
        client.shake_hands(&mut node.connect().socket().try_clone().unwrap()).unwrap_err();
        eventually("it is counted", || node.tls_failures(TlsFailure::PeerAlert) == 1);
        // A record that is too long.
        let mut peer = node.connect();
        peer.send(&[0x16, 3, 1, 0x50, 0]);
        assert_eq!(peer.rest(), [21, 3, 3, 0, 2, 2, 22]);
        eventually("it is counted", || node.tls_failures(TlsFailure::RecordOverflow) == 1);
        // No ClientHello.
        let mut peer = node.connect();
        peer.send(&[0x16, 3, 1, 0, 4, 9, 0, 0, 0]);
        let rest = peer.rest();
        assert_eq!(rest.first(), Some(&21), "{rest:?}");
        eventually("it is counted", || node.tls_failures(TlsFailure::BadHandshake) == 1);
        assert_eq!(all_failures(&node), 4);
    });
}

#[test]
fn a_new_certificate_is_for_new_connections() {
    on_both_kernels(|features| {
        let node = start(features, |setup| setup.shards = 2);
        let mut live = node.call_tls(&clients()[1]);
        let other = Certificate::make();
        let mail = node.count(|counters| &counters.mailbox_messages);
        node.node().set_tls(other.server());
        eventually("all shards have it", || {
            node.count(|counters| &counters.mailbox_messages) >= mail + 2
        });
        let trusting = other.client(|_| {});
        for number in 0..8 {
            call(&node, &trusting, &number.to_string());
        }
        live.send_frames(10, 960);
        live.expect_ack(10);
    });
}
