#![forbid(unsafe_code)]
//! The table of the dashboard's panels. In an expression `$node` stands for the labels that choose
//! the nodes, and `$rate` for the time over which rates are taken.
//!
//! A query that is empty in a healthy node says when it is not. A test runs all queries on a real
//! Prometheus, before and after these conditions hold.

/// A row of panels.
pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) panels: &'static [Panel],
}

/// How a panel draws its series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drawing {
    /// One number.
    Number,
    /// One number that is 1 or 0.
    YesOrNo,
    /// Lines over time.
    Lines,
    /// Lines on a logarithmic scale.
    LogLines,
    /// Areas on top of each other.
    Stack,
    /// Buckets over time.
    HeatMap,
}

/// A panel.
pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) help: &'static str,
    pub(super) drawing: Drawing,
    /// Grafana's name of it.
    pub(super) unit: &'static str,
    pub(super) queries: &'static [Query],
}

/// A query of a panel.
pub(super) struct Query {
    pub(super) expr: &'static str,
    pub(super) legend: &'static str,
    /// When it returns series. `None`: always on a node with a journal that has had a call.
    pub(super) when: Option<&'static str>,
}

const fn query(expr: &'static str, legend: &'static str) -> Query {
    Query { expr, legend, when: None }
}

impl Query {
    const fn when(self, when: &'static str) -> Query {
        Query { when: Some(when), ..self }
    }
}

const fn panel(
    title: &'static str,
    (drawing, unit): (Drawing, &'static str),
    help: &'static str,
    queries: &'static [Query],
) -> Panel {
    Panel { title, help, drawing, unit, queries }
}

/// A quantile of a latency over all nodes, and perhaps a condition.
macro_rules! quantile {
    ($quantile:literal, $metric:literal $(, $condition:literal)?) => {
        concat!(
            "histogram_quantile(", $quantile, ", sum by (le) (rate(", $metric,
            "_bucket{$node}[$rate])))" $(, $condition)?
        )
    };
}

/// The rate of a counter over all nodes.
macro_rules! sum_rate {
    ($counter:literal) => {
        concat!("sum(rate(", $counter, "{$node}[$rate]))")
    };
}

/// A counter for each frame, while there are frames.
macro_rules! per_frame {
    ($counter:literal) => {
        concat!(sum_rate!($counter), " / (", sum_rate!("exo_ingest_frames_total"), " > 0)")
    };
}

/// The rates of a counter by reason. Most reasons are rare, so those at zero are left out.
macro_rules! by_reason {
    ($counter:literal) => {
        concat!("sum by (reason) (rate(", $counter, "{$node}[$rate])) > 0")
    };
}

mod machine;
mod sinks;
mod traffic;

// Grafana's names of units.
const COUNT: &str = "short";
const PER_SECOND: &str = "cps";
const SECONDS: &str = "s";
const BYTES: &str = "bytes";
const BYTES_PER_SECOND: &str = "Bps";
const SHARE: &str = "percentunit";

/// All rows, from top to bottom.
pub(super) const ROWS: [Row; 8] = [
    Row { title: "Node", panels: traffic::NODE },
    Row { title: "Calls and refusals", panels: traffic::CALLS },
    Row { title: "ACK latency", panels: traffic::LATENCY },
    Row { title: "Journal and disk", panels: machine::JOURNAL },
    Row { title: "Archives and message engine", panels: sinks::SINKS },
    Row { title: "CPU and shards", panels: machine::SHARDS },
    Row { title: "TLS and tokens", panels: machine::TLS },
    Row { title: "Host", panels: machine::HOST },
];
