//! The checks of an attack, and the verdict.

#![forbid(unsafe_code)]

use serde::Serialize;

use super::endings::Endings;
use super::phases::Phase;
use crate::duration::show;
use crate::plural::{counted, grouped};
use crate::slo::Slo;
use crate::stats::Metric;
use crate::verdict::Verdict;

/// An ACK p99 up to this is never too much: a little noise of the scheduler is not a slowdown.
const ACK_FLOOR: u64 = 20_000_000;

/// The ACK p99 may be this many times that of the calm before.
const ACK_FACTOR: u64 = 2;

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// What is checked, in words.
    pub what: String,
    /// Whether it did.
    pub held: bool,
    /// Whether a slow generator can make it fail.
    pub is_timing: bool,
}

impl Check {
    fn new(what: String, held: bool, is_timing: bool) -> Self {
        Self { what, held, is_timing }
    }
}

/// All checks but those of the live calls, which `run` makes.
pub fn checks(phases: &[Phase; 3], endings: &Endings, slos: &[Slo]) -> Vec<Check> {
    let [before, during, _] = phases;
    let mut checks = Vec::new();
    if slos.is_empty() {
        checks.push(ack_check(before, during));
    }
    for slo in slos {
        let result = slo.check(&during.stats);
        let value = result.value_ns.map_or_else(|| "not measured".to_owned(), show);
        checks.push(Check::new(format!("{slo} during the attack: {value}"), result.held, true));
    }
    let failures: u64 = phases.iter().map(|phase| phase.failures).sum();
    let live = format!("live calls: {}", counted(failures, "failure"));
    // The verdict of the live calls tells which of these a slow generator may have caused.
    checks.push(Check::new(live, failures == 0, true));
    let new = phases.iter().map(|phase| phase.new_calls_failed.len() as u64).sum::<u64>();
    let example = phases.iter().find_map(|phase| phase.new_calls_failed.first());
    let example = example.map_or_else(String::new, |why| format!(" ({why})"));
    checks.push(Check::new(
        format!("new calls: {} of them failed{example}", grouped(new)),
        new == 0,
        false,
    ));
    checks.push(Check::new(
        format!("peers ended as they should: {} in another way", grouped(endings.wrong)),
        endings.wrong == 0,
        false,
    ));
    checks.push(Check::new(
        format!("peers ended in time: {} late or never", grouped(endings.late)),
        endings.late == 0,
        true,
    ));
    checks.push(Check::new(
        format!("the attack was played: {}", counted(endings.connections, "connection")),
        endings.right > 0,
        true,
    ));
    checks
}

fn ack_check(before: &Phase, during: &Phase) -> Check {
    let p99 = |phase: &Phase| {
        let acks = phase.stats.latency(Metric::Ack);
        (!acks.is_empty()).then(|| acks.value_at_percentile(99.0))
    };
    let (Some(calm), Some(now)) = (p99(before), p99(during)) else {
        return Check::new(
            "live ACK p99: no ACKs to compare; give a longer --calm or more --calls-live"
                .to_owned(),
            false,
            true,
        );
    };
    let bound = (ACK_FACTOR * calm).max(ACK_FLOOR);
    let what = format!(
        "live ACK p99 {} during the attack, at most {}: {} before",
        show(now),
        show(bound),
        show(calm)
    );
    Check::new(what, now <= bound, true)
}

