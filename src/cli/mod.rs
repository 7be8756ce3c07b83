#![forbid(unsafe_code)]
//! The command line: commands and flags for clap, and how a result or a failure leaves the process.
//!
//! Standard output carries only the requested result; remarks about it go to standard error.
//!
//! Exit codes:
//! - 0: success
//! - 1: could not run
//! - 2: wrong usage (flags, variables, configuration file), or a bad key or certificate that no
//!   retry can fix
//! - 3: the journal is damaged

mod archive;
mod calls;
mod certificate;
mod check;
mod config;
mod dev;
mod doctor;
mod flags;
mod forward;
pub mod keygen;
mod launch;
mod live;
mod monitoring;
mod read;
mod reload;
mod serve;
mod ship;
mod store;
pub(crate) mod token;
mod top;

use crate::archive::reader::JournalError;
use crate::config::ConfigError;
use crate::control::signals;
use clap::{CommandFactory, Parser, Subcommand};
use exo_manual::{CompletionsArgs, ManArgs};
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

/// `exo-ingest`.
#[derive(Debug, Parser)]
#[command(
    name = "exo-ingest",
    version = VERSION,
    about,
    after_help = EXAMPLES,
    max_term_width = 110
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Release and commit.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILT_FROM_COMMIT"), ")");

const EXAMPLES: &str = "\
Examples:
  exo-ingest dev                                     a node to try, with keys and a token
  exo-ingest keygen --out keys                       keys for a real one
  exo-ingest serve --jwt-key keys/public.pem --no-journal
  exo-ingest doctor --calls 8000                     whether this host can hold 8,000 calls

Every setting can come from a flag, a variable (EXO_INGEST_LISTEN for --listen), or a TOML file \
(--config). A flag overrides a variable, and a variable overrides the file. `exo-ingest config` \
shows all settings.";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Dev(dev::DevArgs),
    Config(config::ConfigArgs),
    Doctor(doctor::DoctorArgs),
    Grafana(monitoring::GrafanaArgs),
    Alerts(monitoring::AlertsArgs),
    /// Read the journal: list, export, verify or follow calls, or delete their audio
    #[command(subcommand, after_help = CALLS_EXAMPLES)]
    Calls(calls::CallsCommand),
    Top(top::TopArgs),
    Read(read::ReadArgs),
    Ship(ship::ShipArgs),
    /// Read an archive: list, export, verify, compact or delete its calls
    #[command(subcommand, after_help = ARCHIVE_EXAMPLES)]
    Archive(archive::ArchiveCommand),
    /// Make a key pair: PEM, and the public part as JWKS
    Keygen(keygen::KeygenArgs),
    /// Make and check tokens
    #[command(subcommand, after_help = TOKEN_EXAMPLES)]
    Token(token::TokenCommand),
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    #[command(name = "man", after_help = MAN_EXAMPLES)]
    Manual(ManArgs),
}

const CALLS_EXAMPLES: &str = "\
Examples:
  exo-ingest calls list --data-dir /var/lib/exo-ingest
  exo-ingest calls export acme/call-1 -o call.wav --data-dir /var/lib/exo-ingest";

const ARCHIVE_EXAMPLES: &str = "\
Examples:
  exo-ingest archive list --from s3://recordings/exo
  exo-ingest archive export acme/call-1 -o call.wav --from s3://recordings/exo";

const TOKEN_EXAMPLES: &str = "\
Example:
  exo-ingest token mint --key keys/private.pem --tenant acme --interaction call-1 \\
    | exo-ingest token verify --jwt-key keys/public.pem -";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  source <(exo-ingest completions bash)              in this shell
  exo-ingest completions bash > ~/.local/share/bash-completion/completions/exo-ingest
  exo-ingest completions zsh > ~/.zfunc/_exo-ingest
  exo-ingest completions fish > ~/.config/fish/completions/exo-ingest.fish

The Debian package has all three.";

const MAN_EXAMPLES: &str = "\
Examples:
  exo-ingest man -o man1 && man -l man1/exo-ingest-serve.1
  exo-ingest man -o /usr/local/share/man/man1

The Debian package has them.";

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    signals::survive_file_size_limit();
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(told) => return tell(&told),
    };
    let outcome = match command {
        Command::Serve(args) => serve::serve(&args),
        Command::Dev(args) => dev::dev(&args),
        Command::Config(args) => config::config(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Grafana(args) => monitoring::grafana(&args),
        Command::Alerts(args) => monitoring::alerts(&args),
        Command::Calls(command) => calls::run(&command),
        Command::Top(args) => top::run(&args),
        Command::Read(args) => read::read(&args),
        Command::Ship(args) => ship::ship(&args),
        Command::Archive(command) => archive::run(&command),
        Command::Keygen(args) => {
            keygen::run(&args).map_err(|error| Failure::Run(error.to_string()))
        }
        Command::Token(command) => {
            token::run(&command).map_err(|error| Failure::Run(error.to_string()))
        }
        Command::Completions(args) => print(&args.script(Cli::command())),
        Command::Manual(args) => args.write(Cli::command()).map_err(Failure::Run),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // If standard error is closed, only the exit code is left.
            let _ = writeln!(std::io::stderr(), "error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Help and version go to standard output, and errors of the command line to standard error. Either
/// may not be writable. Help that could not be written is not a success.
fn tell(told: &clap::Error) -> ExitCode {
    let code = u8::try_from(told.exit_code()).unwrap_or(2);
    match told.print().and_then(|()| std::io::stdout().flush()) {
        Err(error) if code == 0 && error.kind() != std::io::ErrorKind::BrokenPipe => {
            let _ = writeln!(std::io::stderr(), "error: cannot write to standard output: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::from(code),
    }
}

/// Why a command failed: one sentence that says what to do.
#[derive(Debug)]
enum Failure {
    /// It could not run, but a retry may succeed: exit 1.
    Run(String),
    /// Wrong usage, or a given file is not valid: exit 2. A supervisor need not retry.
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
            Failure::Run(sentence) | Failure::Usage(sentence) | Failure::Damaged(sentence) => {
                f.write_str(sentence)
            }
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

/// Prints the requested result. A reader that has read enough (`| head`) is not a failure.
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

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_in_its_help() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                help.contains("exo-ingest ") && help.contains("Example"),
                "{} has none",
                command.get_name()
            );
            assert!(command.get_about().is_some(), "{} says nothing of itself", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
