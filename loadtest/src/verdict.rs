//! The verdict of a run, with its exit code.

use serde::Serialize;

use crate::slo::SloResult;
use crate::stats::Stats;

/// Exit code of a run or a search that Ctrl-C ended: the one that a shell reports for a program
/// that SIGINT ended.
pub const INTERRUPTED: u8 = 130;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every check and every SLO held.
    Pass,
    /// A check or an SLO failed.
    Fail,
    /// The run proves nothing about the node: the generator was late, or no ACK was due.
    Invalid,
    /// Every check held, and a figure is worse than the baseline's.
    Worse,
}

impl Verdict {
    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Invalid => "invalid",
            Self::Worse => "worse",
        }
    }

    /// The exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Fail => 2,
            Self::Invalid => 3,
            Self::Worse => 4,
        }
    }

    /// The exit code of a run. A run that was cut short has its own code.
    pub fn exit_code_of_run(self, interrupted: bool) -> u8 {
        if interrupted { INTERRUPTED } else { self.exit_code() }
    }

    /// How bad it is. Of several runs the worst counts.
    pub fn weight(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Worse => 1,
            Self::Invalid => 2,
            Self::Fail => 3,
        }
    }

    /// Reads it from a `result.json`.
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::Pass, Self::Fail, Self::Invalid, Self::Worse];
        all.into_iter().find(|verdict| verdict.name() == text)
    }

    /// A fault that a slow generator cannot cause always fails the run. Other faults count only if
    /// the generator was fast enough.
    pub fn of(judged: &Stats, slos: &[SloResult], ill: bool) -> Self {
        let failed = judged.failure_count() > 0
            || judged.counts.frames == 0
            || slos.iter().any(|slo| !slo.held);
        match (judged.hard_failures > 0, ill, failed) {
            (true, ..) => Self::Fail,
            (false, true, _) => Self::Invalid,
            (false, false, true) => Self::Fail,
            // If no ACK was due, the run says nothing about the node.
            (false, false, false) if judged.counts.acks_due == 0 => Self::Invalid,
            (false, false, false) => Self::Pass,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, Reason};

    fn stats(reasons: &[Reason]) -> Stats {
        let mut stats = Stats::new();
        stats.counts.frames = 10;
        stats.counts.acks_due = 1;
        reasons.iter().for_each(|reason| stats.fail("load-0", &Failure::new(*reason, "")));
        stats
    }

    #[test]
    fn a_slow_generator_excuses_only_what_it_can_cause() {
        let held = |held| [SloResult { slo: "ack.max<1ms".to_owned(), value_ns: Some(1), held }];
        for (reasons, slo_held, ill, verdict) in [
            (&[][..], true, false, Verdict::Pass),
            (&[], false, false, Verdict::Fail),
            (&[], true, true, Verdict::Invalid),
            (&[], false, true, Verdict::Invalid),
            (&[Reason::AckLate], true, false, Verdict::Fail),
            (&[Reason::AckLate], true, true, Verdict::Invalid),
            (&[Reason::AckWrong], true, true, Verdict::Fail),
            (&[Reason::Refused(401)], true, false, Verdict::Fail),
        ] {
            assert_eq!(
                Verdict::of(&stats(reasons), &held(slo_held), ill),
                verdict,
                "{reasons:?} {slo_held} {ill}"
            );
        }
    }

    #[test]
    fn a_run_that_sent_nothing_proves_nothing() {
        assert_eq!(Verdict::of(&Stats::new(), &[], false), Verdict::Fail);
    }

    #[test]
    fn a_run_without_an_ack_due_is_no_pass() {
        let mut stats = stats(&[]);
        stats.counts.acks_due = 0;
        assert_eq!(Verdict::of(&stats, &[], false), Verdict::Invalid);
        stats.fail("load-0", &Failure::new(Reason::Dropped, ""));
        assert_eq!(Verdict::of(&stats, &[], false), Verdict::Fail);
    }

    #[test]
    fn an_interrupted_run_has_its_own_exit_code() {
        for verdict in [Verdict::Pass, Verdict::Fail, Verdict::Invalid, Verdict::Worse] {
            assert_eq!(verdict.exit_code_of_run(true), 130);
            assert_eq!(verdict.exit_code_of_run(false), verdict.exit_code());
        }
    }
}
