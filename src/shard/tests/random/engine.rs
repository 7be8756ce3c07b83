//! A message engine below random plays: it acknowledges durable frames whenever it likes, late,
//! twice, and for calls that are gone. Nothing is acked that it has not acknowledged.

#![forbid(unsafe_code)]

use super::*;
use crate::shard::mailbox::ReplicatedFrames;

/// Plays with it in a normal test.
const RUNS: u64 = 12;

/// What it has acknowledged.
#[derive(Default)]
pub(super) struct Engine {
    /// The last frame, by peer.
    acknowledged: HashMap<usize, u64>,
    /// Reports that were sent.
    reports: u64,
}

/// Durable frames of a peer, without a hole.
#[derive(Clone, Copy)]
struct Durable {
    peer: usize,
    epoch: CallEpoch,
    frames: u64,
}

impl Play {
    /// The engine acknowledges some of what is durable.
    pub(super) fn step_engine(&mut self) {
        if self.engine.is_some() && self.dice.once_in(6) {
            self.acknowledge(|dice, frames| match dice.within(0..3) {
                0 => None,
                1 => Some(dice.within(0..frames as usize + 1) as u64),
                _ => Some(frames),
            });
        }
    }

    /// The engine acknowledges everything.
    pub(super) fn heal_engine(&mut self) {
        if self.engine.is_some() {
            self.acknowledge(|_, frames| Some(frames));
            quiet_all(&mut self.rigs);
        }
    }

    fn acknowledge(&mut self, choose: impl Fn(&mut Dice, u64) -> Option<u64>) {
        for index in 0..self.rigs.len() {
            for Durable { peer, epoch, frames } in self.durable(index) {
                let Some(seq) = choose(&mut self.dice, frames) else { continue };
                let Some(engine) = &mut self.engine else { return };
                let last = engine.acknowledged.entry(peer).or_default();
                *last = seq.max(*last);
                engine.reports += 1;
                let interaction = self.peers[peer].interaction.as_str().into();
                let call = CallIdentity { tenant: TENANT.into(), interaction }.key();
                let (call, first, last) = (call.record_number(), Seq(1), Seq(seq));
                let report = ReplicatedFrames { call, epoch, first, last };
                let sender = self.rigs[index].shard.mail.sender(index);
                // One that finds no room is lost: a later one says more.
                let _ = sender.try_send(Message::Replicated(vec![report]));
            }
        }
    }

    fn durable(&mut self, rig: usize) -> Vec<Durable> {
        let rig = &mut self.rigs[rig];
        let Some(disk) = &mut rig.disk else { return Vec::new() };
        let mut found: Vec<Durable> = Vec::new();
        for ((epoch, seq), audio) in disk.frames(&rig.world) {
            match found.last_mut() {
                _ if epoch == CallEpoch::default() => {}
                _ if seq == 1 => found.push(Durable { peer: peer_of(&audio), epoch, frames: 1 }),
                Some(last) if last.epoch == epoch && last.frames + 1 == seq => last.frames = seq,
                _ => {}
            }
        }
        found
    }

    /// Every acked frame was acknowledged by the engine.
    pub(super) fn check_engine(&self) {
        let Some(engine) = &self.engine else { return };
        for (index, peer) in self.peers.iter().enumerate() {
            let (acked, has) = (peer.acked(), engine.acknowledged.get(&index));
            let has = has.copied().unwrap_or(0);
            assert!(acked <= has, "peer {}: {acked} acked, the engine has {has}", peer.number);
        }
    }
}

#[test]
fn whatever_disks_engine_and_peers_do_what_is_acked_is_on_the_disk_and_in_the_engine() {
    let (mut acked, mut reports) = (0, 0);
    let seeds = seeds(RUNS);
    for seed in seeds.clone() {
        let _note = SeedNote(seed);
        let second = Duration::from_secs(1);
        let settings = DiskSettings {
            level: AckLevel::Durable,
            segment_size: [32 * 1024, 1 << 20][seed as usize % 2],
            backlog: backlog(seed),
            replication: Some(ReplicationSettings {
                timeout: second * 2,
                on_timeout: OnTimeout::Hold,
                stall_timeout: second * 4,
            }),
        };
        let mut play = Play::on(seed, 1..3, Some(settings));
        (0..3 * STEPS).for_each(|_| play.step());
        acked += play.acked;
        reports += play.engine.as_ref().map_or(0, |engine| engine.reports);
        play.finish();
    }
    println!("seeds {seeds:?}: {reports} reports, {acked} frames acked, all in the engine");
    assert!(seeds.count() < 10 || (acked > 0 && reports > 0), "nothing was tested");
}
