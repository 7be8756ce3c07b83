//! A refusal reaches a peer that sends without pause. First come all acks that are due, then the
//! error event with its reason, then the Close. Only then may the node reset the connection.
//!
//! Peers read at once, late, or slowly. A peer that never reads is cut after a while.

use exo_ingest::journal::settings::JournalSettings;
use exo_ingest::proto::close::Closing;
use exo_ingest::store::JournalConfig;
use exo_ingest_harness::wire::{self, BINARY, FIN, PING};
use exo_ingest_harness::{
    INTERACTION, Message, Peer, TENANT, TestNode, heavy_test, mint, on_both_kernels,
};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// 200 ms at 24 kHz.
const FRAME_SIZE: usize = 9_600;

/// Three minutes of audio, and ten.
const FRAME_COUNTS: [usize; 2] = [900, 3_000];

/// How a peer reads while it sends without pause.
#[derive(Clone, Copy, Debug)]
enum Reading {
    AtOnce,
    /// After all is sent, or nothing more can be sent.
    Late,
    /// A few bytes at a time, and it also writes slowly.
    Slowly,
}

/// What is refused, and the number of frames before it. Audio follows.
struct Provocation {
    closing: Closing,
    frames_before: usize,
    bytes: Vec<u8>,
    starts: bool,
}

