//! A shell script with the fixes that commands can do. The doctor prints it, and runs nothing.

use super::check::{Check, Outcome, Severity};
use std::fmt::Write;

/// The file that sets sysctls after a reboot. `tuning/host.sh` has one of its own, and `revert`
/// removes only that.
const SYSCTL_FILE: &str = "/etc/sysctl.d/92-exo-ingest-doctor.conf";

/// The script for checks that failed.
pub(crate) fn script(checks: &[Check], calls: usize) -> String {
    let mut text = format!(
        "#!/bin/sh\n# Fixes for {calls} calls, printed by `exo-ingest doctor --calls {calls} \
         --output-script`.\n# Read it, then run it as root. `tuning/host.sh apply` keeps the old \
         values; this script does not.\nset -u\nfailed=0\n"
    );
    let failed = checks.iter().filter(|check| check.result == Outcome::Fail);
    let mut sysctls = Vec::new();
    for check in failed {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n# {} ({})", check.id(), check.severity.name());
        let _ = writeln!(text, "#   {}", check.condition());
        if let (Some(required), Some(current)) = (&check.required, &check.current) {
            let _ = writeln!(text, "#   needs {}, has {}", one_line(required), one_line(current));
        }
        if check.commands.is_empty() {
            let _ = writeln!(text, "#   By hand: {}", one_line(&check.fix));
        }
        // What we have not measured is for the operator to decide.
        let is_optional = check.topic.severity == Severity::Info;
        if is_optional && !check.commands.is_empty() {
            let _ = writeln!(text, "#   Optional: remove the # to run it.");
        }
        for command in &check.commands {
            let mark = if is_optional { "# " } else { "" };
            let _ = writeln!(text, "{mark}{command} || failed=1");
            sysctls.extend(command.strip_prefix("sysctl -w ").filter(|_| !is_optional));
        }
    }
    if !sysctls.is_empty() {
        let _ = writeln!(text, "\n# The same settings after a reboot.");
        let _ = writeln!(text, "cat > {SYSCTL_FILE} <<'END'");
        for setting in sysctls {
            let _ = writeln!(text, "{}", setting.replace('\'', ""));
        }
        let _ = writeln!(text, "END");
    }
    let _ = writeln!(text, "\nexit $failed");
    text
}

/// A line break would end a comment.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::plan::Plan;
    use crate::doctor::{Facts, checks};

    fn always() -> Option<String> {
        Some("always".into())
    }

    #[test]
    fn commands_are_under_their_id_and_the_rest_is_a_comment() {
        let mut facts = Facts::default();
        facts.network.somaxconn = Some(128);
        facts.memory.swappiness = Some(60);
        (facts.memory.huge_pages, facts.memory.defrag) = (always(), always());
        facts.kernel.io_uring = Some(Err("a sentence\nof two lines".into()));
        let text = script(&checks(&facts, &Plan::of_calls(8_000)), 8_000);
        for part in [
            "# net.somaxconn (warning)\n",
            "\nsysctl -w net.core.somaxconn=4096 || failed=1\n",
            "\n# echo madvise > /sys/kernel/mm/transparent_hugepage/defrag || failed=1\n",
            "\n#   By hand: a sentence of two lines\n",
            "<<'END'\nvm.swappiness=10\nnet.core.somaxconn=4096\nEND\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("net.syncookies"), "what was not looked at is not fixed");
    }
}
