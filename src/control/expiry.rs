#![forbid(unsafe_code)]
//! Warns of the expiry of the node's certificates from two weeks before: in the log and in
//! `/ready`.

use crate::tls::load::LoadedCertificate;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{MissedTickBehavior, interval};

/// How long before an expiry the warnings begin. Certificates of 90 days are usually renewed 30
/// days before.
const NOTICE_SECS: u64 = 14 * DAY_SECS;

const DAY_SECS: u64 = 24 * 60 * 60;

/// Logs what [`notices`] returns, now and then once a day.
pub(super) async fn watch(notices: impl Fn() -> Vec<String>) {
    let mut days = interval(Duration::from_secs(DAY_SECS));
    days.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        days.tick().await;
        for notice in notices() {
            tracing::warn!("{notice}");
        }
    }
}

/// A sentence for each certificate that is not valid now, or will soon be invalid.
pub(crate) fn notices(certificates: &[LoadedCertificate], now: SystemTime) -> Vec<String> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    certificates.iter().filter_map(|certificate| notice(certificate, now)).collect()
}

fn notice(LoadedCertificate { path, certificate }: &LoadedCertificate, now: u64) -> Option<String> {
    let about = format!("the certificate {} ({})", path.display(), certificate.label());
    let (not_before, not_after) = (certificate.not_before, certificate.not_after);
    let renew = "replace the file, and the node reads it by itself";
    if now > not_after {
        return Some(format!("{about} has expired on {}: {renew}", date(not_after)));
    }
    if now < not_before {
        return Some(format!(
            "{about} is valid from {} on: check the clock, or {renew}",
            date(not_before)
        ));
    }
    let left = not_after - now;
    let days = left / DAY_SECS;
    let days = if days == 1 { "1 day".to_owned() } else { format!("{days} days") };
    (left < NOTICE_SECS)
        .then(|| format!("{about} expires in {days}, on {}: {renew}", date(not_after)))
}

/// A time for people, in UTC.
pub(crate) fn date(unix_secs: u64) -> String {
    // Years after 9999 cannot be printed. Such a date means that a certificate never expires.
    let last = 253_402_300_799;
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix_secs.min(last)))
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::certificate::Certificate;

    #[test]
    fn an_expiry_is_announced_two_weeks_before_and_named_afterwards() {
        let der = exo_ingest_harness::certificates::named("exo", &["exo.example"], &[]);
        let mut certificate = Certificate::parse(&der).unwrap();
        (certificate.not_before, certificate.not_after) = (1_000_000_000, 2_000_000_000);
        let loaded = [LoadedCertificate { path: "exo.pem".into(), certificate }];
        let said = |now: u64| notices(&loaded, UNIX_EPOCH + Duration::from_secs(now)).pop();
        assert_eq!(said(1_500_000_000), None);
        assert_eq!(said(2_000_000_000 - NOTICE_SECS), None);
        let soon = said(2_000_000_000 - NOTICE_SECS + 1).unwrap();
        assert!(
            soon.contains("exo.pem (exo.example) expires in 13 days, on 2033-05-18T03:33:20Z"),
            "{soon}"
        );
        assert!(said(2_000_000_000 - DAY_SECS).unwrap().contains("in 1 day,"));
        assert!(said(2_000_000_001).unwrap().contains("has expired on"));
        assert!(said(999_999_999).unwrap().contains("is valid from 2001-09-09T01:46:40Z on"));
        assert_eq!(date(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