fn provocations() -> Vec<Provocation> {
    let row = |closing, bytes| Provocation { closing, frames_before: 25, bytes, starts: true };
    let text = wire::start_text(TENANT, INTERACTION);
    vec![
        Provocation { frames_before: 0, ..row(Closing::TooFast, Vec::new()) },
        row(Closing::InvalidStart, wire::text(r#"{"event":"start"}"#)),
        row(Closing::AlreadyStarted, wire::text(&text.replace("24000", "8000"))),
        row(Closing::OddLength, wire::binary(&[0; 3])),
        row(Closing::TooBig, wire::announce(FIN | BINARY, 256 * 1024 + 1)),
        row(Closing::Flood, wire::frame(FIN | PING, b"?").repeat(60)),
        row(Closing::Protocol, wire::unmasked(FIN | BINARY, &[0; 10])),
        row(Closing::NotUtf8, wire::frame(FIN | wire::TEXT, b"\xff")),
        Provocation {
            starts: false,
            frames_before: 0,
            ..row(Closing::StartRequired, wire::binary(&[0; 320]))
        },
    ]
}

/// Reads up to the Close: acks in order, pongs between them, then the refusal. Returns the last
/// ack.
fn acks_then_refusal(peer: &mut Peer, closing: Closing, context: &str) -> u64 {
    let mut acked = 0;
    loop {
        match peer.receive() {
            Message::Pong(_) => {}
            Message::Text(text) if text.starts_with(r#"{"event":"ack""#) => {
                acked += 10;
                assert_eq!(text, format!(r#"{{"event":"ack","seq":{acked}}}"#), "{context}");
            }
            Message::Text(text) => {
                assert!(
                    text.contains(&format!(r#""reason":"{}""#, closing.reason())),
                    "{context}: {text}"
                );
                assert_eq!(
                    peer.receive(),
                    Message::Close(Some(closing.code()), closing.reason().to_owned()),
                    "{context}"
                );
                return acked;
            }
            Message::Close(code, _) => {
                assert!(
                    code == Some(closing.code()) && !closing.has_event(),
                    "{context}: {code:?}"
                );
                return acked;
            }
            other => panic!("{context}: {other:?} after the ack of {acked}"),
        }
    }
}

/// Plays a call that is refused. One thread only writes, one only reads.
fn play(
    node: &TestNode,
    interaction: &str,
    provocation: &Provocation,
    frames: usize,
    reading: Reading,
) {
    let Provocation { closing, frames_before, bytes, starts } = provocation;
    let context = format!("{closing:?}, {frames} frames, {reading:?}");
    let mut peer = node.connect();
    peer.upgrade(&mint(TENANT, interaction));
    if *starts {
        peer.start(TENANT, interaction);
    }
    let mut writer = Peer::on(peer.socket().try_clone().expect("a descriptor"));
    let frame = wire::binary(&[0x5a; FRAME_SIZE]);
    let start = Instant::now();
    let acked = scope(|scope| {
        let write = move || {
            let audio = || std::iter::repeat_n(&frame[..], frames);
            let before = wire::binary(&[0x5a; 320]).repeat(*frames_before);
            let all = [&before[..], bytes].into_iter().chain(audio());
            for piece in all.flat_map(|piece| piece.chunks(4_096)) {
                // At some time the node ends the connection.
                if writer.try_send(piece).is_err() {
                    break;
                }
                if matches!(reading, Reading::Slowly) {
                    sleep(Duration::from_millis(2));
                }
            }
        };
        match reading {
            Reading::Late => {
                scope.spawn(write).join().expect("it only writes");
                acks_then_refusal(&mut peer, *closing, &context)
            }
            Reading::AtOnce => {
                scope.spawn(write);
                acks_then_refusal(&mut peer, *closing, &context)
            }
            Reading::Slowly => {
                scope.spawn(write);
                peer.read_slowly(64, Duration::from_millis(20));
                acks_then_refusal(&mut peer, *closing, &context)
            }
        }
    });
    println!("  {context}: acked up to {acked}, over after {:.1?}", start.elapsed());
    if *closing == Closing::TooFast {
        // A call may be 30 s ahead, and time passes meanwhile.
        assert!(acked >= 150 && acked <= frames as u64, "{context}: {acked}");
    } else {
        assert_eq!(acked, *frames_before as u64 / 10 * 10, "{context}");
    }
}

#[test]
fn every_refusal_reaches_every_such_peer() {
    let _turn = heavy_test();
    on_both_kernels(|features| {
        for has_journal in [false, true] {
            println!(" journal: {has_journal}");
            let dir = tempfile::tempdir().expect("a directory");
            let data_dir = dir.path().join("data");
            let node = TestNode::start(features, |setup| {
                setup.limits.strict_pcm = true;
                setup.limits.ring_size = 32 << 20;
                let journal = JournalConfig::new(
                    data_dir,
                    JournalSettings {
                        segment_size: 64 << 20,
                        reserve: Some(1),
                        ..JournalSettings::default()
                    },
                );
                setup.journal = has_journal.then_some(journal);
            });
            let (node, provocations) = (&node, provocations());
            scope(|scope| {
                for (number, provocation) in provocations.iter().enumerate() {
                    for frames in FRAME_COUNTS {
                        for reading in [Reading::AtOnce, Reading::Late, Reading::Slowly] {
                            let interaction = format!("{number} {frames} {reading:?}");
                            scope.spawn(move || {
                                play(node, &interaction, provocation, frames, reading)
                            });
                        }
                    }
                }
            });
            node.await_no_connections();
            assert_eq!(node.node().calls_live(), 0);
        }
    });
}

/// The peer does not see the refusal. The node stops reading, and closes the socket after some
/// seconds.
#[test]
fn a_peer_that_never_reads_is_cut_after_its_time() {
    let _turn = heavy_test();
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut peers: Vec<_> =
            (0..4).map(|number| node.call_as(TENANT, &number.to_string())).collect();
        let audio = wire::binary(&[0x5a; FRAME_SIZE]).repeat(3_000);
        let start = Instant::now();
        scope(|scope| {
            let write = |peer: &mut Peer| {
                assert!(peer.try_send(&audio).is_err(), "the node took all of it")
            };
            peers.iter_mut().for_each(|peer| drop(scope.spawn(move || write(peer))));
        });
        node.await_no_connections();
        println!("  over after {:.1?}", start.elapsed());
        let too_fast = Closing::TooFast.index();
        assert_eq!(node.count_ingest(|counters| &counters.closes[too_fast]), 4);
    });
}
