//! Disks below random plays: writes fail, fall short and overtake each other, syncs fail, there is
//! no room and no progress. At any moment what has been acked is on the disk, byte for byte.

#![forbid(unsafe_code)]

use super::*;
use crate::io::FileHandle;
use crate::journal::writer::WRITES_MAX;
use rustix::io::Errno;

/// Plays on disks in a normal test.
const RUNS: u64 = 30;

impl Play {
    /// What disks do: they finish what is under way in any order, and sometimes not as they should.
    pub(super) fn step_disks(&mut self) {
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

    /// Every acked frame is where a power loss would leave it.
    pub(super) fn check_disks(&mut self) {
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
    pub(super) fn heal_disks(&mut self) {
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
}

#[test]
fn whatever_disks_and_peers_do_what_is_acked_is_on_the_disk() {
    let (mut steps, mut faults, mut acked, mut fences, mut noted, mut deep) = (0, 0, 0, 0, 0, 0);
    let seeds = seeds(RUNS);
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
