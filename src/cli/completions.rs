#![forbid(unsafe_code)]
//! `exo-ingest completions`: completion scripts for shells, made from the table of flags.

use super::{Failure, print};
use clap::{Args, Command, ValueEnum};
use clap_complete::shells;

/// Print a script that completes commands and flags in a shell
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CompletionsArgs {
    /// The shell that the script is for
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Shells that there are scripts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

const EXAMPLES: &str = "\
Examples:
  source <(exo-ingest completions bash)              in this shell
  exo-ingest completions bash > ~/.local/share/bash-completion/completions/exo-ingest
  exo-ingest completions zsh > ~/.zfunc/_exo-ingest
  exo-ingest completions fish > ~/.config/fish/completions/exo-ingest.fish

The Debian package has all three.";

/// Prints the script for `command`.
pub(super) fn run(args: &CompletionsArgs, mut command: Command) -> Result<(), Failure> {
    // In memory first: the crate panics if it cannot write.
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    match args.shell {
        Shell::Bash => {
            clap_complete::generate(shells::Bash, &mut command, &name, &mut script);
            return print(&with_one_name(&String::from_utf8_lossy(&script), &name));
        }
        Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, name, &mut script),
        Shell::Fish => clap_complete::generate(shells::Fish, &mut command, name, &mut script),
    }
    print(&String::from_utf8_lossy(&script))
}

/// clap_complete 4.6 writes the hyphen of a program's name in two ways, and then completes nothing
/// after a command (clap issue 6421). This gives the states of the script the name that it looks
/// for. On a mended script it does nothing.
fn with_one_name(script: &str, name: &str) -> String {
    script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"))
}
