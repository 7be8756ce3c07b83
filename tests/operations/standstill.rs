//! A node that stood still: under SIGSTOP, in a frozen cgroup, or on a paused machine. That time
//! counts against no peer. No call is closed for it, and everything sent meanwhile is acked.

use crate::EXO_INGEST;
use exo_ingest_harness::wire::{self, FIN, PING, PONG};
use exo_ingest_harness::{
    KERNEL_PATHS, Message, NodeProcess, Peer, Played, Player, SetOnDrop, TENANT, assert_sound,
    audit, eventually, heavy_test, mint, timed_test,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

/// Calls that never stop talking.
const TALKERS: u64 = 32;

/// Calls that answer pings, and say nothing else.
const LISTENERS: usize = 8;

const STOP: &str = r#"{"event":"stop"}"#;

/// Runs a test against a node process with these settings, on each kernel path.
fn on_both_paths(settings: &[&str], test: impl Fn(NodeProcess, &std::path::Path)) {
    for features in KERNEL_PATHS {
        println!("kernel features: {features}");
        let dir = tempfile::tempdir().expect("a directory");
        let mut args = vec!["--kernel-features", features];
        settings.iter().for_each(|setting| args.extend(["--set", setting]));
        test(NodeProcess::start(EXO_INGEST, dir.path(), &args), dir.path());
    }
}

/// Answers pings until `is_over`; then sends `stop` and reads the node's Close.
fn answer_pings(mut peer: Peer, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Acquire) {
        match peer.receive() {
            Message::Ping(payload) => peer.send(&wire::frame(FIN | PONG, &payload)),
            other => panic!("{other:?}, to a call that answers each ping"),
        }
    }
    peer.send(&wire::text(STOP));
    loop {
        match peer.receive() {
            Message::Ping(_) => {}
            Message::Text(text) => assert!(text.contains(r#""event":"stopped""#), "{text}"),
            other => return assert_eq!(other, Message::Close(Some(1000), String::new())),
        }
    }
}

#[test]
fn neither_talkers_nor_calls_that_answer_pings_are_cut() {
    let _turn = heavy_test();
    on_both_paths(&["timeouts.idle=1s", "timeouts.ping=400ms"], |node, data_dir| {
        let admin = node.admin();
        let pause = Duration::from_millis(100);
        let talker = |number| node.play(&format!("talker-{number}"), number, pause);
        let talkers: Vec<_> = (0..TALKERS).map(talker).collect();
        let listeners: Vec<_> = (0..LISTENERS)
            .map(|number| node.call_as(TENANT, &format!("listener-{number}")))
            .collect();
        let is_over = AtomicBool::new(false);
        let played: Vec<Played> = scope(|scope| {
            let over = SetOnDrop(&is_over);
            let listen = |peer| scope.spawn(|| answer_pings(peer, &is_over));
            let listeners: Vec<_> = listeners.into_iter().map(listen).collect();
            eventually("all are acked", || talkers.iter().all(|call| call.acked() >= 10));
            // Some of the short stops end just as a timer is due.
            for millis in [2_000, 1_050, 1_150, 1_250, 2_000] {
                let acked: Vec<_> = talkers.iter().map(Player::acked).collect();
                node.while_stopped(|| sleep(Duration::from_millis(millis)));
                let (_, reasons) = admin.ready();
                assert!(
                    !reasons.iter().any(|reason| reason == "shard_stuck"),
                    "after {millis} ms: {reasons:?}"
                );
                println!("stopped for {millis} ms; /ready right after: {reasons:?}");
                eventually("it is ready", || admin.ready().0 == 200);
                let acks_go_on =
                    || talkers.iter().zip(&acked).all(|(call, acked)| call.acked() > *acked);
                eventually("acks go on", || acks_go_on() || talkers.iter().any(Player::is_over));
            }
            drop(over);
            listeners.into_iter().for_each(|listener| listener.join().expect("it is not cut"));
            talkers.into_iter().map(Player::finish).collect()
        });
        let cut = played.iter().filter(|call| call.close != Some(1000)).count();
        assert_eq!(cut, 0, "{played:#?}");
        assert!(played.iter().all(|call| call.stopped == Some(call.sent)), "{played:#?}");
        println!("{:?}", admin.metrics().sum("exo_ingest_standstills_total"));
        assert!(node.terminate().success());
        assert_sound(data_dir);
        println!("{:?}", audit(data_dir, &played));
    });
}

/// A stop that is too short to be detected. The node reads what came during it before the timer
/// acts.
#[test]
fn a_stop_that_ends_just_after_a_timer_was_due_cuts_no_call() {
    let _turn = timed_test();
    on_both_paths(&["timeouts.idle=1s", "timeouts.ping=990ms"], |node, _| {
        let mut peer = node.call_as(TENANT, "sparse");
        let say = |peer: &mut Peer| peer.send(&wire::frame(FIN | PONG, b""));
        // When the timer is due depends on earlier events. With 14 lengths, some stops end right
        // after it.
        for round in 0..14 {
            say(&mut peer);
            sleep(Duration::from_millis(150));
            node.while_stopped(|| {
                sleep(Duration::from_millis(400));
                say(&mut peer);
                sleep(Duration::from_millis(400 + round * 20));
            });
            sleep(Duration::from_millis(100));
        }
        peer.send_frames(10, 320);
        let said = std::iter::repeat_with(|| peer.receive())
            .find(|message| !matches!(message, Message::Ping(_)));
        assert_eq!(said, Some(Message::Text(r#"{"event":"ack","seq":10}"#.into())));
        println!(
            "{} stops were noticed",
            node.admin().metrics().sum("exo_ingest_standstills_total")
        );
    });
}

/// A few hundred calls, each with five frames a second all the time. About 30 MB come during the
/// stop.
#[test]
fn a_crowd_that_talks_on_through_a_stop_is_acked_for_all_of_it() {
    let _turn = heavy_test();
    const CALLS: usize = 300;
    const ROUNDS_BEFORE: usize = 5;
    const ROUNDS_MEANWHILE: usize = 10;
    const ROUNDS: usize = 20;
    let frame = wire::binary(&[0x5a; 9_600]);
    on_both_paths(&["timeouts.idle=1s", "timeouts.ping=800ms"], |node, _| {
        let mut peers = Vec::with_capacity(CALLS);
        for number in 0..CALLS {
            let mut peer = node.upgrade_as(TENANT, &number.to_string());
            peer.send(&wire::text(&wire::start_text(TENANT, &number.to_string())));
            peers.push(peer);
            if number % 20 == 0 {
                // No call is silent while the others start.
                peers.iter_mut().for_each(|peer| peer.send(&wire::frame(FIN | PONG, b"")));
            }
        }
        let mut say = |rounds: usize| {
            for _ in 0..rounds {
                peers.iter_mut().for_each(|peer| peer.send(&frame));
                sleep(Duration::from_millis(200));
            }
        };
        say(ROUNDS_BEFORE);
        node.while_stopped(|| say(ROUNDS_MEANWHILE));
        say(ROUNDS - ROUNDS_BEFORE - ROUNDS_MEANWHILE);
        peers.iter_mut().for_each(|peer| peer.send(&wire::text(STOP)));
        for (number, peer) in peers.iter_mut().enumerate() {
            let texts = std::iter::repeat_with(|| peer.receive())
                .filter(|message| !matches!(message, Message::Ping(_)));
            let said: Vec<_> = texts.take(ROUNDS / 10 + 3).collect();
            let id = format!(r#""interaction_id":"{number}""#);
            let (seq, bytes, ms) = (ROUNDS, ROUNDS * 9_600, ROUNDS * 200);
            let counts = format!(
                r#""seq":{seq},"bytes":{bytes},"duration_ms":{ms},"durable_seq":{seq},"level":"durable""#
            );
            let mut expected = vec![Message::Text(format!(r#"{{"event":"started",{id}}}"#))];
            let acks = (1..=ROUNDS / 10)
                .map(|tens| Message::Text(format!(r#"{{"event":"ack","seq":{tens}0}}"#)));
            expected.extend(acks);
            expected.push(Message::Text(format!(r#"{{"event":"stopped",{id},{counts}}}"#)));
            expected.push(Message::Close(Some(1000), String::new()));
            assert_eq!(said, expected, "call {number}");
            peer.expect_end();
        }
        let metrics = node.admin().metrics();
        let count = |name: &str| metrics.sum(&format!("exo_ingest_{name}_total"));
        assert_eq!(count("frames"), (CALLS * ROUNDS) as f64);
        let in_vain = count("receive_buffers_exhausted");
        println!("{in_vain} receives without a buffer, {} reads", count("reads"));
        assert!(in_vain < (CALLS * ROUNDS) as f64 / 10.0, "{in_vain} receives without a buffer");
        assert!(node.terminate().success());
    });
}

#[test]
fn half_a_head_and_a_late_start_keep_the_time_that_they_had_left() {
    let _turn = timed_test();
    on_both_paths(&["timeouts.head=3s", "timeouts.start=3s"], |node, _| {
        let request = |interaction: &str| wire::upgrade_request(&mint(TENANT, interaction));
        let halves = |interaction: &str| {
            let (mut peer, bytes) =
                (Peer::connect(node.address()), request(interaction).into_bytes());
            let rest = bytes[100..].to_vec();
            peer.send(&bytes[..100]);
            (peer, rest)
        };
        let (mut head_meanwhile, rest_meanwhile) = halves("head-meanwhile");
        let (mut head_later, rest_later) = halves("head-later");
        let [mut start_meanwhile, mut start_later] =
            ["start-meanwhile", "start-later"].map(|name| node.upgrade_as(TENANT, name));
        let start = |peer: &mut Peer, name| peer.send(&wire::text(&wire::start_text(TENANT, name)));
        node.while_stopped(|| {
            sleep(Duration::from_secs(4));
            head_meanwhile.send(&rest_meanwhile);
            start(&mut start_meanwhile, "start-meanwhile");
        });
        // By now the shard has made a turn and handled its timers.
        node.call_as(TENANT, "another");
        head_later.send(&rest_later);
        start(&mut start_later, "start-later");
        for peer in [&mut head_meanwhile, &mut head_later] {
            peer.expect_switching();
        }
        start_meanwhile.expect_started("start-meanwhile");
        start_later.expect_started("start-later");
        assert!(node.terminate().success());
    });
}

/// A client that pings at a steady rate is no flood, even if the node reads a minute of pings at
/// once.
#[test]
fn pings_sent_during_a_stop_are_answered() {
    const PINGS: usize = 20;
    on_both_paths(&["limits.control_rate=10", "limits.control_burst=5"], |node, _| {
        let mut peer = node.call_as(TENANT, "pinging");
        node.while_stopped(|| {
            sleep(Duration::from_secs(2));
            peer.send(&wire::frame(FIN | PING, b"?").repeat(PINGS));
        });
        peer.send_frames(10, 320);
        let mut pongs = 0;
        loop {
            match peer.receive() {
                Message::Pong(_) => pongs += 1,
                Message::Text(text) => break assert_eq!(text, r#"{"event":"ack","seq":10}"#),
                other => panic!("{other:?} after {pongs} pongs"),
            }
        }
    });
}

/// After the stop the remaining calls do not all end at once.
#[test]
fn a_drain_goes_on_where_it_was() {
    let _turn = timed_test();
    for features in KERNEL_PATHS {
        let dir = tempfile::tempdir().expect("a directory");
        let node = NodeProcess::start(
            EXO_INGEST,
            dir.path(),
            &["--drain", "8s", "--kernel-features", features],
        );
        let mut calls = ["0", "1", "2", "3"].map(|name| node.call_as(TENANT, name));
        node.start_drain();
        // The first call ends at once, the others after two, four and six seconds.
        calls[0].expect_refusal(1001, "draining", true);
        let last = &mut calls[3];
        node.while_stopped(|| {
            sleep(Duration::from_secs(7));
            last.send_frames(10, 320);
        });
        last.expect_ack(10);
        last.send_frames(15, 320);
        last.expect_ack(20);
        last.send(&wire::text(STOP));
        assert!(matches!(last.receive(), Message::Text(text) if text.contains(r#""seq":25,"#)));
        last.expect_close(1000, "");
        calls[1..3].iter_mut().for_each(|peer| drop(peer.expect_refusal(1001, "draining", true)));
        assert!(node.wait().success());
    }
}

/// A request that came during the stop gets its answer. The admin listener's own timers do not
/// close it first.
#[test]
fn a_request_to_the_admin_listener_is_answered_across_a_stop() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = NodeProcess::start(EXO_INGEST, dir.path(), &[]);
    let admin = node.admin();
    let request = b"GET /ready HTTP/1.1\r\nHost: node\r\n\r\n";
    let mut peers: Vec<_> = (0..8).map(|_| admin.connect()).collect();
    peers.iter_mut().for_each(|peer| peer.send(&request[..20]));
    // By now the listener has read the start of each head.
    assert_eq!(admin.request("GET", "/ready").status, 200);
    node.while_stopped(|| {
        sleep(Duration::from_millis(5_500));
        peers.iter_mut().for_each(|peer| peer.send(&request[20..]));
    });
    for peer in &mut peers {
        assert_eq!(peer.try_response(true).map(|response| response.status), Some(200));
    }
}
