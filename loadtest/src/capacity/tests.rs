//! Answers from runs that a model of a node makes up.

use super::goal::Judgement;
use super::node_load::NodeLoad;
use super::search::{Limits, Next, Why};
use super::*;

const LIMITS: Limits =
    Limits { first: 50, max: 4_000, resolution_percent: 5.0, repeats: 3, hold: true };

fn goals(slos: &[&str]) -> Vec<Goal> {
    let slos: Vec<crate::slo::Slo> = slos.iter().map(|slo| slo.parse().unwrap()).collect();
    Goal::all(0.5, &slos)
}

fn answer(searches: Vec<Capacity>) -> Answer {
    let args = ["/opt/exo-load", "capacity"].map(str::to_owned);
    let machine = serde_json::json!({"cores": 4, "cpu_model": "A CPU"});
    Answer::new(Setting::new(args.into_iter(), Some("a disk"), machine), searches)
}

fn judgement(state: State, ms: Option<u64>) -> Judgement {
    let measured = match (state, ms) {
        (State::TooFew, _) => "insufficient samples: 750 of 10,000".to_owned(),
        (_, Some(ms)) => format!("{ms}.0 ms"),
        _ => "0.00 % lost".to_owned(),
    };
    let samples = (state == State::TooFew).then_some([750, 10_000]);
    Judgement { state, measured, value_ns: ms.map(|ms| ms * 1_000_000), samples }
}

fn step(next: Next, goals: Vec<Judgement>) -> Step {
    Step {
        calls: next.calls,
        why: next.why,
        duration_s: 30.0,
        verdict: Verdict::Pass,
        goals,
        loss_percent: 0.0,
        ack_p50_ns: Some(1_000_000),
        ack_p99_ns: Some(2_000_000),
        ack_p999_ns: Some(24_000_000),
        setup_p99_ns: None,
        server_cpu_percent: Some(40.0),
        generator_cpu_percent: Some(2.0),
        sendlag_p999_ns: Some(1_000),
        is_node_limit: false,
        memory_free_percent: Some(50.0),
        node: None,
        ill: None,
        directory: None,
    }
}

fn load() -> NodeLoad {
    NodeLoad {
        shards: 2,
        cpu_percent_max: Some(50.0),
        cpu_percent: Some(40.0),
        rss_bytes_max: None,
        ring_percent_max: 3.0,
        sync_p99_ns: Some(1_000_000),
        not_ready: Default::default(),
        standstills: 0,
        refusals: Default::default(),
    }
}

fn search(goals: &[Goal], mut node: impl FnMut(Next) -> Step) -> Capacity {
    let mut search = Search::new(LIMITS, goals.len());
    let mut steps = Vec::new();
    while let Some(next) = search.poll_next() {
        let step = node(next);
        search.handle_run(step.run());
        steps.push(step);
    }
    Capacity::new(&search, goals, steps, false, None)
}

/// Met up to `limit` calls, for a goal with a latency.
fn up_to(limit: u64, calls: u64) -> State {
    if calls <= limit { State::Met } else { State::Missed }
}

fn well(states: [State; 3]) -> Vec<Judgement> {
    let [none, little, slo] = states;
    vec![judgement(none, None), judgement(little, None), judgement(slo, Some(24))]
}

#[test]
fn an_objective_that_not_even_the_fewest_calls_meet_is_named_with_both_figures() {
    let goals = goals(&["ack.p99.9<5ms"]);
    let capacity = search(&goals, |next| {
        step(next, well([up_to(800, next.calls), State::Met, State::Missed]))
    });
    assert_eq!((capacity.conclusion, capacity.calls), (Conclusion::None, 0));
    assert_eq!(capacity.bound_by.kind, Kind::Slo);
    let text = &capacity.bound_by.text;
    assert!(text.contains("50 calls: 24.0 ms, asked for 5.00 ms"), "{text}");
    assert!(!capacity.summary.contains("exo-load"), "{}", capacity.summary);
    assert_eq!(capacity.exit_code(), 2);
    // The other goals have their answers.
    assert_eq!((capacity.goals[0].passed, capacity.goals[1].passed), (Some(800), Some(4_000)));
    let table = answer(vec![capacity]).table();
    assert!(table.contains("no loss") && table.contains("none"), "{table}");
}

