//! Random peers on random shards: they connect, say sense and nonsense in random cuts, stop reading, end and vanish; meanwhile
//! the ring fills, receive buffers run out and time jumps. Whatever happens, acks come in order and for frames that were sent,
//! and at the end nothing is left.
//!
//! A failure prints its seed; `EXO_INGEST_SEED=… cargo test --lib shard::tests::random` plays that one again, and
//! `EXO_INGEST_SEEDS=…` plays as many.

#![forbid(unsafe_code)]

use super::*;
use std::ops::Range;

/// Runs in a normal test: a few seconds.
const RUNS: u64 = 40;

const STEPS: usize = 120;

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn within(&mut self, range: Range<usize>) -> usize {
        range.start + self.roll() as usize % range.len()
    }

    /// True once in `count`.
    fn once_in(&mut self, count: u64) -> bool {
        self.roll().is_multiple_of(count)
    }

    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.within(0..choices.len())].clone()
    }
}

/// Says which seed it was if the test fails under it.
struct SeedNote(u64);

impl Drop for SeedNote {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was EXO_INGEST_SEED={}", self.0);
        }
    }
}

/// A peer and what it is going to say.
struct Peer {
    rig: usize,
    socket: Socket,
    script: Vec<u8>,
    /// Bytes of the script that have been sent.
    sent: usize,
    /// Where in the script each audio frame after the first `start` ends.
    frame_ends: Vec<usize>,
    heard: Vec<u8>,
    /// It has finished, reset, or both.
    ended: bool,
}

impl Peer {
    fn random(dice: &mut Dice, rig: usize, socket: Socket) -> Peer {
        let interaction = format!("call-{}", dice.within(0..4));
        let mut peer =
            Peer { rig, socket, script: Vec::new(), sent: 0, frame_ends: Vec::new(), heard: Vec::new(), ended: false };
        let opening = match dice.within(0..12) {
            0 => b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            1 => b"POST / HTTP/1.1\r\n\r\n".to_vec(),
            2 => head_with_token("a.b.c"),
            3 => (0..50).map(|_| dice.roll() as u8).collect(),
            _ => head(&interaction),
        };
        peer.script.extend(opening);
        if !dice.once_in(10) {
            peer.script.extend(start(&interaction));
        }
        for _ in 0..dice.within(0..60) {
            peer.say_something(dice, &interaction);
        }
        match dice.within(0..4) {
            0 => peer.script.extend(text(STOP)),
            1 => peer.script.extend(close(1000)),
            _ => {}
        }
        peer
    }

