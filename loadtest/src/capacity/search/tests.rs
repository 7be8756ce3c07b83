//! The search against a model of a node: a function from calls to what a run says.

use super::*;

const LIMITS: Limits =
    Limits { first: 100, max: 10_000, resolution_percent: 5.0, repeats: 3, hold: true };

/// Plays a search to its end. `node` gets what is played and how many runs were before it.
fn play(limits: Limits, goals: usize, mut node: impl FnMut(Next, usize) -> Vec<State>) -> Search {
    let mut search = Search::new(limits, goals);
    while let Some(next) = search.poll_next() {
        let states = node(next, search.runs.len());
        assert_eq!(states.len(), goals);
        let is_hold = next.why == Why::Hold;
        search.handle_run(Run { calls: next.calls, states, is_final: false, is_hold });
    }
    search
}

/// Met up to a number of calls.
fn up_to(limit: u64, calls: u64) -> State {
    if calls <= limit { State::Met } else { State::Missed }
}

fn played(search: &Search) -> Vec<(u64, bool)> {
    search.runs.iter().map(|run| (run.calls, run.is_hold)).collect()
}

/// A generator of pseudo-random numbers with a seed, for noise that is the same in each run.
struct Noise(u64);

impl Noise {
    /// True in so many of a hundred cases.
    fn strikes(&mut self, percent: u64) -> bool {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % 100 < percent
    }
}

#[test]
fn every_limit_is_found_to_the_resolution() {
    for limit in (1..9_000).step_by(13) {
        let limits = Limits { first: limit.min(100), ..LIMITS };
        let search = play(limits, 1, |next, _| vec![up_to(limit, next.calls)]);
        let Bracket { passed, failed, .. } = search.bracket(0);
        let (passed, failed) = (passed.unwrap(), failed.unwrap());
        assert!(passed <= limit && limit < failed, "{limit}: {passed} to {failed}");
        assert!(failed - passed <= 1.max(passed / 20), "{limit}: {passed} to {failed}");
        assert!(search.is_held(passed), "{limit}");
        assert!(search.runs.len() < 40, "{limit}: {:?}", played(&search));
    }
}

#[test]
fn one_search_brackets_every_goal() {
    let limits = [700, 5_000, 2_345, 700];
    let search =
        play(LIMITS, 4, |next, _| limits.iter().map(|limit| up_to(*limit, next.calls)).collect());
    for (goal, limit) in limits.into_iter().enumerate() {
        let Bracket { passed, failed, .. } = search.bracket(goal);
        let (passed, failed) = (passed.unwrap(), failed.unwrap());
        assert!(passed <= limit && limit < failed, "{goal}: {passed} to {failed}");
        assert!((failed - passed) as f64 <= passed as f64 * 0.05, "{goal}: {passed} to {failed}");
    }
    // Three goals, and fewer runs than two searches of their own take.
    let alone = play(LIMITS, 1, |next, _| vec![up_to(2_345, next.calls)]);
    assert!(search.runs.len() < 3 * alone.runs.len(), "{:?}", played(&search));
}

#[test]
fn the_edges_are_played_three_times_and_the_answer_once_more_for_longer() {
    let search = play(LIMITS, 1, |next, _| vec![up_to(1_500, next.calls)]);
    let Bracket { passed, failed, .. } = search.bracket(0);
    let runs = |calls: Option<u64>| {
        search.runs.iter().filter(|run| Some(run.calls) == calls && !run.is_hold).count()
    };
    assert_eq!((runs(passed), runs(failed)), (3, 3), "{:?}", played(&search));
    let last = search.runs.last().unwrap();
    assert_eq!((Some(last.calls), last.is_hold), (passed, true));
    let once = Limits { repeats: 1, hold: false, ..LIMITS };
    let search = play(once, 1, |next, _| vec![up_to(1_500, next.calls)]);
    assert_eq!(search.runs.len(), search.loads().len(), "{:?}", played(&search));
}

