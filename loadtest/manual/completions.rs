//! Completion scripts for shells.

use clap::{Args, Command, ValueEnum};
use clap_complete::shells;

/// Print a script that completes commands and flags in a shell
#[derive(Debug, Args)]
pub struct CompletionsArgs {
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

impl CompletionsArgs {
    /// The script for `command`.
    pub fn script(&self, mut command: Command) -> String {
        // In memory: the crate panics if it cannot write.
        let mut script = Vec::new();
        let name = command.get_name().to_owned();
        match self.shell {
            Shell::Bash => clap_complete::generate(shells::Bash, &mut command, &name, &mut script),
            Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, &name, &mut script),
            Shell::Fish => clap_complete::generate(shells::Fish, &mut command, &name, &mut script),
        }
        let script = String::from_utf8_lossy(&script);
        match self.shell {
            Shell::Bash => with_one_name(&script, &name),
            Shell::Zsh | Shell::Fish => script.into_owned(),
        }
    }
}

/// clap_complete 4.6 writes the hyphen of a program's name in two ways, and then completes nothing
/// after a command (clap issue 6421). This gives the states of the script the name that it looks
/// for. On a mended script it does nothing.
fn with_one_name(script: &str, name: &str) -> String {
    script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"))
}
