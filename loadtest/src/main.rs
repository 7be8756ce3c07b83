//! `exo-load`: plays telephony calls at an ingest node in real time, and checks every answer.
//!
//! It is a second implementation of the protocol on purpose: nothing here comes from the node's
//! crate. Sockets are tokio-uring's, frames and handshake are tungstenite's.
//!
//! How a run goes through the modules:
//!
//! 1. [`cli`] reads the flags, and a [`plan`] is made of them.
//! 2. [`player`]s, one thread each, open the calls by the [`schedule`].
//! 3. A [`call`] connects through [`socket`] and [`wire`], reads [`event`]s and checks [`acks`].
//! 4. Meanwhile the [`pacer`] has its [`connection`] send [`audio`] when it is due.
//! 5. All of them count into [`stats`], which [`monitor`] collects once a second.
//! 6. A [`ledger`] records what was sent and promised; [`verify`] compares the node's journal with
//!    it.
//! 7. [`report`] judges the run, and [`files`] writes the results.
//!
//! The schedule is open-loop. When a frame is due does not depend on the node, and the latency of
//! an ack counts from when its tenth frame was due. So a node that stalls cannot hide the delay.

#![forbid(unsafe_code)]

mod abuse;
mod acks;
mod admin;
mod audio;
mod backoff;
mod call;
mod capacity;
mod cli;
mod commands;
mod connection;
mod duration;
mod engine;
mod erlang;
mod event;
mod failure;
mod files;
mod gate;
mod handshakes;
mod host;
mod identities;
mod ledger;
mod live;
mod monitor;
mod pacer;
mod plan;
mod player;
mod plural;
mod report;
mod results;
mod ring;
mod schedule;
mod slo;
mod socket;
mod stats;
mod storm;
mod target;
mod tls;
mod token;
mod verdict;
mod verify;
mod wire;
mod worker;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;

use crate::cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code of a command that could not run.
const COULD_NOT_RUN: u8 = 1;

fn main() -> ExitCode {
    // A write beyond the limit on file sizes must fail, not kill the process. Registering cannot
    // fail for a signal that can be handled.
    let _ =
        signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own code for a wrong command line is 2, which here means that a check failed.
            let printed = error.print().and_then(|()| std::io::stdout().flush());
            let is_lost =
                printed.is_err_and(|error| error.kind() != std::io::ErrorKind::BrokenPipe);
            return if error.use_stderr() || is_lost {
                COULD_NOT_RUN.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let done = match cli.command {
        Command::Run(args) => commands::run(&args),
        Command::Capacity(args) => capacity::play::run(&args),
        Command::Abuse(args) => abuse::abuse(&args),
        Command::Handshakes(args) => commands::handshakes(&args),
        Command::Verify(args) => commands::verify(&args),
        Command::Compare(args) => commands::compare(&args),
        Command::Merge(args) => commands::merge(&args),
        Command::Report(args) => commands::report(&args),
        Command::Plan(args) => commands::plan(&args),
        Command::Completions(args) => commands::completions(&args),
        Command::Manual(args) => commands::manual(&args),
    };
    match done {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("exo-load: {error}");
            COULD_NOT_RUN.into()
        }
    }
}