#[test]
fn all_calls_may_pass() {
    let search = play(LIMITS, 2, |_, _| vec![State::Met; 2]);
    let bracket = Bracket { reached: Some(10_000), passed: Some(10_000), ..Bracket::default() };
    assert_eq!(search.bracket(0), bracket);
    let calls: Vec<u64> = search.runs.iter().map(|run| run.calls).collect();
    let climb = [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000];
    assert_eq!(calls[..8], climb);
    assert_eq!(calls[8..], [10_000, 10_000, 10_000], "two more at the edge, and the long one");
}

#[test]
fn an_objective_that_no_load_meets_is_not_searched_below_the_first() {
    let node = |next: Next, _| vec![up_to(800, next.calls), State::Missed];
    let search = play(LIMITS, 2, node);
    let none = Bracket { failed: Some(100), ..Bracket::default() };
    assert_eq!(search.bracket(1), none);
    // The other goal gets its bracket all the same, and nothing is held: no load meets all.
    assert_eq!(search.bracket(0).passed, Some(800));
    assert!(search.runs.iter().all(|run| run.calls >= 100 && !run.is_hold));
    // With this goal alone the search is over after the three runs of the edge.
    let alone = play(LIMITS, 1, |_, _| vec![State::Missed]);
    assert_eq!(played(&alone), [(100, false); 3]);
}

#[test]
fn one_hiccup_is_no_limit() {
    let mut hiccups = 0;
    let search = play(LIMITS, 1, |next, _| {
        let is_first = next.calls == 400 && hiccups == 0;
        hiccups += u32::from(next.calls == 400);
        vec![if is_first { State::Missed } else { up_to(6_000, next.calls) }]
    });
    let Bracket { passed, failed, .. } = search.bracket(0);
    assert!(passed <= Some(6_000) && failed > Some(6_000), "{passed:?} {failed:?}");
    assert_eq!(hiccups, 3, "a miss, and the two runs that say otherwise");
}

#[test]
fn noise_moves_the_answer_little() {
    for seed in 1..200 {
        let mut noise = Noise(seed);
        let search = play(LIMITS, 2, |next, _| {
            let state = up_to(3_000, next.calls);
            // A run in ten says the wrong thing, in either direction.
            let wrong = match state {
                State::Met => State::Missed,
                _ => State::Met,
            };
            vec![state, if noise.strikes(10) { wrong } else { state }]
        });
        assert!(search.runs.len() < RUNS_OF_SEARCH_MAX, "seed {seed} does not end");
        let quiet = search.bracket(0);
        assert!(quiet.passed <= Some(3_000) && quiet.failed > Some(3_000), "seed {seed}");
        let noisy = search.bracket(1);
        assert!(noisy.passed < noisy.failed.or(Some(u64::MAX)), "seed {seed}: {noisy:?}");
    }
    // A majority of three is wrong in one load of 36, so most searches are right.
    let is_right = |seed: &u64| {
        let mut noise = Noise(*seed);
        let search = play(LIMITS, 1, |next, _| {
            let is_wrong = noise.strikes(10);
            vec![if is_wrong == (next.calls <= 3_000) { State::Missed } else { State::Met }]
        });
        let Bracket { passed, failed, .. } = search.bracket(0);
        passed.is_some_and(|calls| (2_600..=3_000).contains(&calls))
            && failed.is_some_and(|calls| (3_001..=3_500).contains(&calls))
    };
    let right = (1..200).filter(is_right).count();
    assert!(right > 140, "{right} of 199");
}

#[test]
fn too_few_samples_do_not_stop_the_climb_and_prove_nothing() {
    // An ACK every two seconds: a p99.9 takes some 700 calls for half a minute.
    let node = |next: Next, _| {
        let state = up_to(3_000, next.calls);
        vec![if next.calls < 700 && state == State::Met { State::TooFew } else { state }]
    };
    let search = play(LIMITS, 1, node);
    let Bracket { reached, passed, failed, .. } = search.bracket(0);
    assert!(reached == passed && passed > Some(2_800) && failed > Some(3_000));
    // If no load has enough, there is a reach, and no answer.
    let search = play(LIMITS, 1, |next, _| {
        vec![if next.calls <= 3_000 { State::TooFew } else { State::Missed }]
    });
    let bracket = search.bracket(0);
    assert_eq!((bracket.passed, bracket.reached.is_some()), (None, true), "{bracket:?}");
}