/// The verdict. `ills` say why the generator's figures prove nothing.
pub fn judge(live: Verdict, checks: &[Check], ills: &[String]) -> Verdict {
    let is_broken = checks.iter().any(|check| !check.held && !check.is_timing);
    let is_late = checks.iter().any(|check| !check.held);
    match (live, ills.is_empty()) {
        (Verdict::Fail, _) => Verdict::Fail,
        _ if is_broken => Verdict::Fail,
        (_, false) => Verdict::Invalid,
        _ if is_late => Verdict::Fail,
        (live, true) => live,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ending::Ending;
    use super::super::kind::Kind;
    use super::*;
    use crate::stats::Stats;

    fn phase(ack_ms: u64) -> Phase {
        let mut stats = Stats::new();
        (0..100).for_each(|_| stats.record(Metric::Ack, ack_ms * 1_000_000));
        Phase { stats, failures: 0, new_calls_failed: Vec::new(), node: None }
    }

    fn endings(all: &[(Ending, u64)]) -> Endings {
        let mut endings = Endings::new(Kind::Pings, Duration::from_secs(5));
        all.iter()
            .for_each(|(ending, seconds)| endings.record(ending, Duration::from_secs(*seconds)));
        endings
    }

    fn verdict(
        acks_ms: [u64; 2],
        all: &[(Ending, u64)],
        slos: &[&str],
        ills: &[String],
    ) -> Verdict {
        let phases = [phase(acks_ms[0]), phase(acks_ms[1]), phase(acks_ms[0])];
        let slos: Vec<Slo> = slos.iter().map(|slo| slo.parse().unwrap()).collect();
        judge(Verdict::Pass, &checks(&phases, &endings(all), &slos), ills)
    }

    const RIGHT: (Ending, u64) = (Ending::Close(1008), 1);

    #[test]
    fn live_acks_may_take_twice_as_long_and_noise_does_not_decide() {
        for (acks_ms, expected) in [
            ([20, 39], Verdict::Pass),
            ([20, 42], Verdict::Fail),
            ([2, 19], Verdict::Pass),
            ([2, 25], Verdict::Fail),
        ] {
            assert_eq!(verdict(acks_ms, &[RIGHT], &[], &[]), expected, "{acks_ms:?}");
        }
        assert_eq!(verdict([2, 25], &[RIGHT], &["ack.p99<50ms"], &[]), Verdict::Pass);
        assert_eq!(verdict([2, 3], &[RIGHT], &["ack.p99<1ms"], &[]), Verdict::Fail);
    }

    #[test]
    fn each_peer_has_to_be_ended_rightly_and_in_time() {
        for (all, expected) in [
            (vec![RIGHT], Verdict::Pass),
            (vec![], Verdict::Fail),
            (vec![RIGHT, (Ending::Close(1002), 1)], Verdict::Fail),
            (vec![RIGHT, (Ending::Close(1008), 8)], Verdict::Fail),
            (vec![RIGHT, (Ending::NotClosed, 10)], Verdict::Fail),
        ] {
            assert_eq!(verdict([2, 2], &all, &[], &[]), expected, "{all:?}");
        }
    }

    #[test]
    fn a_generator_that_was_late_excuses_what_it_can_cause() {
        let ills = ["late".to_owned()];
        assert_eq!(verdict([2, 2], &[RIGHT], &[], &ills), Verdict::Invalid);
        assert_eq!(verdict([2, 90], &[RIGHT], &[], &ills), Verdict::Invalid);
        assert_eq!(
            verdict([2, 2], &[RIGHT, (Ending::NotClosed, 10)], &[], &ills),
            Verdict::Invalid
        );
        assert_eq!(verdict([2, 2], &[RIGHT, (Ending::Close(1011), 1)], &[], &ills), Verdict::Fail);
        assert_eq!(judge(Verdict::Fail, &[], &ills), Verdict::Fail);
        assert_eq!(judge(Verdict::Invalid, &[], &ills), Verdict::Invalid);
    }

    #[test]
    fn a_new_call_that_fails_fails_the_run() {
        let mut phases = [phase(2), phase(2), phase(2)];
        phases[1].new_calls_failed.push("abuse-new-3: status_503".to_owned());
        let checks = checks(&phases, &endings(&[RIGHT]), &[]);
        assert_eq!(judge(Verdict::Pass, &checks, &[]), Verdict::Fail);
        assert!(checks.iter().any(|check| check.what.contains("status_503")), "{checks:?}");
    }
}