#[test]
fn what_bound_it_is_told_by_the_figures_of_the_first_load_that_failed() {
    let goals = goals(&["ack.p99.9<50ms"]);
    let bound = |change: fn(&mut Step)| {
        let capacity = search(&goals, |next| {
            let mut step = step(next, well([State::Met, State::Met, up_to(1_000, next.calls)]));
            step.node = Some(load());
            if next.calls > 1_000 {
                change(&mut step);
            }
            step
        });
        assert!((950..=1_000).contains(&capacity.calls), "{}", capacity.calls);
        assert_eq!((capacity.conclusion, capacity.is_confirmed), (Conclusion::Found, true));
        assert!(capacity.summary.contains(&capacity.bound_by.text), "{}", capacity.summary);
        capacity.bound_by
    };
    for (kind, part, change) in [
        (
            Kind::NodeCpu,
            "used 171 % of a core, and has 2 shards",
            (|step: &mut Step| {
                step.server_cpu_percent = Some(171.0);
            }) as fn(&mut Step),
        ),
        (Kind::Disk, "a frame ring was 80 % full", |step| {
            step.node.as_mut().unwrap().ring_percent_max = 80.0;
        }),
        (Kind::Disk, "took up to 25.0 ms", |step| {
            step.node.as_mut().unwrap().sync_p99_ns = Some(25_000_000);
        }),
        (Kind::Memory, "only 2.0 % of the host's", |step| step.memory_free_percent = Some(2.0)),
        (Kind::NodeLimit, "its --max-calls)", |step| {
            step.is_node_limit = true;
            step.node.as_mut().unwrap().not_ready.insert("at_capacity".to_owned());
        }),
        (Kind::NodeLimit, "a tenant's quota", |step| {
            step.is_node_limit = true;
            step.node.as_mut().unwrap().refusals.insert("quota".to_owned(), 3);
        }),
        (Kind::Disk, "because of its disk: journal_unavailable", |step| {
            step.is_node_limit = true;
            step.node.as_mut().unwrap().not_ready.insert("journal_unavailable".to_owned());
        }),
        (Kind::NodeLimit, "or too little disk or memory", |step| {
            (step.is_node_limit, step.node) = (true, None);
        }),
        (Kind::Unknown, "the node used 40 % of a core; exo-load used 2 %", |_| {}),
        (Kind::Unknown, "give --admin", |step| step.node = None),
    ] {
        let found = bound(change);
        assert!(found.kind == kind && found.text.contains(part), "{part}: {found:?}");
    }
}