#[test]
fn a_generator_that_is_too_slow_is_a_ceiling_and_no_failure() {
    let node = |next: Next, _| vec![if next.calls > 2_000 { State::Unclear } else { State::Met }];
    let search = play(LIMITS, 1, node);
    let Bracket { passed, failed, unclear, .. } = search.bracket(0);
    assert_eq!(failed, None);
    assert!(passed <= Some(2_000) && unclear > Some(2_000), "{passed:?} {unclear:?}");
    // From the first load on: two runs, and no conclusion.
    let search = play(LIMITS, 1, |_, _| vec![State::Unclear]);
    assert_eq!(played(&search), [(100, false); 2]);
    assert_eq!(search.bracket(0), Bracket { unclear: Some(100), ..Bracket::default() });
}

#[test]
fn the_limit_of_the_node_is_no_hiccup() {
    let mut search = Search::new(Limits { first: 4, max: 64, hold: false, ..LIMITS }, 1);
    while let Some(next) = search.poll_next() {
        let states = vec![up_to(11, next.calls)];
        search.handle_run(Run {
            calls: next.calls,
            states,
            is_final: next.calls > 11,
            is_hold: false,
        });
    }
    let calls: Vec<u64> = search.runs.iter().map(|run| run.calls).collect();
    assert_eq!(calls, [4, 8, 16, 12, 10, 11, 11, 11], "only the edge that passes is repeated");
}

#[test]
fn an_answer_that_does_not_hold_is_lowered() {
    // Short runs pass up to 2,000 calls, and long ones up to 1,700: a disk that fills its cache.
    let node = |next: Next, _| {
        let limit = if next.why == Why::Hold { 1_700 } else { 2_000 };
        vec![up_to(limit, next.calls)]
    };
    let search = play(LIMITS, 1, node);
    let Bracket { passed, failed, .. } = search.bracket(0);
    let passed = passed.unwrap();
    assert!(failed <= Some(2_000), "a failed hold counts: {failed:?}");
    let holds = search.runs.iter().filter(|run| run.is_hold).count();
    assert!(holds <= HOLDS_MAX, "{:?}", played(&search));
    assert_eq!(search.is_held(passed), passed <= 1_700, "{:?}", played(&search));
    // If no long run ever passes, the search ends all the same, without confirmation.
    let search = play(LIMITS, 1, |next, _| {
        vec![if next.why == Why::Hold { State::Missed } else { up_to(2_000, next.calls) }]
    });
    assert!(search.bracket(0).passed.is_none_or(|calls| !search.is_held(calls)));
}

#[test]
fn the_time_left_is_that_of_what_is_left() {
    let search = Search::new(LIMITS, 2);
    let [(least, fewest), (most, runs)] = search.estimate(|_| 10.0);
    assert!(least <= most && fewest <= runs && runs < 40, "{fewest} to {runs}");
    assert_eq!(least, 10.0 * fewest as f64);
    for limit in [100, 444, 3_000, 9_999] {
        let search = play(LIMITS, 2, |next, _| vec![up_to(limit, next.calls); 2]);
        let played = search.runs.len();
        assert!(played <= runs + 2, "{limit}: {played} runs, at most {runs} were expected");
        assert_eq!(search.estimate(|_| 10.0), [(0.0, 0); 2], "{limit}");
    }
    // Near the end it is exact.
    let mut search = Search::new(LIMITS, 1);
    let mut left = Vec::new();
    while let Some(next) = search.poll_next() {
        left.push(search.estimate(|_| 1.0)[1].1);
        let is_hold = next.why == Why::Hold;
        let states = vec![up_to(1_000, next.calls)];
        search.handle_run(Run { calls: next.calls, states, is_final: false, is_hold });
    }
    assert_eq!(left.last(), Some(&1));
    assert!(left.windows(2).filter(|pair| pair[0] < pair[1]).count() <= 2, "{left:?}");
}
