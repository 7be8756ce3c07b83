//! The report as text and as JSON.

use super::Failure;
use crate::config::ring_size::show_count;
use crate::doctor::check::{Check, Outcome, Severity};
use crate::doctor::{HostFacts, Summary};
use serde::Serialize;

/// Longest line, columns.
const WIDTH: usize = 100;

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    calls: usize,
    checks: &'a [Check],
    facts: &'a HostFacts,
}

pub(super) fn json(checks: &[Check], facts: &HostFacts, calls: usize) -> Result<String, Failure> {
    let document = Document { version: 1, calls, checks, facts };
    let text = serde_json::to_string_pretty(&document)
        .map_err(|error| Failure::Run(format!("cannot write JSON: {error}")))?;
    Ok(text + "\n")
}

/// Failures first, the worst of them at the top.
pub(super) fn text(checks: &[Check], calls: usize) -> String {
    let mut text = format!("Host check for {} calls\n\n", show_count(calls));
    for severity in [Severity::Fatal, Severity::Warning, Severity::Info] {
        for check in checks.iter().filter(|check| check.has_failed(severity)) {
            text += &failure(check);
        }
    }
    for check in checks.iter().filter(|check| check.result == Outcome::Pass) {
        let current = check.current.as_deref().unwrap_or("");
        text += &paragraph(&format!("ok     {:26} ", check.id()), current);
    }
    for check in checks.iter().filter(|check| check.result == Outcome::Skipped) {
        let reason = check.reason.as_deref().unwrap_or("");
        text += &paragraph(&format!("skip   {:26} ", check.id()), reason);
    }
    text + &format!("\n{}\n", summary(Summary::of(checks)))
}

fn failure(check: &Check) -> String {
    let word = word(check);
    let mut text = paragraph(&format!("{word:6} {:26} ", check.id()), check.condition());
    let indent = " ".repeat(7);
    if let (Some(required), Some(current)) = (&check.required, &check.current) {
        text += &paragraph(&format!("{indent}needs  "), required);
        text += &paragraph(&format!("{indent}has    "), current);
    }
    text + &paragraph(&format!("{indent}fix    "), &check.fix)
}

/// The first word of a line.
pub(super) fn word(check: &Check) -> &'static str {
    match (check.result, check.severity) {
        (Outcome::Pass, _) => "ok",
        (Outcome::Skipped, _) => "skip",
        (Outcome::Fail, Severity::Fatal) => "FATAL",
        (Outcome::Fail, Severity::Warning) => "warn",
        (Outcome::Fail, Severity::Info) => "info",
    }
}

fn summary(summary: Summary) -> String {
    let Summary { passed, skipped, fatal, warnings, infos } = summary;
    let plural = |count: usize, word: &str| match count {
        1 => format!("1 {word}"),
        count => format!("{count} {word}s"),
    };
    format!(
        "{fatal} fatal, {}, {infos} info, {passed} passed, {skipped} skipped",
        plural(warnings, "warning"),
    )
}

/// A text after a label, broken into lines that begin below its start.
pub(super) fn paragraph(label: &str, text: &str) -> String {
    let indent = label.chars().count();
    let mut lines = vec![label.to_owned()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let is_empty = lines[last].chars().count() == indent;
        let width = lines[last].chars().count() + 1 + word.chars().count();
        if is_empty {
            lines[last] += word;
        } else if width <= WIDTH {
            lines[last] += &format!(" {word}");
        } else {
            lines.push(" ".repeat(indent) + word);
        }
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_broken_below_their_start() {
        let text = paragraph("fix    ", &"word ".repeat(40));
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert!(text.starts_with("fix    word") && text.contains("\n       word"), "{text}");
        assert_eq!(paragraph("skip ", ""), "skip\n");
    }
}
