//! `exo-load`: plays telephony calls at an ingest node in real time, and checks every answer.
//!
//! On purpose a second implementation of the protocol: nothing here comes from the node's crate. Sockets are
//! tokio-uring's, frames and handshake tungstenite's.
//!
//! The way of a call, and of this crate: [`cli`] settles a [`plan`]; [`worker`]s, one thread each, open calls by the
//! [`schedule`]; a [`call`] connects through [`wire`], reads [`event`]s and checks [`acks`], while its [`mod@line`] sends
//! [`audio`] as it falls due; all count into [`stats`], which [`monitor`] collects once a second; [`report`] judges,
//! [`files`] keeps. What calls sent and were promised goes into a [`ledger`], which [`verify`] holds the node's journal against.
//!
//! The schedule is open-loop: a frame's due time depends on nothing the node does, and an ack's latency counts from
//! when its tenth frame was due. So a node that stalls cannot hide the waiting it causes.

#![forbid(unsafe_code)]

mod acks;
mod audio;
mod backoff;
mod call;
mod capacity;
mod cli;
mod commands;
mod duration;
mod engine;
mod event;
mod failure;
mod files;
mod host;
mod ledger;
mod line;
mod monitor;
mod plan;
mod report;
mod results;
mod schedule;
mod slo;
mod stats;
mod target;
mod token;
mod verify;
mod wire;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code where nothing was tested.
const COULD_NOT_RUN: u8 = 1;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own code for a wrong command line is 2, which here means that a check failed.
            let _ = error.print();
            return if error.use_stderr() { COULD_NOT_RUN.into() } else { ExitCode::SUCCESS };
        }
    };
    let done = match cli.command {
        Command::Run(args) => commands::run(&args),
        Command::Capacity(args) => commands::capacity(&args),
        Command::Verify(args) => commands::verify(&args),
        Command::Compare(args) => commands::compare(&args),
        Command::Merge(args) => commands::merge(&args),
        Command::Report(args) => commands::report(&args),
        Command::Plan(args) => commands::plan(&args),
    };
    match done {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("exo-load: {error}");
            COULD_NOT_RUN.into()
        }
    }
}
