//! Calls, faults and completions in any order. Whenever power fails, every promised frame can be
//! read.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Start,
    Frame { call: usize, size: usize },
    End { call: usize },
    Seal,
    Turn,
    Advance { millis: u64 },
    Finish { index: usize },
    FailSync,
    FailWrite { error: Errno },
    ShortenWrite { size: usize },
    NoRoom,
    Room,
    PowerLoss { pattern: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let error =
        prop_oneof![Just(Errno::IO), Just(Errno::NOSPC), Just(Errno::INTR), Just(Errno::AGAIN)];
    prop_oneof![
        2 => Just(Step::Start),
        12 => (any::<usize>(), prop_oneof![0..3_000usize, 9_600..9_601usize, 100_000..400_000usize])
            .prop_map(|(call, size)| Step::Frame { call, size }),
        1 => any::<usize>().prop_map(|call| Step::End { call }),
        6 => Just(Step::Seal),
        20 => Just(Step::Turn),
        8 => (0..30u64).prop_map(|millis| Step::Advance { millis }),
        20 => (0..9usize).prop_map(|index| Step::Finish { index }),
        1 => Just(Step::FailSync),
        1 => error.prop_map(|error| Step::FailWrite { error }),
        1 => (0..20_000usize).prop_map(|size| Step::ShortenWrite { size }),
        1 => Just(Step::NoRoom),
        2 => Just(Step::Room),
        4 => any::<u64>().prop_map(|pattern| Step::PowerLoss { pattern }),
    ]
}

impl Journal {
    /// What a power loss may leave, sector by sector: only durable bytes, all bytes, or anything
    /// between.
    fn check_power_loss(&self, pattern: u64) {
        let mut state = pattern | 1;
        let some = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.is_multiple_of(3)
        };
        for read in [
            self.after_power_loss(|| false),
            self.after_power_loss(|| true),
            self.after_power_loss(some),
        ] {
            let lost: Vec<_> = self.kept.difference(&read).collect();
            assert!(lost.is_empty(), "promised but lost: {lost:?}");
        }
        // A hole is no damage, wherever it is.
        for (file, _) in &self.files {
            let mut odds = pattern;
            let image = self.world.crash_image(*file, || {
                odds = odds.rotate_left(1);
                odds & 1 == 1
            });
            assert_eq!(depth::damages_in(&image), 0);
        }
        // Bytes that a batch states as durable are durable.
        for (file, _) in &self.files {
            let (durable, live) = (self.world.durable_image(*file), self.world.live_image(*file));
            for (number, _, end) in claims_in(&live) {
                let end = end.expect("a small segment") as usize;
                assert!(durable[..end] == live[..end], "batch {number} states {end} bytes");
            }
        }
    }

    fn call_at(&self, place: usize) -> Option<u64> {
        let calls: Vec<u64> = self.frames.keys().copied().collect();
        (!calls.is_empty()).then(|| calls[place % calls.len()])
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Start if self.frames.len() < 8 => {
                if self.ring.free_size() > 10_000 {
                    self.start();
                }
            }
            Step::Start => {}
            Step::Frame { call, size } => {
                if let Some(call) = self.call_at(call) {
                    self.frame(call, size);
                }
            }
            Step::End { call } => {
                if let Some(call) = self.call_at(call)
                    && self.ring.free_size() > 10_000
                {
                    self.end(call);
                    self.frames.remove(&call);
                }
            }
            Step::Seal => self.ring.seal(),
            Step::Turn => self.turn(),
            Step::Advance { millis } => self.world.advance(Duration::from_millis(millis)),
            Step::Finish { index } => {
                let count = self.world.file_operation_count();
                self.world.finish_file_operation(index % count.max(1));
            }
            Step::FailSync => self.each_file(|world, file| world.fail_sync(file, Errno::IO)),
            Step::FailWrite { error } => {
                self.each_file(|world, file| world.fail_write(file, error))
            }
            Step::ShortenWrite { size } => {
                self.each_file(|world, file| world.shorten_write(file, size))
            }
            Step::NoRoom => self.segments_left = 0,
            Step::Room => {
                let was_refused = self.writer.has_no_room && self.writer.is_asking;
                self.segments_left = usize::MAX;
                if was_refused {
                    self.prepare();
                }
            }
            Step::PowerLoss { pattern } => self.check_power_loss(pattern),
        }
    }

    fn each_file(&self, fault: impl Fn(&World, FileHandle)) {
        // The last two: the one being written, and the prepared one.
        self.files.iter().rev().take(2).for_each(|(file, _)| fault(&self.world, *file));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn no_promise_is_broken_whatever_fails_and_whenever_power_fails(
        steps in prop::collection::vec(step(), 50..400),
        small in any::<bool>(),
        deep in prop_oneof![1 => Just(false), 3 => Just(true)],
    ) {
        let backlog = if deep { Backlog::tiny() } else { Backlog::production() };
        let segment_size = if small { 128 * 1024 } else { 4 << 20 };
        let mut journal = Journal::with(AckLevel::Durable, segment_size, backlog, RING_SIZE_MIN);
        journal.world.hold_file_operations(true);
        for step in &steps {
            journal.step(step);
        }
        // After all faults every promise is kept.
        journal.step(&Step::Room);
        journal.world.hold_file_operations(false);
        while journal.world.finish_file_operation(0) {}
        for _ in 0..200_000 {
            if journal.asked.is_empty() {
                break;
            }
            journal.turn();
            journal.world.advance(Duration::from_millis(3));
        }
        prop_assert!(journal.asked.is_empty(), "{:?}", journal.writer);
        journal.check_power_loss(1);
        journal.writer.finish();
        for _ in 0..1_000 {
            journal.turn();
            journal.world.advance(Duration::from_millis(100));
        }
        prop_assert!(journal.writer.is_finished(&journal.ring), "{:?}", journal.writer);
        for (file, _) in &journal.files {
            let retired = journal.retired.len();
            prop_assert!(
                retired as u64 <= journal.writer.stats().segments,
                "{:?} {:?}",
                file,
                retired
            );
        }
        prop_assert_eq!(journal.retired.len() as u64, journal.writer.stats().segments);
    }
}
