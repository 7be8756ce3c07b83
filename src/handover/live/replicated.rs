//! How far each epoch is in the engine without a hole, for the shard that waits to say so.
//!
//! Messages of an epoch are acknowledged in any order. A frame counts once all messages before it
//! are acknowledged, too. Frames that the journal lost are in no message: the shard sees from the
//! numbers that they are missing.

#![forbid(unsafe_code)]

use super::message::{Content, LiveMessage};
use crate::call::{Epoch, ReplicatedFrames, Seq};
use std::collections::{HashMap, VecDeque};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Replicated {
    epochs: HashMap<(u64, Epoch), Track>,
    /// What was not reported yet: first and last frames of stretches, in order.
    reports: HashMap<(u64, Epoch), Vec<(u64, u64)>>,
}

/// Messages of an epoch, in order, from the first that is not acknowledged.
#[derive(Debug, Default)]
struct Track {
    messages: VecDeque<Tracked>,
}

#[derive(Debug)]
struct Tracked {
    number: u64,
    what: What,
    is_acknowledged: bool,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// These frames, both included.
    Frames(u64, u64),
    End,
}

impl Replicated {
    /// A message was given to the publisher, with this number.
    pub(super) fn push(&mut self, number: u64, message: &LiveMessage) {
        let key = (message.call, message.epoch.epoch);
        let what = match &message.content {
            Content::Audio(chunk) => What::Frames(chunk.seq, chunk.last_seq()),
            // Without audio there is nothing to report.
            Content::Event { name: "ended", .. } if self.epochs.contains_key(&key) => What::End,
            Content::Event { .. } => return,
        };
        let tracked = Tracked { number, what, is_acknowledged: false };
        self.epochs.entry(key).or_default().messages.push_back(tracked);
    }

    /// The engine has the message.
    pub(super) fn acknowledge(&mut self, number: u64, message: &LiveMessage) {
        let key = (message.call, message.epoch.epoch);
        let Some(track) = self.epochs.get_mut(&key) else { return };
        match track.messages.iter_mut().find(|tracked| tracked.number == number) {
            Some(tracked) => tracked.is_acknowledged = true,
            None => return,
        }
        while let Some(done) = track.messages.pop_front_if(|tracked| tracked.is_acknowledged) {
            match done.what {
                What::Frames(first, last) => add(&mut self.reports, key, (first, last)),
                What::End => {
                    self.epochs.remove(&key);
                    return;
                }
            }
        }
    }

    /// Whether there is something to report.
    pub(super) fn has_reports(&self) -> bool {
        !self.reports.is_empty()
    }

    /// What is new since the last call.
    pub(super) fn take_reports(&mut self) -> Vec<ReplicatedFrames> {
        let reports = self.reports.drain().flat_map(|((call, epoch), stretches)| {
            stretches.into_iter().map(move |(first, last)| ReplicatedFrames {
                call,
                epoch,
                first: Seq(first),
                last: Seq(last),
            })
        });
        reports.collect()
    }

    /// The shard could not take these: they are reported later, before those that came since.
    pub(super) fn put_back(&mut self, refused: Vec<ReplicatedFrames>) {
        let newer = std::mem::take(&mut self.reports);
        for ReplicatedFrames { call, epoch, first, last } in refused {
            add(&mut self.reports, (call, epoch), (first.0, last.0));
        }
        for (key, stretches) in newer {
            stretches.into_iter().for_each(|stretch| add(&mut self.reports, key, stretch));
        }
    }
}

/// Adds a stretch of frames to those of its epoch.
fn add(
    reports: &mut HashMap<(u64, Epoch), Vec<(u64, u64)>>,
    key: (u64, Epoch),
    (first, last): (u64, u64),
) {
    let stretches = reports.entry(key).or_default();
    match stretches.last_mut() {
        Some((_, end)) if first <= *end + 1 => *end = last.max(*end),
        _ => stretches.push((first, last)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Chunk, EpochName, FrameSizes};
    use super::*;
    use crate::call::CallIdentity;
    use crate::clock::UnixMicros;
    use crate::format::Lsn;
    use bytes::Bytes;

    const EPOCH: Epoch = Epoch { boot: 1, micros: 7, shard: 0 };

    fn message(content: Content) -> LiveMessage {
        LiveMessage {
            identity: CallIdentity { tenant: "acme".into(), interaction: "one".into() },
            call: 9,
            epoch: EpochName { started_at: UnixMicros(1), node: "n".into(), epoch: EPOCH },
            content,
            from: Lsn(0),
        }
    }

    fn audio(seq: u64, count: u64) -> LiveMessage {
        let mut sizes = FrameSizes::default();
        (0..count).for_each(|_| sizes.push(2));
        message(Content::Audio(Chunk { seq, sizes, ..Chunk::default() }))
    }

    fn event(name: &'static str) -> LiveMessage {
        message(Content::Event { name, seq: 0, json: Bytes::new() })
    }

    fn reported(replicated: &mut Replicated) -> Vec<(u64, u64)> {
        let reports = replicated.take_reports();
        assert!(reports.iter().all(|report| (report.call, report.epoch) == (9, EPOCH)));
        reports.iter().map(|report| (report.first.0, report.last.0)).collect()
    }

    #[test]
    fn a_frame_counts_once_all_before_it_are_acknowledged() {
        let mut replicated = Replicated::default();
        let messages = [audio(1, 10), audio(11, 10), audio(21, 3), event("ended")];
        for (number, message) in messages.iter().enumerate() {
            replicated.push(number as u64, message);
        }
        replicated.acknowledge(1, &messages[1]);
        assert_eq!(reported(&mut replicated), []);
        replicated.acknowledge(0, &messages[0]);
        assert_eq!(reported(&mut replicated), [(1, 20)]);
        replicated.acknowledge(3, &messages[3]);
        assert!(!replicated.has_reports());
        replicated.acknowledge(2, &messages[2]);
        assert_eq!(reported(&mut replicated), [(21, 23)]);
        assert!(replicated.epochs.is_empty());
    }

    #[test]
    fn what_a_shard_hands_back_is_merged_with_what_came_since() {
        let mut replicated = Replicated::default();
        for (number, seq) in [(0, 1), (1, 11)] {
            let message = audio(seq, 10);
            replicated.push(number, &message);
            replicated.acknowledge(number, &message);
            if number == 0 {
                let refused = replicated.take_reports();
                replicated.put_back(refused);
            }
        }
        assert!(replicated.has_reports());
        let refused = replicated.take_reports();
        let message = audio(25, 6);
        replicated.push(2, &message);
        replicated.acknowledge(2, &message);
        replicated.put_back(refused);
        assert_eq!(reported(&mut replicated), [(1, 20), (25, 30)]);
    }

    #[test]
    fn what_comes_after_a_gap_is_another_stretch() {
        let mut replicated = Replicated::default();
        let messages = [audio(1, 5), event("gap"), audio(7, 4), event("ended")];
        for (number, message) in messages.iter().enumerate() {
            replicated.push(number as u64, message);
            replicated.acknowledge(number as u64, message);
        }
        assert_eq!(reported(&mut replicated), [(1, 5), (7, 10)]);
        assert!(replicated.epochs.is_empty());
    }
}