#[test]
fn a_generator_that_is_too_slow_is_named_and_nothing_else_is() {
    let goals = goals(&["ack.p99.9<50ms"]);
    let capacity = search(&goals, |next| {
        let state = if next.calls > 1_000 { State::Unclear } else { State::Met };
        let mut step = step(next, well([state; 3]));
        step.ill = (state == State::Unclear).then(|| "it used 99 % of its cores".to_owned());
        step
    });
    assert_eq!((capacity.conclusion, capacity.exit_code()), (Conclusion::Unknown, 3));
    assert_eq!(capacity.bound_by.kind, Kind::Generator);
    let text = &capacity.summary;
    for part in ["no conclusion: ", "exo-load was too slow for", "99 %", "--cpus"] {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    assert!(capacity.calls > 950 && capacity.calls <= 1_000);
}

#[test]
fn too_few_samples_are_no_number() {
    let goals = goals(&["ack.p99.9<50ms"]);
    let capacity = search(&goals, |next| step(next, well([State::Met, State::Met, State::TooFew])));
    assert_eq!(capacity.conclusion, Conclusion::InsufficientSamples);
    assert_eq!((capacity.calls, capacity.goals[2].passed, capacity.exit_code()), (0, None, 3));
    let text = &capacity.summary;
    assert!(
        text.contains("insufficient samples: 750 of 10,000") && text.contains("--duration 440s"),
        "{text}"
    );
    assert!(answer(vec![capacity]).table().contains("too few"));
}

#[test]
fn the_most_that_was_tried_is_a_lower_bound() {
    let capacity = search(&goals(&[]), |next| step(next, well([State::Met; 3])[..2].to_vec()));
    assert_eq!((capacity.conclusion, capacity.calls), (Conclusion::AtLeast, 4_000));
    assert_eq!(capacity.bound_by.kind, Kind::CallsMax);
    assert!(capacity.summary.contains("at least 4,000 calls") && capacity.is_confirmed);
}

#[test]
fn a_sweep_has_a_line_for_each_number_of_shards() {
    let of = |cores: u64| {
        let goals = goals(&[]);
        let mut search = Search::new(LIMITS, goals.len());
        let mut steps = Vec::new();
        while let Some(next) = search.poll_next() {
            let step = step(next, vec![judgement(up_to(900 * cores, next.calls), None); 2]);
            search.handle_run(step.run());
            steps.push(step);
        }
        Capacity::new(&search, &goals, steps, false, Some(cores))
    };
    let answer = answer(vec![of(1), of(2)]);
    let table = answer.table();
    assert!(table.contains("calls a shard") && table.contains("--- 2 shards ---"), "{table}");
    let markdown = answer.markdown();
    for part in [
        "# Capacity: ",
        "A CPU, 4 CPUs",
        "Note: a disk",
        "```sh\nexo-load capacity\n```",
        "\n## 1 shard\n",
        "\n## 2 shards\n",
        "\nWhat runs missed:\n",
    ] {
        assert!(markdown.contains(part), "'{part}' is not in: {markdown}");
    }
    let is_short = |line: &str| line.chars().count() <= 100;
    assert!(markdown.lines().all(is_short), "{markdown}");
    let page = page::page(&answer).unwrap();
    for part in ["By number of shards", "<h2 class=\"answer pass\">", "met every goal", "tab-size"]
    {
        assert!(page.contains(part), "'{part}' is not in: {page}");
    }
    // It loads nothing, and runs nothing.
    for way_out in ["http:", "https:", "href", "src=", "@import", "url(", "<link", "<script"] {
        assert!(!page.contains(way_out), "{way_out}: {page}");
    }
}

#[test]
fn an_answer_that_no_long_run_confirms_says_so() {
    // The generator is disturbed in every long run.
    let capacity = search(&goals(&[]), |next| {
        let is_hold = next.why == Why::Hold;
        let state = if is_hold { State::Unclear } else { up_to(1_000, next.calls) };
        step(next, vec![judgement(state, None); 2])
    });
    assert_eq!((capacity.conclusion, capacity.is_confirmed), (Conclusion::Found, false));
    assert!(capacity.summary.contains("NOT confirmed"), "{}", capacity.summary);
    let holds = capacity.steps.iter().filter(|step| step.why == Why::Hold).count();
    assert_eq!(holds, 3, "it is tried again");
}

#[test]
fn the_narrow_bracket_and_its_runs_are_counted() {
    let goals = goals(&["ack.p99.9<50ms"]);
    let capacity = search(&goals, |next| {
        let held = if next.why == Why::Hold { 900 } else { 1_000 };
        step(next, well([up_to(2_000, next.calls), State::Met, up_to(held, next.calls)]))
    });
    let slo = &capacity.goals[2];
    assert_eq!(slo.bound_ns, Some(50_000_000));
    assert!(slo.passed < slo.failed && slo.runs[0] >= 3, "{slo:?}");
    assert_eq!(capacity.limited_by_goal, "ack.p99.9<50ms");
    assert_eq!(capacity.calls, slo.passed.unwrap());
}
