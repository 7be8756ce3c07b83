//! `capacity.html`: the answer on one page, which loads nothing else. `templates/capacity.html` is
//! how it looks.

use askama::Template;

use super::goal::State;
use super::step::Step;
use super::table::{missed, percent, time, why};
use super::{Answer, Capacity, Conclusion, GoalAnswer};
use crate::plural::{counted, grouped};
use crate::results::html::chart::{Chart, Scale, Series};

/// Longest line of the command, columns.
const COLUMNS: usize = 96;

/// Shown if nothing was measured.
const NOTHING: &str = "–";

#[derive(Template)]
#[template(path = "capacity.html")]
struct Page {
    title: String,
    sweep: Vec<SweepRow>,
    searches: Vec<Section>,
    /// Program and machine.
    setting: String,
    command: String,
}

/// A number of shards and its answer.
struct SweepRow {
    cores: String,
    calls: String,
    each: String,
    bound: String,
}

/// One search.
struct Section {
    heading: String,
    is_good: bool,
    summary: String,
    bound: String,
    goals: Vec<GoalRow>,
    /// The percentile that the first chart shows.
    percentile: &'static str,
    latency: Chart,
    cpu: Chart,
    runs: Vec<RunRow>,
    numbers: String,
}

/// A goal with its bracket, and where that is on a bar of 100 %.
struct GoalRow {
    goal: String,
    passes: String,
    fails: String,
    runs: String,
    text: String,
    /// Widths: what passed, and what is not known up to what failed.
    passed_percent: String,
    open_percent: String,
}

/// A run.
struct RunRow {
    calls: String,
    why: &'static str,
    seconds: String,
    ack: [String; 3],
    cpu: [String; 2],
    is_missed: bool,
    words: String,
}

/// The page of an answer.
pub fn page(answer: &Answer) -> Result<String, askama::Error> {
    let calls: Vec<String> =
        answer.searches.iter().map(|search| counted(search.calls, "call")).collect();
    let sweep = answer.searches.iter().filter_map(SweepRow::new).collect();
    let searches = answer.searches.iter().map(Section::new).collect();
    let title = format!("exo-load capacity: {}", calls.join(", "));
    let (setting, command) = (answer.setting.words(), answer.setting.shell(COLUMNS));
    Page { title, sweep, searches, setting, command }.render()
}

impl SweepRow {
    fn new(search: &Capacity) -> Option<Self> {
        let cores = search.cores?;
        Some(Self {
            cores: grouped(cores),
            calls: grouped(search.calls),
            each: grouped(search.calls / cores.max(1)),
            bound: search.bound_by.text.clone(),
        })
    }
}

impl Section {
    fn new(search: &Capacity) -> Self {
        let most = search.steps.iter().map(|step| step.calls).max().unwrap_or(1).max(1);
        let percentile = Percentile::new(&search.goals);
        Self {
            heading: heading(search),
            is_good: search.exit_code() == 0,
            summary: search.summary.clone(),
            bound: search.bound_by.text.clone(),
            goals: search.goals.iter().map(|goal| GoalRow::new(goal, most)).collect(),
            percentile: percentile.name,
            latency: latency(search, percentile),
            cpu: cpu(search),
            runs: search.steps.iter().map(|step| RunRow::new(step, &search.goals)).collect(),
            numbers: numbers(search),
        }
    }
}

impl GoalRow {
    fn new(goal: &GoalAnswer, most: u64) -> Self {
        let percent = |calls: u64| calls.min(most) as f64 * 100.0 / most as f64;
        let passed = percent(goal.passed.unwrap_or(0));
        let above = goal.failed.into_iter().chain(goal.unclear).min();
        let open = (percent(above.unwrap_or(most)) - passed).max(0.0);
        Self {
            goal: goal.goal.clone(),
            passes: goal.passes(),
            fails: goal.fails(),
            runs: format!("{} + {}", goal.runs[0], goal.runs[1]),
            text: goal.text.clone(),
            passed_percent: format!("{passed:.1}"),
            open_percent: format!("{open:.1}"),
        }
    }
}

impl RunRow {
    fn new(step: &Step, goals: &[GoalAnswer]) -> Self {
        let (time, percent) = (|value| time(value, NOTHING), |value| percent(value, NOTHING));
        Self {
            calls: grouped(step.calls),
            why: why(step.why),
            seconds: format!("{:.0} s", step.duration_s),
            ack: [step.ack_p50_ns, step.ack_p99_ns, step.ack_p999_ns].map(time),
            cpu: [step.server_cpu_percent, step.generator_cpu_percent].map(percent),
            is_missed: !is_well(step),
            words: words(step, goals),
        }
    }
}

/// The answer in a few words.
pub(super) fn heading(search: &Capacity) -> String {
    let calls = counted(search.calls, "call");
    let answer = match search.conclusion {
        Conclusion::Found => calls,
        Conclusion::AtLeast => format!("at least {calls}"),
        Conclusion::None => "none".to_owned(),
        Conclusion::InsufficientSamples => "insufficient samples".to_owned(),
        Conclusion::Unknown | Conclusion::Interrupted => format!("no conclusion, {calls} passed"),
    };
    match search.cores {
        Some(cores) => format!("{}: {answer}", counted(cores, "shard")),
        None => answer,
    }
}

