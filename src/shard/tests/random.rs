//! Random peers on random shards: they connect, say sense and nonsense in random cuts, stop
//! reading, end and vanish; meanwhile the ring fills, receive buffers run out and time jumps.
//! Whatever happens, acks come in order and for frames that were sent, and at the end nothing is
//! left. With a disk below them, writes fail, fall short and overtake each other, syncs fail, there
//! is no room and no progress; and at any moment what has been acked is on that disk, byte for
//! byte.
//!
//! A failure prints its seed; `EXO_INGEST_SEED=… cargo test --lib shard::tests::random` plays that
//! one again, and `EXO_INGEST_SEEDS=…` plays as many.

#![forbid(unsafe_code)]

mod cuts;
mod engine;
mod image;

use super::*;
use crate::ack_level::{AckLevel, CallLevels};
use crate::constants::{ACCEPTS_MAX, SHED_CONNECTIONS_MAX};
use crate::io::FileHandle;
use crate::journal::writer::{Backlog, WRITES_MAX};
use engine::Engine;
use rustix::io::Errno;
use std::ops::Range;

/// Runs in a normal test: a few seconds.
const RUNS: u64 = 40;

/// Of them, those on a disk.
const DISK_RUNS: u64 = 30;

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

/// A peer and what it is going to say.
struct Peer {
    /// Counts the peers of a play from 1; its audio tells.
    number: usize,
    rig: usize,
    socket: Socket,
    interaction: String,
    script: Vec<u8>,
    /// Bytes of the script that have been sent.
    sent: usize,
    /// Where in the script each audio frame after the first `start` ends.
    frame_ends: Vec<usize>,
    /// Bytes of each.
    frame_sizes: Vec<usize>,
    heard: Vec<u8>,
    /// It has finished, reset, or both.
    ended: bool,
}

impl Peer {
    fn random(dice: &mut Dice, number: usize, rig: usize, socket: Socket) -> Peer {
        let interaction = format!("call-{}", dice.within(0..4));
        let (script, frame_ends, frame_sizes, heard) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut peer = Peer {
            number,
            rig,
            socket,
            interaction: interaction.clone(),
            script,
            sent: 0,
            frame_ends,
            frame_sizes,
            heard,
            ended: false,
        };
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
            3 if dice.once_in(6) => {
                // Nonsense for sure, with a reserved bit set: else it is, once in a while, a good
                // frame that no test counts.
                self.script.push(dice.roll() as u8 | 0x40);
                self.script.extend((1..20).map(|_| dice.roll() as u8));
            }
            4 if dice.once_in(6) => self.script.extend(text("{")),
            5 if dice.once_in(6) => self.script.extend(audio(2000)),
            _ => {
                let size = match dice.within(0..3) {
                    // The first frame says whose it is.
                    _ if self.frame_ends.is_empty() => dice.within(TAG_SIZE..200),
                    0 => dice.within(0..8),
                    1 => dice.within(0..200),
                    _ => dice.within(0..1025),
                };
                self.frame_sizes.push(size);
                let tone = self.tone(self.frame_sizes.len() as u64);
                self.script.extend(masked(0x2, &tone));
                self.frame_ends.push(self.script.len());
            }
        }
    }

    /// The audio of a frame: no two alike that are long enough to say so.
    fn tone(&self, seq: u64) -> Vec<u8> {
        let tag = (self.number as u64).to_le_bytes().into_iter().chain(seq.to_le_bytes());
        let noise = (0..).map(|at: usize| (at * 7 + self.number * 31 + seq as usize * 13) as u8);
        tag.chain(noise).take(self.frame_sizes[seq as usize - 1]).collect()
    }

    /// The frames that it has been promised.
    fn acked(&self) -> u64 {
        acked(&self.heard)
    }

    /// Frames that the node can have in full by now, at the most.
    fn frames_sent(&self) -> u64 {
        self.frame_ends.iter().filter(|end| **end <= self.sent).count() as u64
    }

    /// What it has heard so far makes sense.
    fn check(&self) {
        let words = said_so_far(&self.heard);
        let acks: Vec<u64> =
            words.iter().filter_map(|word| word.strip_prefix("ack ")?.parse().ok()).collect();
        for (index, ack) in acks.iter().enumerate() {
            assert_eq!(*ack, (index as u64 + 1) * 10, "acks in order, none left out: {words:?}");
        }
        let acked = acks.last().copied().unwrap_or(0);
        assert!(acked <= self.frames_sent(), "{acked} acked of {} sent", self.frames_sent());
        let closed_at = words.iter().position(|word| word.starts_with("close"));
        assert!(
            closed_at.is_none_or(|at| at + 1 == words.len()),
            "nothing comes after our Close: {words:?}"
        );
        let started = words.iter().position(|word| word == "started");
        let first_ack = words.iter().position(|word| word.starts_with("ack"));
        assert!(first_ack.is_none() || started < first_ack, "{words:?}");
    }
}

