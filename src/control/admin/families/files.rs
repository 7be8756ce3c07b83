#![forbid(unsafe_code)]
//! Files that are read again while the node runs: keys, certificates, settings.

use super::{Family, Kind, Scrape, Unit, Value};
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) fn families(scrape: &Scrape<'_>) -> [Family; 4] {
    let help = "Reloads of keys, certificates or settings: `taken`, or `refused`, so that the old \
        ones stay.";
    let mut reloads = Family::new("reloads", Kind::Counter, help).by(&["what", "outcome"]);
    for (what, outcome, count) in scrape.reloads.counts {
        reloads.add([what.into(), outcome.into()], Value::Whole(count));
    }
    let time = |name, help: &str| {
        Family::new(name, Kind::Gauge, help).in_unit(Unit::Seconds).by(&["what"])
    };
    let mut taken = time(
        "reload_success_timestamp",
        "When keys, certificates or settings were last taken, in Unix time. The start counts.",
    );
    let mut refused = time(
        "reload_failure_timestamp",
        "When a reload of keys, certificates or settings was last refused, in Unix time. Absent \
         until one is.",
    );
    for (what, taken_at, refused_at) in scrape.reloads.times {
        let what = || [what.to_owned()];
        taken_at.into_iter().for_each(|at| taken.add(what(), unix_time(at)));
        refused_at.into_iter().for_each(|at| refused.add(what(), unix_time(at)));
    }
    [reloads, taken, refused, expiry(scrape)]
}

fn expiry(scrape: &Scrape<'_>) -> Family {
    let help = "When a certificate of the node expires, in Unix time, by file.";
    let expiry = Family::new("tls_certificate_expiry_timestamp", Kind::Gauge, help);
    let mut expiry = expiry.in_unit(Unit::Seconds).by(&["file"]);
    for (index, certificate) in scrape.certificates.iter().enumerate() {
        // The settings may name a file twice, but a series must be unique.
        if scrape.certificates[..index].iter().any(|other| other.path == certificate.path) {
            continue;
        }
        let file = certificate.path.display().to_string();
        expiry.add([file], Value::Real(certificate.certificate.not_after as f64));
    }
    expiry
}

fn unix_time(at: SystemTime) -> Value {
    Value::Real(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())
}
