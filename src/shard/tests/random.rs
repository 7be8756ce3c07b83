//! Random peers on random shards: they connect, say sense and nonsense in random cuts, stop
//! reading, end and vanish; meanwhile the ring fills, receive buffers run out and time jumps.
//! Whatever happens, acks come in order and for frames that were sent, and at the end nothing is
//! left. In `disks` there is a disk below them that fails, and in `engine` a message engine.
//!
//! A failure prints its seed; `EXO_INGEST_SEED=… cargo test --lib shard::tests::random` plays that
//! one again, and `EXO_INGEST_SEEDS=…` plays as many.

#![forbid(unsafe_code)]

mod cuts;
mod disks;
mod engine;
mod image;
mod peer;

use super::*;
use crate::ack_level::{AckLevel, CallLevels};
use crate::constants::{ACCEPTS_MAX, SHED_CONNECTIONS_MAX};
use crate::journal::writer::Backlog;
use engine::Engine;
use peer::{Peer, acked, peer_of};
use std::ops::Range;

/// Runs in a normal test: a few seconds.
const RUNS: u64 = 40;

const STEPS: usize = 120;

/// SplitMix64: small, and the same everywhere.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn within(&mut self, range: Range<usize>) -> usize {
        range.start + self.roll() as usize % range.len()
    }

    /// True once in `count`.
    pub(super) fn once_in(&mut self, count: u64) -> bool {
        self.roll().is_multiple_of(count)
    }

    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.within(0..choices.len())].clone()
    }
}

/// Says which seed it was if the test fails under it.
pub(super) struct SeedNote(pub(super) u64);

impl Drop for SeedNote {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was EXO_INGEST_SEED={}", self.0);
        }
    }
}

/// Tiny limits, and the time that a disk takes.
pub(super) fn patient() -> Limits {
    let Limits {
        head_timeout, start_timeout, ping_after, idle_timeout, ack_stalled_timeout, ..
    } = Limits::production();
    Limits {
        head_timeout,
        start_timeout,
        ping_after,
        idle_timeout,
        ack_stalled_timeout,
        ..Limits::tiny()
    }
}

/// A node of one or two shards, its peers, and what is done to them.
struct Play {
    dice: Dice,
    rigs: Vec<Rig>,
    peers: Vec<Peer>,
    /// Rings are filled, and other things are done that make journals large.
    is_large: bool,
    /// The sum of all ACKs when the disk was last looked at.
    acked: u64,
    /// Faults that disks were told to have.
    faults: u64,
    /// Disks finish nothing for the moment.
    is_slow: bool,
    /// Most file operations that were under way on one disk: a sync, and writes.
    under_way_max: usize,
    /// With ACKs that wait for it.
    engine: Option<Engine>,
}

impl Play {
    fn new(seed: u64) -> Play {
        Play::on(seed, 1..3, None)
    }

    fn on(seed: u64, counts: Range<usize>, disk: Option<DiskSettings>) -> Play {
        let mut dice = Dice(seed);
        let limits = Limits {
            completions_per_turn: dice.one_of(if disk.is_some() {
                &[8, 256]
            } else {
                &[1, 2, 8, 256]
            }),
            handshakes_per_turn: dice.one_of(&[1, 2, 16]),
            send_slot_count: dice.one_of(&[1, 4]),
            // On a disk the calls are what counts, not refused connections.
            connections_max: if disk.is_some() { 16 } else { dice.one_of(&[3, 16]) },
            calls_max: if disk.is_some() { 100 } else { dice.one_of(&[2, 8, 100]) },
            max_ahead: dice.one_of(&[None, Some(Duration::from_secs(2))]),
            ..if disk.is_some() { patient() } else { Limits::tiny() }
        };
        // A byte a turn would be a slow play.
        let size = dice.one_of(&[
            usize::MAX,
            if limits.completions_per_turn < 8 || disk.is_some() { 50 } else { 1 },
            100,
            5000,
        ]);
        let count = dice.within(counts);
        let level = match disk {
            Some(DiskSettings { replication: Some(_), .. }) => AckLevel::Replicated,
            Some(disk) => disk.level,
            None => AckLevel::Received,
        };
        let rigs = rigs_on(
            count,
            IngestSettings {
                has_journal: disk.is_some(),
                levels: CallLevels::all(level),
                ..settings(limits)
            },
            disk,
        );
        for rig in &rigs {
            rig.world.set_receive_size_max(size);
            rig.world.hold_file_operations(disk.is_some());
        }
        Play {
            dice,
            rigs,
            peers: Vec::new(),
            is_large: true,
            acked: 0,
            faults: 0,
            is_slow: false,
            under_way_max: 0,
            engine: (level == AckLevel::Replicated).then(Engine::default),
        }
    }

    fn is_on_disk(&self) -> bool {
        self.rigs[0].disk.is_some()
    }