/// What a run missed, or how well it went.
fn words(step: &Step, goals: &[GoalAnswer]) -> String {
    if !is_well(step) {
        return missed(&step.goals, goals);
    }
    let few = step.goals.iter().filter(|goal| goal.state == State::TooFew).count() as u64;
    match few {
        0 => "met every goal".to_owned(),
        few => format!("missed none; too few samples for {}", counted(few, "goal")),
    }
}

/// Whether a run missed no goal, and proved something.
fn is_well(step: &Step) -> bool {
    step.goals.iter().all(|goal| goal.state.is_well())
}

/// A percentile of the ACK latency that runs have.
#[derive(Clone, Copy)]
struct Percentile {
    name: &'static str,
    /// Objectives on it start with this.
    objective: &'static str,
    of: fn(&Step) -> Option<u64>,
}

impl Percentile {
    const ALL: [Self; 3] = [
        Self { name: "p99.9", objective: "ack.p99.9<", of: |step| step.ack_p999_ns },
        Self { name: "p99", objective: "ack.p99<", of: |step| step.ack_p99_ns },
        Self { name: "p50", objective: "ack.p50<", of: |step| step.ack_p50_ns },
    ];

    /// The first that has an objective, or p99.9.
    fn new(goals: &[GoalAnswer]) -> Self {
        let is_bounded = |it: &Self| goals.iter().any(|goal| goal.goal.starts_with(it.objective));
        Self::ALL.into_iter().find(is_bounded).unwrap_or(Self::ALL[0])
    }
}

/// A percentile of each run over its calls; its objectives across.
fn latency(search: &Capacity, percentile: Percentile) -> Chart {
    let dots = |wanted: fn(&Step) -> bool| {
        let steps = search.steps.iter().filter(|step| wanted(step));
        let points =
            steps.filter_map(|step| Some((step.calls as f64, (percentile.of)(step)? as f64)));
        Series { name: "", points: points.collect(), is_dotted: true }
    };
    // In the order of the colours in the legend.
    let series = vec![
        dots(|step| step.goals.iter().any(|goal| goal.state == State::Missed)),
        dots(|step| step.goals.iter().any(|goal| goal.state == State::Unclear)),
        dots(|_| false),
        dots(is_well),
    ];
    let bounds = search.goals.iter().filter(|goal| goal.goal.starts_with(percentile.objective));
    let bounds = bounds.filter_map(|goal| Some((goal.bound_ns? as f64, goal.goal.clone())));
    chart("ACK latency by number of calls", Scale::Latency, series, bounds.collect(), search)
}

/// CPU of both processes over the calls.
fn cpu(search: &Capacity) -> Chart {
    let dots = |value: fn(&Step) -> Option<f64>| {
        let points = search.steps.iter().filter_map(|step| Some((step.calls as f64, value(step)?)));
        Series { name: "", points: points.collect(), is_dotted: true }
    };
    let series = vec![
        dots(|_| None),
        dots(|step| step.generator_cpu_percent),
        dots(|step| step.server_cpu_percent),
    ];
    chart("CPU by number of calls", Scale::Linear(" %"), series, Vec::new(), search)
}

fn chart(
    title: &'static str,
    scale: Scale,
    series: Vec<Series>,
    bounds: Vec<(f64, String)>,
    search: &Capacity,
) -> Chart {
    let most = search.steps.iter().map(|step| step.calls).max().unwrap_or(1);
    let ticks = (0..=4).map(|part| {
        let calls = most as f64 * f64::from(part) / 4.0;
        (calls, grouped(calls as u64))
    });
    let answer = (search.calls > 0).then_some((search.calls as f64, "answer"));
    Chart {
        title,
        scale,
        series,
        ticks: ticks.collect(),
        marks: answer.into_iter().collect(),
        bounds,
    }
}

/// The runs as plain numbers.
fn numbers(search: &Capacity) -> String {
    let mut out =
        "calls\twhy\tack p50 ms\tack p99 ms\tack p99.9 ms\tloss %\tnode CPU %\texo-load CPU %\n"
            .to_owned();
    let ms =
        |value: Option<u64>| value.map_or_else(String::new, |it| format!("{:.3}", it as f64 / 1e6));
    let percent = |value: Option<f64>| value.map_or_else(String::new, |it| format!("{it:.1}"));
    for step in &search.steps {
        let fields = [
            step.calls.to_string(),
            why(step.why).to_owned(),
            ms(step.ack_p50_ns),
            ms(step.ack_p99_ns),
            ms(step.ack_p999_ns),
            format!("{:.3}", step.loss_percent),
            percent(step.server_cpu_percent),
            percent(step.generator_cpu_percent),
        ];
        out += &fields.join("\t");
        out.push('\n');
    }
    out
}
