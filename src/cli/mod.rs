#![forbid(unsafe_code)]
//! The command line: what is asked, in clap's words, and how an answer or a failure leaves the process.
//!
//! Standard output carries what was asked for and nothing else; everything said about it goes to standard error. Exit codes:
//! 0 fine, 1 could not run, 2 usage (flags, variables and configuration file alike), 3 the journal is damaged.

mod calls;
mod config;
mod dev;
mod flags;
pub mod keygen;
mod launch;
mod serve;
pub mod token;

use crate::config::ConfigError;
use crate::journal::reader::JournalError;
use clap::{Parser, Subcommand};
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

/// `exo-ingest`.
#[derive(Debug, Parser)]
#[command(name = "exo-ingest", version, about, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest dev                                     a node to try, with keys and a token
  exo-ingest keygen --out keys                       keys for a real one
  exo-ingest serve --jwt-key keys/public.pem --no-journal

Every setting can come from a flag, a variable (EXO_INGEST_LISTEN for --listen), or a TOML file (--config), in this \
order of precedence; `exo-ingest config` shows all of them.";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Dev(dev::DevArgs),
    Config(config::ConfigArgs),
    /// Read the journal: list, export, verify or follow calls, or delete their audio
    #[command(subcommand, after_help = CALLS_EXAMPLES)]
    Calls(calls::CallsCommand),
    /// Make a key pair: PEM, and the public part as JWKS
    Keygen(keygen::KeygenArgs),
    /// Make and check tokens
    #[command(subcommand, after_help = TOKEN_EXAMPLES)]
    Token(token::TokenCommand),
}

const CALLS_EXAMPLES: &str = "\
Examples:
  exo-ingest calls list --data-dir /var/lib/exo-ingest
  exo-ingest calls export acme/call-1 -o call.wav --data-dir /var/lib/exo-ingest";

const TOKEN_EXAMPLES: &str = "\
Example:
  exo-ingest token mint --key keys/private.pem --tenant acme --interaction call-1 \\
    | exo-ingest token verify --jwt-key keys/public.pem -";

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::serve(&args),
        Command::Dev(args) => dev::dev(&args),
        Command::Config(args) => config::config(&args),
        Command::Calls(command) => calls::run(&command),
        Command::Keygen(args) => keygen::run(&args).map_err(|error| Failure::Run(error.to_string())),
        Command::Token(command) => token::run(&command).map_err(|error| Failure::Run(error.to_string())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where standard error is gone, the exit code is all that is left to say it.
            let _ = writeln!(std::io::stderr(), "error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Why a command did not do what was asked: one sentence that says what to do.
#[derive(Debug)]
enum Failure {
    /// It could not run: exit 1.
    Run(String),
    /// It was asked wrongly: exit 2.
    Usage(String),
    /// The journal is damaged: exit 3.
    Damaged(String),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Run(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Damaged(_) => 3,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Run(sentence) | Failure::Usage(sentence) | Failure::Damaged(sentence) => f.write_str(sentence),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::Usage(error.to_string())
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Failure::Run(error.to_string())
    }
}

/// Prints what was asked for. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Run(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_in_its_help() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("exo-ingest ") && help.contains("Example"), "{} has none", command.get_name());
            assert!(command.get_about().is_some(), "{} says nothing of itself", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
