//! What a verdict means, and the reasons for it.

use serde_json::Value;

use crate::duration::show;
use crate::plural::counted;
use crate::results::table::why_invalid;
use crate::results::{items, text};
use crate::verdict::Verdict;

/// A verdict in a sentence, for readers that do not know exo-load.
pub fn meaning(verdict: Verdict, result: &Value) -> String {
    let sentence = match verdict {
        Verdict::Pass => {
            "Every check and every objective held. The generator was fast enough, so the figures \
             are those of the node."
        }
        Verdict::Fail => {
            "A check or an objective did not hold, and a slow generator does not explain it: the \
             node did not carry these calls as it should."
        }
        Verdict::Invalid => return format!("The run proves nothing: {}.", why_invalid(result)),
        Verdict::Worse => {
            "Every check and every objective held, but figures are worse than in the baseline by \
             more than the margin."
        }
    };
    sentence.to_owned()
}

/// The reasons for the verdict, and what to know before using the figures.
pub fn reasons(result: &Value, env: &Value) -> Vec<String> {
    let mut reasons: Vec<String> = items(&result["generator"]["ills"])
        .map(|ill| format!("The generator: {}.", text(ill)))
        .collect();
    let missed = items(&result["slos"]).filter(|slo| slo["held"] == false);
    reasons.extend(
        missed.map(|slo| {
            format!("Objective missed: {}, it was {}.", text(&slo["slo"]), measured(slo))
        }),
    );
    let failures = result["failures"].as_object().into_iter().flatten();
    reasons.extend(failures.map(|(name, tally)| {
        format!("Check failed: {name}, {}.", counted(tally["count"].as_u64().unwrap_or(0), "time"))
    }));
    for name in ["missing", "different", "unexpected"] {
        let count = result["verify"][format!("frames_{name}")].as_u64().unwrap_or(0);
        if count > 0 {
            reasons.push(format!("The journal: {} {name}.", counted(count, "frame")));
        }
    }
    if result["verify"]["frames_equal"] == 0 {
        reasons.push("The journal: no frame of this run was found in it.".to_owned());
    }
    let worse = items(&result["baseline"]["rows"]).filter(|row| row["is_worse"] == true);
    reasons.extend(worse.map(|row| {
        let ns = |name: &str| show(row[name].as_u64().unwrap_or(0));
        format!(
            "Worse than the baseline: {}, {} after {}.",
            text(&row["figure"]),
            ns("after_ns"),
            ns("before_ns")
        )
    }));
    if result["counts"]["frames"] == 0 {
        reasons.push("No frame was sent.".to_owned());
    }
    if result["interrupted"] == true {
        reasons.push("It was interrupted: shorter than asked for.".to_owned());
    }
    if env["debug_build"] == true {
        reasons.push(
            "exo-load was a debug build: a release build has other CPU times and send lags."
                .to_owned(),
        );
    }
    reasons
}

/// The measured figure of an objective.
pub fn measured(slo: &Value) -> String {
    slo["value_ns"].as_u64().map_or_else(|| "not measured".to_owned(), show)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_reason_is_given() {
        let result = json!({
            "generator": {"ills": ["its send lag p99.9 is 20 ms, above 5ms"]},
            "slos": [
                {"slo": "ack.p99<1ms", "value_ns": 2_000_000, "held": false},
                {"slo": "setup.max<1ms", "value_ns": null, "held": false},
                {"slo": "ack.p50<1s", "value_ns": 1, "held": true},
            ],
            "failures": {"ack_late": {"count": 1_234}, "dropped": {"count": 1}},
            "verify": {
                "frames_equal": 0, "frames_missing": 7, "frames_different": 0,
                "frames_unexpected": 1,
            },
            "baseline": {"rows": [
                {"figure": "ack p50", "before_ns": 1_000, "after_ns": 2_000, "is_worse": true},
            ]},
            "counts": {"frames": 0},
            "interrupted": true,
        });
        let all = reasons(&result, &json!({"debug_build": true})).join("\n");
        for part in [
            "send lag p99.9 is 20 ms",
            "ack.p99<1ms, it was 2.00 ms",
            "setup.max<1ms, it was not measured",
            "ack_late, 1,234 times",
            "dropped, 1 time.",
            "7 frames missing",
            "1 frame unexpected",
            "no frame of this run",
            "ack p50, 2.00 µs after 1.00 µs",
            "No frame was sent",
            "interrupted",
            "debug build",
        ] {
            assert!(all.contains(part), "'{part}' is not in: {all}");
        }
        assert!(!all.contains("ack.p50<1s") && !all.contains("different"), "{all}");
        assert_eq!(reasons(&json!({"counts": {"frames": 1}}), &Value::Null), Vec::<String>::new());
    }
}
