//! A random peer: what it says, and what it may hear.

#![forbid(unsafe_code)]

use super::*;

/// A peer and what it is going to say.
pub(super) struct Peer {
    /// Counts the peers of a play from 1; its audio tells.
    pub(super) number: usize,
    pub(super) rig: usize,
    pub(super) socket: Socket,
    pub(super) interaction: String,
    pub(super) script: Vec<u8>,
    /// Bytes of the script that have been sent.
    pub(super) sent: usize,
    /// Where in the script each audio frame after the first `start` ends.
    pub(super) frame_ends: Vec<usize>,
    /// Bytes of each.
    pub(super) frame_sizes: Vec<usize>,
    pub(super) heard: Vec<u8>,
    /// It has finished, reset, or both.
    pub(super) ended: bool,
}

impl Peer {
    pub(super) fn random(dice: &mut Dice, number: usize, rig: usize, socket: Socket) -> Peer {
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
    pub(super) fn tone(&self, seq: u64) -> Vec<u8> {
        let tag = (self.number as u64).to_le_bytes().into_iter().chain(seq.to_le_bytes());
        let noise = (0..).map(|at: usize| (at * 7 + self.number * 31 + seq as usize * 13) as u8);
        tag.chain(noise).take(self.frame_sizes[seq as usize - 1]).collect()
    }

    /// The frames that it has been promised.
    pub(super) fn acked(&self) -> u64 {
        acked(&self.heard)
    }

    /// Frames that the node can have in full by now, at the most.
    pub(super) fn frames_sent(&self) -> u64 {
        self.frame_ends.iter().filter(|end| **end <= self.sent).count() as u64
    }

    /// What it has heard so far makes sense.
    pub(super) fn check(&self) {
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
pub(super) fn peer_of(first_frame: &[u8]) -> usize {
    let number = first_frame.first_chunk().map_or(0, |tag| u64::from_le_bytes(*tag));
    usize::try_from(number)
        .expect("a peer's number")
        .checked_sub(1)
        .expect("audio that a peer has sent")
}

/// The last frame that was promised to a peer that has heard this.
pub(super) fn acked(heard: &[u8]) -> u64 {
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
