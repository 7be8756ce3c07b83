#![forbid(unsafe_code)]
//! Where the journal is sent to. A node without a sink has no series of these.

use super::{Family, Kind, Scrape, Unit, Value};
use crate::handover::sink_view::SinkView;

/// A family, and its value for a sink.
type Row = (&'static str, Kind, Option<Unit>, &'static str, fn(&SinkView) -> Value);

const ROWS: [Row; 12] = [
    (
        "sink_failing",
        Kind::Gauge,
        None,
        "Whether the sink takes nothing now: `/ready` says why.",
        |sink| Value::Whole(sink.failure().is_some().into()),
    ),
    ("sink_required", Kind::Gauge, None, "Whether retention waits for the sink.", |sink| {
        Value::Whole(sink.is_required().into())
    }),
    (
        "sink_lag",
        Kind::Gauge,
        Some(Unit::Bytes),
        "Bytes of the journal, up to its durable end, that the sink does not have.",
        |sink| Value::Whole(sink.lag_bytes()),
    ),
    (
        "sink_lag",
        Kind::Gauge,
        Some(Unit::Seconds),
        "Age of the oldest of these bytes. For runs of another process: of its segment.",
        |sink| Value::Real(sink.lag().as_secs_f64()),
    ),
    (
        "sink_in_flight_objects",
        Kind::Gauge,
        None,
        "Objects or messages that are sent and not acknowledged.",
        |sink| Value::Whole(sink.in_flight_objects()),
    ),
    (
        "sink_in_flight",
        Kind::Gauge,
        Some(Unit::Bytes),
        "Bytes of these objects or messages.",
        |sink| Value::Whole(sink.in_flight_bytes()),
    ),
    (
        "sink_acknowledged",
        Kind::Counter,
        Some(Unit::Bytes),
        "Bytes that the sink has taken.",
        |sink| Value::Whole(sink.bytes()),
    ),
    ("sink_objects", Kind::Counter, None, "Objects or messages that the sink has taken.", |sink| {
        Value::Whole(sink.objects())
    }),
    (
        "sink_resent",
        Kind::Counter,
        None,
        "Messages that were sent again, and objects that the sink had already.",
        |sink| Value::Whole(sink.resent()),
    ),
    ("sink_failures", Kind::Counter, None, "Requests to the sink that failed.", |sink| {
        Value::Whole(sink.failures())
    }),
    (
        "sink_dropped",
        Kind::Counter,
        Some(Unit::Bytes),
        "Bytes of segments that were removed although the sink had not taken them: \
         `forward.over_budget`.",
        |sink| Value::Whole(sink.dropped_bytes()),
    ),
    (
        "sink_erasures_waiting",
        Kind::Gauge,
        None,
        "Calls that were deleted and that the sink has not erased yet.",
        |sink| Value::Whole(sink.erasures()),
    ),
];

pub(super) fn families(scrape: &Scrape<'_>) -> Vec<Family> {
    let family = |(name, kind, unit, help, value): Row| {
        let mut family = Family { unit, ..Family::new(name, kind, help).by(&["sink"]) };
        for sink in &scrape.view.sinks {
            family.add([sink.kind().to_owned()], value(sink));
        }
        family
    };
    ROWS.into_iter().map(family).collect()
}