/// How long a frame has to be to say whose it is and which, bytes.
const TAG_SIZE: usize = 16;

/// The peer whose first frame this is: its place in a play.
fn peer_of(first_frame: &[u8]) -> usize {
    let number = first_frame.first_chunk().map_or(0, |tag| u64::from_le_bytes(*tag));
    usize::try_from(number)
        .expect("a peer's number")
        .checked_sub(1)
        .expect("audio that a peer has sent")
}

/// The last frame that was promised to a peer that has heard this.
fn acked(heard: &[u8]) -> u64 {
    let words = said_so_far(heard);
    let promises = words
        .iter()
        .filter_map(|word| word.strip_prefix("ack ").or_else(|| word.strip_prefix("stopped ")));
    promises.filter_map(|seq| seq.parse().ok()).max().unwrap_or(0)
}

/// As [`said`], for bytes that may still lack the end of the head.
fn said_so_far(heard: &[u8]) -> Vec<String> {
    let is_upgraded =
        heard.starts_with(b"HTTP/1.1 101") && heard.windows(4).any(|four| four == b"\r\n\r\n");
    if is_upgraded { said(heard) } else { Vec::new() }
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

    /// What disks do: they finish what is under way in any order, and sometimes not as they should.
    fn step_disks(&mut self) {
        self.is_slow ^= self.is_on_disk() && self.dice.once_in(8);
        for rig in &mut self.rigs {
            let Some(disk) = &mut rig.disk else { return };
            let (dice, world) = (&mut self.dice, &rig.world);
            if dice.once_in(2) {
                world.advance(millis(dice.within(0..25) as u64));
            }
            // Batches come as if they had filled up: so that several wait.
            if dice.once_in(2) {
                rig.shard.ring.seal();
            }
            for _ in 0..if self.is_slow { 0 } else { dice.within(0..4) } {
                world.finish_file_operation(dice.within(0..world.file_operation_count().max(1)));
            }
            if !disk.has_room && dice.once_in(10) {
                disk.set_room(world, true);
            }
            if !dice.once_in(30) {
                continue;
            }
            self.faults += 1;
            let each = |fault: &dyn Fn(FileHandle)| disk.newest().for_each(fault);
            match dice.within(0..7) {
                0 | 1 if disk.settings.level == AckLevel::Durable => {
                    each(&|file| world.fail_sync(file, Errno::IO))
                }
                2 => {
                    let error = dice.one_of(&[Errno::IO, Errno::NOSPC, Errno::INTR, Errno::AGAIN]);
                    each(&|file| world.fail_write(file, error));
                }
                3 => {
                    let size = dice.within(0..20_000);
                    each(&|file| world.shorten_write(file, size));
                }
                4 => disk.set_room(world, false),
                5 => world.hold_file_operations(true),
                _ => {
                    world.hold_file_operations(false);
                    while world.finish_file_operation(0) {}
                }
            }
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

    /// Every acked frame is where a power loss would leave it.
    fn check_disks(&mut self) {
        let acked = self.peers.iter().map(Peer::acked).sum();
        if self.rigs[0].disk.is_none() || acked == self.acked {
            return;
        }
        self.acked = acked;
        for (index, rig) in self.rigs.iter_mut().enumerate() {
            let Some(disk) = &mut rig.disk else { continue };
            let mut kept = vec![0; self.peers.len()];
            let mut place = None;
            for ((epoch, seq), audio) in disk.frames(&rig.world) {
                if epoch == CallEpoch::default() {
                    // What filled the ring.
                    continue;
                }
                if seq == 1 {
                    place = Some((epoch, peer_of(&audio)));
                }
                let (_, peer) = place
                    .filter(|(of, _)| *of == epoch)
                    .expect("frames of a turn from the first one on");
                assert!(
                    audio == self.peers[peer].tone(seq),
                    "frame {seq} of peer {peer} is another"
                );
                kept[peer] += u64::from(kept[peer] + 1 == seq);
            }
            for (peer, kept) in self.peers.iter().zip(kept).filter(|(peer, _)| peer.rig == index) {
                assert!(
                    kept >= peer.acked(),
                    "peer {}: {} acked, {kept} on the disk",
                    peer.number,
                    peer.acked()
                );
            }
        }
    }

    /// Disks do as they should, and everything owed is done.
    fn heal_disks(&mut self) {
        for rig in &mut self.rigs {
            let Some(disk) = &mut rig.disk else { continue };
            disk.set_room(&rig.world, true);
            rig.world.hold_file_operations(false);
            while rig.world.finish_file_operation(0) {}
        }
        quiet_all(&mut self.rigs);
        // What has failed again and again is tried again after a minute, and the faults that are
        // left may fail it once more.
        for rig in &mut self.rigs {
            let is_late = |rig: &Rig| {
                rig.disk.is_some() && rig.shard.ring.durable() < rig.shard.ring.sealed()
            };
            for _ in 0..600 {
                if !is_late(rig) {
                    break;
                }
                rig.pass(millis(500));
            }
            assert!(!is_late(rig), "a disk that does as it should is not written to");
        }
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

#[test]
fn whatever_disks_and_peers_do_what_is_acked_is_on_the_disk() {
    let (mut steps, mut faults, mut acked, mut fences, mut noted, mut deep) = (0, 0, 0, 0, 0, 0);
    let seeds = seeds(DISK_RUNS);
    for seed in seeds.clone() {
        let _note = SeedNote(seed);
        let level = if seed % 3 == 0 { AckLevel::Written } else { AckLevel::Durable };
        let segment_size = [32 * 1024, 64 * 1024, 1 << 20][seed as usize / 3 % 3];
        let mut play = Play::on(
            seed,
            1..3,
            Some(DiskSettings { level, segment_size, backlog: backlog(seed), replication: None }),
        );
        (0..3 * STEPS).for_each(|_| play.step());
        steps += 3 * STEPS;
        faults += play.faults;
        deep += u64::from(play.under_way_max > WRITES_MAX / 2);
        acked += play.acked;
        fences += play.rigs.iter().map(|rig| rig.counters.journal_fences.read()).sum::<u64>();
        noted += play
            .rigs
            .iter()
            .filter_map(|rig| rig.disk.as_ref())
            .map(|disk| disk.noted)
            .sum::<u64>();
        play.finish();
    }
    println!(
        "seeds {seeds:?}: {steps} steps, {faults} disk faults, {fences} fenced segments, {acked} frames acked, 0 lost"
    );
    println!(
        "{noted} segments are what their record headers say; {deep} plays had more than four operations under way"
    );
    let is_full = [acked, fences, noted, deep].iter().all(|count| *count > 0);
    assert!(seeds.clone().count() < 10 || is_full, "nothing was tested");
}