    fn step(&mut self) {
        self.step_disks();
        self.step_engine();
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
            17 if self.is_large && (!self.is_on_disk() || self.dice.once_in(30)) => {
                self.with_rig(|dice, rig| match rig.shard.ring.held {
                    Some(_) => rig.let_ring_go(),
                    None => {
                        rig.hold_ring();
                        if dice.once_in(2) {
                            rig.fill_ring(dice.within(1..20_000));
                        }
                    }
                })
            }
            18 => self.with_rig(|dice, rig| {
                // The script counts buffers, not shares of them: what the shard holds now it will
                // give back.
                let free = dice.one_of(&[None, Some(1), Some(3)]);
                rig.world.set_receive_buffers_free(free);
            }),
            19 | 20 => {
                let pause = self.dice.one_of(&[1, 5, 50, 300, 600, 3_000]);
                self.rigs.iter().for_each(|rig| rig.world.advance(millis(pause)));
            }
            21 if !self.is_on_disk() || self.dice.once_in(10) => {
                self.with_rig(|dice, rig| rig.world.step_wall_clock(dice.one_of(&[-3600, 5, 1800])))
            }
            22 => self.with_rig(|dice, rig| {
                let error =
                    dice.one_of(&[rustix::io::Errno::MFILE, rustix::io::Errno::CONNABORTED]);
                rig.world.fail_accept(error);
            }),
            _ => {}
        }
        for _ in 0..self.dice.within(0..4) {
            let index = self.dice.within(0..self.rigs.len());
            self.rigs[index].turn();
            self.under_way_max =
                self.under_way_max.max(self.rigs[index].world.file_operation_count());
            self.check();
        }
    }

    fn with_peer(&mut self, act: impl FnOnce(&mut Dice, &mut Rig, &mut Peer)) {
        if !self.peers.is_empty() {
            // On a disk the newest ones: those before them are gone, or have said what they had to
            // say.
            let oldest = if self.is_on_disk() { self.peers.len().saturating_sub(6) } else { 0 };
            let index = self.dice.within(oldest..self.peers.len());
            let peer = &mut self.peers[index];
            act(&mut self.dice, &mut self.rigs[peer.rig], peer);
        }
    }

    fn with_rig(&mut self, act: impl FnOnce(&mut Dice, &mut Rig)) {
        let index = self.dice.within(0..self.rigs.len());
        act(&mut self.dice, &mut self.rigs[index]);
    }

    fn connect(&mut self) {
        let index = self.dice.within(0..self.rigs.len());
        let socket = self.rigs[index].connect();
        let number = self.peers.len() + 1;
        let mut peer = Peer::random(&mut self.dice, number, index, socket);
        if self.is_on_disk() {
            peer.sent = peer.script.len().min(self.dice.within(600..2_000));
            self.rigs[index].world.peer_sends(socket, &peer.script[..peer.sent]);
        }
        self.peers.push(peer);
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
        for rig in &mut self.rigs {
            rig.check_heads();
            let shard = &rig.shard;
            assert!(
                shard.connections.count() <= shard.limits.connections_max + SHED_CONNECTIONS_MAX
            );
            assert!(shard.reads.len() <= 4 * (shard.limits.connections_max + SHED_CONNECTIONS_MAX));
            if !shard.clock.has_backlog() {
                assert!(
                    shard.io.outstanding() <= shard.deferred.len(),
                    "received bytes are held for nothing"
                );
            }
        }
        self.check_disks();
        self.check_engine();
    }

    /// All faults end, then all peers do; the shards may have as much time as they want to
    /// themselves.
    fn finish(mut self) {
        for rig in &mut self.rigs {
            rig.world.set_receive_buffers_free(None);
            if rig.shard.ring.held.is_some() {
                rig.let_ring_go();
            }
        }
        self.heal_disks();
        self.heal_engine();
        let drains = self.dice.once_in(3);
        if drains {
            let (grace, window) =
                (millis(self.dice.one_of(&[0, 50])), millis(self.dice.one_of(&[0, 100])));
            let drain = |rig: &Rig| {
                rig.shard
                    .mail
                    .sender(rig.shard.index)
                    .try_send(Message::Drain { grace, window })
                    .unwrap()
            };
            self.rigs.iter().for_each(drain);
        }
        quiet_all(&mut self.rigs);
        self.check();
        for peer in &self.peers {
            if !peer.ended && self.dice.once_in(2) {
                self.rigs[peer.rig].world.peer_resets(peer.socket);
            }
        }
        // The others say nothing more and do not end: deadlines are all that is left.
        for _ in 0..if self.is_on_disk() { 48 } else { 8 } {
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
        assert!(
            self.rigs.iter().all(|rig| rig.ingest.counters.ends_unrecorded.read() == 0),
            "calls ended without a record"
        );
    }
}

impl Rig {
    /// The connections that may have to give way are known, and no more accepts are armed than
    /// there are places.
    fn check_heads(&mut self) {
        let shard = &mut self.shard;
        let ids: Vec<_> = shard.connections.ids().collect();
        let mut is_head = |id| {
            shard
                .connections
                .get(id)
                .is_some_and(|connection| matches!(connection.stage, Stage::Head(_)))
        };
        let incomplete = ids.into_iter().filter(|id| is_head(*id)).count();
        assert_eq!(shard.admission.incomplete_count(), incomplete);
        assert!(incomplete <= shard.limits.heads_max + ACCEPTS_MAX);
        assert!(shard.admission.armed_count() <= shard.connections.free_count());
    }

    /// A shard that has drained accepts no more: what still waited in the queue is the kernel's to
    /// refuse.
    fn reap_backlog(&mut self) {
        self.sockets
            .borrow_mut()
            .retain(|socket| self.world.is_closed(*socket) || self.world.is_reading(*socket));
    }
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Most plays have many writes under way as soon as two batches wait.
fn backlog(seed: u64) -> Backlog {
    if seed.is_multiple_of(4) { Backlog::production() } else { Backlog::tiny() }
}

/// The seeds to be played: one that was asked for, or so many.
fn seeds(runs: u64) -> std::ops::RangeInclusive<u64> {
    match number("EXO_INGEST_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("EXO_INGEST_SEEDS").unwrap_or(runs),
    }
}

#[test]
fn whatever_peers_do_acks_are_true_and_nothing_is_left() {
    for seed in seeds(RUNS) {
        let _note = SeedNote(seed);
        let mut play = Play::new(seed);
        (0..STEPS).for_each(|_| play.step());
        play.finish();
    }
}
