#![forbid(unsafe_code)]
//! Where the journal is sent to. A node without a sink has no series of these.

use super::{Family, Kind, Scrape, Unit, Value};

pub(super) fn families(scrape: &Scrape<'_>) -> Vec<Family> {
    let new = |name, kind, help: &str| Family::new(name, kind, help).by(&["sink"]);
    let failing = "Whether the sink takes nothing now: `/ready` says why.";
    let mut failing = new("sink_failing", Kind::Gauge, failing);
    let lag = "Bytes of the journal that were read and that the sink does not have.";
    let mut lag_bytes = new("sink_lag", Kind::Gauge, lag).in_unit(Unit::Bytes);
    let lag = "Time since the oldest of these bytes was read.";
    let mut lag_time = new("sink_lag", Kind::Gauge, lag).in_unit(Unit::Seconds);
    let mut bytes = new("sink_acknowledged", Kind::Counter, "Bytes that the sink has taken.")
        .in_unit(Unit::Bytes);
    let mut objects =
        new("sink_objects", Kind::Counter, "Objects or messages that the sink has taken.");
    let mut failures = new("sink_failures", Kind::Counter, "Requests to the sink that failed.");
    let mut resent = new("sink_resent", Kind::Counter, "Messages that were sent again.");
    for sink in &scrape.view.sinks {
        let label = || [sink.kind().to_owned()];
        failing.add(label(), Value::Whole(sink.failure().is_some().into()));
        lag_bytes.add(label(), Value::Whole(sink.lag_bytes()));
        lag_time.add(label(), Value::Real(sink.lag().as_secs_f64()));
        bytes.add(label(), Value::Whole(sink.bytes()));
        objects.add(label(), Value::Whole(sink.objects()));
        failures.add(label(), Value::Whole(sink.failures()));
        resent.add(label(), Value::Whole(sink.resent()));
    }
    vec![failing, lag_bytes, lag_time, bytes, objects, failures, resent]
}
