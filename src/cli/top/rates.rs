//! What two documents say together: rates, the cost of a frame, the latencies of the time between.

#![forbid(unsafe_code)]

use crate::control::admin::document::{ShardStatus, StatusDocument};
use serde::Serialize;
use std::collections::HashMap;
use std::time::Duration;

/// Rates of a shard or of the whole node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rates {
    pub(super) frames_per_second: f64,
    pub(super) audio_bytes_per_second: f64,
    pub(super) acks_per_second: f64,
    /// Share of one CPU.
    pub(super) cpu: Option<f64>,
    pub(super) us_per_frame: Option<f64>,
}

/// What changed between two documents.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Change {
    pub(super) seconds: f64,
    pub(super) node: Rates,
    pub(super) refused_per_second: f64,
    /// By shard.
    pub(super) shards: Vec<Rates>,
    /// p99 of the ACKs between the documents; `None` without any.
    pub(super) ack_p99_us: Option<u64>,
    /// Frames a second by tenant.
    #[serde(skip)]
    pub(super) tenants: HashMap<String, f64>,
    /// Refusals a second by family and reason.
    #[serde(skip)]
    pub(super) refusals: HashMap<(String, String), f64>,
}

impl Change {
    /// `None` if the node was started again in between.
    pub(super) fn between(
        before: &StatusDocument,
        after: &StatusDocument,
        elapsed: Duration,
    ) -> Option<Change> {
        let seconds = elapsed.as_secs_f64();
        let is_same_node = before.node.started_unix_ms == after.node.started_unix_ms
            && before.shards.len() == after.shards.len();
        if !is_same_node || seconds <= 0.0 {
            return None;
        }
        let pairs = || before.shards.iter().zip(&after.shards);
        let shards: Vec<_> = pairs().map(|pair| rates([pair].into_iter(), seconds)).collect();
        let old = refusals(before);
        let refusals: HashMap<_, _> = refusals(after)
            .into_iter()
            .map(|(key, count)| {
                let grown = count.saturating_sub(old.get(&key).copied().unwrap_or(0));
                (key, grown as f64 / seconds)
            })
            .collect();
        let frames: HashMap<_, _> =
            before.tenants.iter().map(|tenant| (&tenant.tenant, tenant.frames)).collect();
        let tenants = after.tenants.iter().filter_map(|tenant| {
            let grown = tenant.frames.checked_sub(*frames.get(&tenant.tenant)?)?;
            Some((tenant.tenant.clone(), grown as f64 / seconds))
        });
        Some(Change {
            seconds,
            node: rates(pairs(), seconds),
            // A refused token is a refused request too.
            refused_per_second: refusals
                .iter()
                .filter(|((family, _), _)| family != "token_failures")
                .map(|(_, rate)| rate)
                .sum(),
            shards,
            ack_p99_us: quantile(&ack_counts(before, after), &after.ack_bounds_us, 0.99),
            tenants: tenants.collect(),
            refusals,
        })
    }
}

fn rates<'a>(
    pairs: impl Iterator<Item = (&'a ShardStatus, &'a ShardStatus)>,
    seconds: f64,
) -> Rates {
    let (mut frames, mut bytes, mut acks, mut cpu_us) = (0, 0, 0, Some(0));
    for (before, after) in pairs {
        frames += after.frames.saturating_sub(before.frames);
        bytes += after.audio_bytes.saturating_sub(before.audio_bytes);
        acks += after.acks.saturating_sub(before.acks);
        let grown = after.cpu_us.zip(before.cpu_us).map(|(new, old)| new.saturating_sub(old));
        cpu_us = cpu_us.zip(grown).map(|(sum, grown)| sum + grown);
    }
    Rates {
        frames_per_second: frames as f64 / seconds,
        audio_bytes_per_second: bytes as f64 / seconds,
        acks_per_second: acks as f64 / seconds,
        cpu: cpu_us.map(|cpu_us| cpu_us as f64 / 1e6 / seconds),
        us_per_frame: cpu_us.filter(|_| frames > 0).map(|cpu_us| cpu_us as f64 / frames as f64),
    }
}