    fn say_something(&mut self, dice: &mut Dice, interaction: &str) {
        match dice.within(0..60) {
            0 => self.script.extend(start(interaction)),
            1 => self.script.extend(text(r#"{"event":"mark"}"#)),
            2 => self.script.extend(masked(0x9, &vec![b'p'; dice.within(0..126)])),
            3 if dice.once_in(6) => self.script.extend((0..20).map(|_| dice.roll() as u8)),
            4 if dice.once_in(6) => self.script.extend(text("{")),
            5 if dice.once_in(6) => self.script.extend(audio(2000)),
            _ => {
                let size = match dice.within(0..3) {
                    0 => dice.within(0..8),
                    1 => dice.within(0..200),
                    _ => dice.within(0..1025),
                };
                self.script.extend(audio(size));
                self.frame_ends.push(self.script.len());
            }
        }
    }

    /// Frames that the node can have in full by now, at the most.
    fn frames_sent(&self) -> u64 {
        self.frame_ends.iter().filter(|end| **end <= self.sent).count() as u64
    }

    /// What it has heard so far makes sense.
    fn check(&self) {
        let words = said_so_far(&self.heard);
        let acks: Vec<u64> = words.iter().filter_map(|word| word.strip_prefix("ack ")?.parse().ok()).collect();
        for (index, ack) in acks.iter().enumerate() {
            assert_eq!(*ack, (index as u64 + 1) * 10, "acks in order, none left out: {words:?}");
        }
        let acked = acks.last().copied().unwrap_or(0);
        assert!(acked <= self.frames_sent(), "{acked} acked of {} sent", self.frames_sent());
        let closed_at = words.iter().position(|word| word.starts_with("close"));
        assert!(closed_at.is_none_or(|at| at + 1 == words.len()), "nothing comes after our Close: {words:?}");
        let started = words.iter().position(|word| word == "started");
        let first_ack = words.iter().position(|word| word.starts_with("ack"));
        assert!(first_ack.is_none() || started < first_ack, "{words:?}");
    }
}

/// As [`said`], for bytes that may still lack the end of the head.
fn said_so_far(heard: &[u8]) -> Vec<String> {
    let is_upgraded = heard.starts_with(b"HTTP/1.1 101") && heard.windows(4).any(|four| four == b"\r\n\r\n");
    if is_upgraded { said(heard) } else { Vec::new() }
}

/// A node of one or two shards, its peers, and what is done to them.
struct Play {
    dice: Dice,
    rigs: Vec<Rig>,
    consumers: Vec<Option<ConsumerId>>,
    peers: Vec<Peer>,
}

impl Play {
    fn new(seed: u64) -> Play {
        let mut dice = Dice(seed);
        let limits = Limits {
            completions_per_turn: dice.one_of(&[1, 2, 8, 256]),
            handshakes_per_turn: dice.one_of(&[1, 2, 16]),
            send_slot_count: dice.one_of(&[1, 4]),
            connections_max: dice.one_of(&[3, 16]),
            calls_max: dice.one_of(&[2, 8, 100]),
            max_ahead: dice.one_of(&[None, Some(Duration::from_secs(2))]),
            ..Limits::tiny()
        };
        // A byte a turn would be a slow play.
        let size = dice.one_of(&[usize::MAX, if limits.completions_per_turn < 8 { 50 } else { 1 }, 100, 5000]);
        let count = dice.within(1..3);
        let rigs = rigs(count, settings(limits));
        rigs.iter().for_each(|rig| rig.world.set_receive_size_max(size));
        Play { dice, consumers: rigs.iter().map(|_| None).collect(), rigs, peers: Vec::new() }
    }

    fn step(&mut self) {
        match self.dice.within(0..24) {
            0..4 => self.connect(),
            4..14 => self.send(),
            14 => self.with_peer(|dice, rig, peer| {
                let window = dice.one_of(&[None, Some(0), Some(1), Some(30), Some(500)]);
                rig.world.set_window(peer.socket, window);
            }),
            15 => self.with_peer(|dice, rig, peer| {
                if !peer.ended && dice.once_in(2) {
                    peer.ended = true;
                    rig.world.peer_finishes(peer.socket);
                }
            }),
            16 => self.with_peer(|dice, rig, peer| {
                if dice.once_in(3) {
                    peer.ended = true;
                    rig.world.peer_resets(peer.socket);
                }
            }),
            17 => self.with_rig(|dice, rig, consumer| match consumer.take() {
                Some(consumer) => rig.let_ring_go(consumer),
                None => {
                    *consumer = Some(rig.hold_ring());
                    if dice.once_in(2) {
                        rig.fill_ring(dice.within(1..20_000));
                    }
                }
            }),
            18 => self.with_rig(|dice, rig, _| {
                // The script counts buffers, not shares of them: what the shard holds now it will give back.
                let free = dice.one_of(&[None, Some(1), Some(3)]);
                rig.world.set_receive_buffers_free(free);
            }),
            19 | 20 => {
                let pause = self.dice.one_of(&[1, 5, 50, 300, 600, 3_000]);
                self.rigs.iter().for_each(|rig| rig.world.advance(millis(pause)));
            }
            21 => self.with_rig(|dice, rig, _| rig.world.step_wall_clock(dice.one_of(&[-3600, 5, 1800]))),
            22 => self.with_rig(|dice, rig, _| {
                let error = dice.one_of(&[rustix::io::Errno::MFILE, rustix::io::Errno::CONNABORTED]);
                rig.world.fail_accept(error);
            }),
            _ => {}
        }
        for _ in 0..self.dice.within(0..4) {
            let index = self.dice.within(0..self.rigs.len());
            self.rigs[index].turn();
            self.check();
        }
    }

    fn with_peer(&mut self, act: impl FnOnce(&mut Dice, &mut Rig, &mut Peer)) {
        if !self.peers.is_empty() {
            let index = self.dice.within(0..self.peers.len());
            let peer = &mut self.peers[index];
            act(&mut self.dice, &mut self.rigs[peer.rig], peer);
        }
    }

    fn with_rig(&mut self, act: impl FnOnce(&mut Dice, &mut Rig, &mut Option<ConsumerId>)) {
        let index = self.dice.within(0..self.rigs.len());
        act(&mut self.dice, &mut self.rigs[index], &mut self.consumers[index]);
    }

    fn connect(&mut self) {
        let index = self.dice.within(0..self.rigs.len());
        let socket = self.rigs[index].connect();
        self.peers.push(Peer::random(&mut self.dice, index, socket));
    }

    fn send(&mut self) {
        self.with_peer(|dice, rig, peer| {
            if peer.ended {
                return;
            }
            let left = peer.script.len() - peer.sent;
            let size = match dice.within(0..3) {
                0 => left.min(dice.within(0..20)),
                1 => left.min(dice.within(0..3000)),
                _ => left,
            };
            rig.world.peer_sends(peer.socket, &peer.script[peer.sent..peer.sent + size]);
            peer.sent += size;
        });
    }

    fn check(&mut self) {
        for peer in &mut self.peers {
            peer.heard.extend(self.rigs[peer.rig].world.peer_reads(peer.socket));
            peer.check();
        }
        for rig in &self.rigs {
            let shard = &rig.shard;
            assert!(shard.connections.count() <= shard.limits.connections_max);
            assert!(shard.starved.is_empty() && shard.paused.len() <= 2 * shard.limits.connections_max);
            if shard.behind_since.is_none() {
                assert!(shard.io.outstanding() <= shard.deferred.len(), "received bytes are held for nothing");
            }
        }
    }

    /// All faults end, then all peers do; the shards may have as much time as they want to themselves.
    fn finish(mut self) {
        for (rig, consumer) in self.rigs.iter_mut().zip(&mut self.consumers) {
            rig.world.set_receive_buffers_free(None);
            if let Some(consumer) = consumer.take() {
                rig.let_ring_go(consumer);
            }
        }
        let drains = self.dice.once_in(3);
        if drains {
            let window = millis(self.dice.one_of(&[0, 100]));
            self.rigs.iter().for_each(|rig| rig.shard.shards[rig.shard.index].try_send(Message::Drain { window }).unwrap());
        }
        quiet_all(&mut self.rigs);
        self.check();
        for peer in &self.peers {
            if !peer.ended && self.dice.once_in(2) {
                self.rigs[peer.rig].world.peer_resets(peer.socket);
            }
        }
        // The others say nothing more and do not end: deadlines are all that is left.
        for _ in 0..8 {
            for rig in &mut self.rigs {
                let wakes = rig.pass(Duration::from_secs(1));
                assert!(wakes < 300, "woken {wakes} times in a second");
            }
            quiet_all(&mut self.rigs);
        }
        self.check();
        assert!(!drains || self.rigs.iter().all(|rig| rig.finished));
        self.rigs.iter_mut().filter(|rig| rig.finished).for_each(Rig::reap_backlog);
        self.rigs.iter_mut().for_each(Rig::assert_nothing_left);
        let frames: u64 = self.rigs.iter().map(|rig| rig.counters.frames.read()).sum();
        let started: u64 = self.rigs.iter().map(|rig| rig.counters.calls_started.read()).sum();
        let ended: u64 = self.rigs.iter().map(|rig| rig.counters.calls_ended.read()).sum();
        assert!(frames <= self.peers.iter().map(Peer::frames_sent).sum());
        assert_eq!(started, ended);
        assert!(self.rigs.iter().all(|rig| rig.ingest.counters.ends_unrecorded.read() == 0), "calls ended without a record");
    }
}

impl Rig {
    /// A shard that has drained accepts no more: who still stood in the queue is the kernel's to refuse.
    fn reap_backlog(&mut self) {
        self.sockets.borrow_mut().retain(|socket| self.world.is_closed(*socket) || self.world.is_reading(*socket));
    }
}

#[test]
fn whatever_peers_do_acks_are_true_and_nothing_is_left() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seeds = match number("EXO_INGEST_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("EXO_INGEST_SEEDS").unwrap_or(RUNS),
    };
    for seed in seeds {
        let _note = SeedNote(seed);
        let mut play = Play::new(seed);
        (0..STEPS).for_each(|_| play.step());
        play.finish();
    }
}
