//! When the three parts of a run begin and end: before the attack, during it, after it.

#![forbid(unsafe_code)]

/// When the parts begin and end, nanoseconds of the run's clock.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// All live calls are up.
    pub calm: u64,
    /// The first hostile peer connects.
    pub attack: u64,
    /// The attack is over: no more peers connect. If they take their whole time, the node must have
    /// ended the last one by now.
    pub attack_end: u64,
    /// The wait for late peers is over.
    pub settled: u64,
    /// The live calls' audio ends.
    pub end: u64,
}

impl Times {
    /// Start and end of each part: before, during, after.
    pub fn parts(&self) -> [(u64, u64); 3] {
        [(self.calm, self.attack), (self.attack, self.attack_end), (self.settled, self.end)]
    }

    /// The part that a second of the log belongs to. A second that overlaps the attack belongs to
    /// it.
    pub fn part_of(&self, begin: u64, end: u64) -> Option<usize> {
        if begin < self.calm || end > self.end {
            None
        } else if end <= self.attack {
            Some(0)
        } else if begin < self.attack_end {
            Some(1)
        } else {
            (begin >= self.settled).then_some(2)
        }
    }
}