/// All refusals of a node, by family and reason.
pub(super) fn refusals(document: &StatusDocument) -> HashMap<(String, String), u64> {
    let mut sums = HashMap::new();
    for row in document.shards.iter().flat_map(|shard| &shard.refused) {
        *sums.entry((row.family.clone(), row.reason.clone())).or_default() += row.count;
    }
    sums
}

/// ACKs between two documents, by bucket.
fn ack_counts(before: &StatusDocument, after: &StatusDocument) -> Vec<u64> {
    let mut counts = vec![0; after.ack_bounds_us.len() + 1];
    for (old, new) in before.shards.iter().zip(&after.shards) {
        for ((count, old), new) in counts.iter_mut().zip(&old.ack_counts).zip(&new.ack_counts) {
            *count += new.saturating_sub(*old);
        }
    }
    counts
}

/// A quantile of counts by bucket, on a line within its bucket. Beyond the last bound it is that
/// bound.
fn quantile(counts: &[u64], bounds: &[u64], share: f64) -> Option<u64> {
    let total: u64 = counts.iter().sum();
    let wanted = (total as f64 * share).max(1.0);
    let mut seen = 0.0;
    for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        if seen + *count as f64 >= wanted {
            let low = if index == 0 { 0 } else { bounds[index - 1] };
            let high = bounds.get(index).copied().unwrap_or(low);
            let part = (wanted - seen) / *count as f64;
            return Some(low + ((high - low) as f64 * part) as u64);
        }
        seen += *count as f64;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::control::admin::document::Refused;

    #[test]
    fn rates_are_differences_over_the_time_between() {
        let (before, after) = sample::pair();
        let change = Change::between(&before, &after, Duration::from_secs(2)).unwrap();
        let shard = change.shards[0];
        assert_eq!((shard.frames_per_second, shard.audio_bytes_per_second), (2_500.0, 24e6));
        assert_eq!((shard.cpu, shard.us_per_frame), (Some(0.025), Some(10.0)));
        assert_eq!(change.node.frames_per_second, 5_000.0);
        assert_eq!(change.refused_per_second, 1.5);
        assert_eq!(change.tenants["acme"], 250.0);
    }

    #[test]
    fn a_node_that_was_started_again_has_no_rates_yet() {
        let (before, mut after) = sample::pair();
        after.node.started_unix_ms += 1;
        assert_eq!(Change::between(&before, &after, Duration::from_secs(2)), None);
        assert_eq!(Change::between(&before, &before, Duration::ZERO), None);
    }

    #[test]
    fn a_kernel_that_tells_no_cpu_time_leaves_the_cost_open() {
        let (before, mut after) = sample::pair();
        after.shards[1].cpu_us = None;
        let change = Change::between(&before, &after, Duration::from_secs(2)).unwrap();
        assert_eq!((change.node.cpu, change.node.us_per_frame), (None, None));
        assert!(change.shards[0].us_per_frame.is_some());
    }

    #[test]
    fn refusals_of_all_shards_add_up() {
        let (_, mut after) = sample::pair();
        let more = Refused { family: "refusals".into(), reason: "quota".into(), count: 5 };
        after.shards[1].refused.push(more);
        let sums = refusals(&after);
        assert_eq!(sums[&("refusals".into(), "quota".into())], 8);
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let bounds = [100, 200, 400];
        assert_eq!(quantile(&[0, 0, 0, 0], &bounds, 0.99), None);
        assert_eq!(quantile(&[0, 100, 0, 0], &bounds, 0.5), Some(150));
        assert_eq!(quantile(&[98, 0, 2, 0], &bounds, 0.99), Some(300));
        assert_eq!(quantile(&[1, 0, 0, 99], &bounds, 0.99), Some(400));
        assert_eq!(quantile(&[1, 0, 0, 0], &bounds, 0.99), Some(100));
    }
}
