//! The command line: commands, flags, and how their values are read.

use clap::{Parser, Subcommand};
use exo_manual::{CompletionsArgs, ManArgs};

use crate::duration;

mod abuse;
mod capacity;
pub mod handshakes;
mod play;
mod results;
mod run;
mod storms;
pub mod tls;
mod units;
mod verify;

pub use abuse::AbuseArgs;
pub use capacity::CapacityArgs;
pub use handshakes::HandshakesArgs;
pub use results::{CompareArgs, MergeArgs, PlanArgs, ReportArgs};
pub use run::RunArgs;
#[cfg(test)]
pub use run::tests::args as run_args;
pub use verify::VerifyArgs;

/// Version of the program, with the commit it was built from.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILT_FROM_COMMIT"), ")");

/// Plays telephony calls at an ingest node in real time and checks every answer.
#[derive(Debug, Parser)]
#[command(name = "exo-load", version = VERSION)]
#[command(after_help = "Example:\n  JWT_TOKEN=… exo-load run --calls 1")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Play calls and check them
    Run(Box<RunArgs>),
    /// Find the largest number of calls within the objectives
    Capacity(Box<CapacityArgs>),
    /// Play hostile peers beside live calls, and check that the calls do not suffer
    Abuse(Box<AbuseArgs>),
    /// Find how many TLS handshakes a second one core of a node does, full and resumed
    Handshakes(HandshakesArgs),
    /// Compare a node's journal with what an earlier run sent, as run --verify does after a run
    Verify(VerifyArgs),
    /// Show the figures of two runs side by side
    Compare(CompareArgs),
    /// Add up the runs of several generators that played at one node at the same time
    Merge(MergeArgs),
    /// Write report.html of a run again
    Report(ReportArgs),
    /// Say how many calls a node carries, and how many boxes a number of calls needs
    Plan(PlanArgs),
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    #[command(name = "man", after_help = MAN_EXAMPLES)]
    Manual(ManArgs),
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  source <(exo-load completions bash)              in this shell
  exo-load completions bash > ~/.local/share/bash-completion/completions/exo-load
  exo-load completions zsh > ~/.zfunc/_exo-load
  exo-load completions fish > ~/.config/fish/completions/exo-load.fish

The Debian package of exo-ingest has all three.";

const MAN_EXAMPLES: &str = "\
Examples:
  exo-load man -o man1 && man -l man1/exo-load-run.1
  exo-load man -o /usr/local/share/man/man1

The Debian package of exo-ingest has them.";

/// Reads `10%` or `10`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim_end().parse::<f64>().ok();
    number
        .filter(|number| (0.0..=1_000.0).contains(number))
        .ok_or_else(|| format!("'{text}' is no margin; write one like 10%"))
}

/// Reads a number above zero.
fn positive(text: &str) -> Result<f64, String> {
    let number =
        text.trim().parse::<f64>().ok().filter(|number| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| format!("'{text}' is no number above zero"))
}

/// Reads a share of up to one: `0.001` or `0.1%`.
fn share(text: &str) -> Result<f64, String> {
    let number = match text.trim().strip_suffix('%') {
        Some(number) => number.trim_end().parse::<f64>().map(|number| number / 100.0),
        None => text.trim().parse(),
    };
    let number = number.ok().filter(|number| *number > 0.0 && *number < 1.0);
    number.ok_or_else(|| format!("'{text}' is no share; write one like 0.001 or 0.1%"))
}

/// The command line with the values of secret flags taken out.
pub fn redact(args: impl Iterator<Item = String>) -> Vec<String> {
    const SECRET: [&str; 3] = ["--token", "--key", "--client-key"];
    let mut hide = false;
    let redact = |arg: String| {
        if std::mem::take(&mut hide) {
            return "…".to_owned();
        }
        hide = SECRET.contains(&arg.as_str());
        let with_value = SECRET
            .iter()
            .find(|flag| arg.strip_prefix(**flag).is_some_and(|rest| rest.starts_with('=')));
        with_value.map_or(arg, |flag| format!("{flag}=…"))
    };
    args.map(redact).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_number_or_a_percentage() {
        assert_eq!((share("0.001"), share("1 %")), (Ok(0.001), Ok(0.01)));
        for wrong in ["0", "1", "100%", "-1%", "x", ""] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn secrets_stay_out_of_the_record() {
        let line = [
            "run",
            "--token",
            "a.b.c",
            "--calls",
            "1",
            "--key=/k.pem",
            "--keyword",
            "x",
            "--token=a.b.c",
        ];
        let redacted = redact(line.iter().map(|arg| (*arg).to_owned()));
        assert_eq!(
            redacted,
            ["run", "--token", "…", "--calls", "1", "--key=…", "--keyword", "x", "--token=…"]
        );
    }
}
