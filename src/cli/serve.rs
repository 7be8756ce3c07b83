#![forbid(unsafe_code)]
//! `exo-ingest serve`: the production node.

use super::Failure;
use super::flags::SettingFlags;
use super::launch::{self, Launch};
use crate::io::inherited;
use clap::Args;

/// Run the node
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    flags: SettingFlags,
    /// Inherited descriptor that gets the line `listening on ADDRESS` and is closed
    #[arg(long, value_name = "N")]
    ready_fd: Option<i32>,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest serve --jwt-key keys/public.pem --data-dir /var/lib/exo-ingest
  exo-ingest serve --jwt-key keys/public.pem --no-journal
  exo-ingest serve --config /etc/exo-ingest.toml --cpus 2-9 --log json

Once it serves it prints one line to standard output: listening on ADDRESS. Logs go to standard error.
SIGTERM or SIGINT drains and exits 0; a second one exits at once, with 1. SIGHUP reads the keys again, as does a \
change of their file. On the admin address: /ready, /metrics, /debug/latency.hlog and .hgrm. Under systemd (NOTIFY_SOCKET) it reports READY=1, RELOADING=1 \
and STOPPING=1.
Exit: 0 fine, 1 could not run, 2 usage.";

/// Serves until a signal ends it.
pub(super) fn serve(args: &ServeArgs) -> Result<(), Failure> {
    // First of all: as long as nothing has been opened, the number can only be the descriptor we were given.
    let ready = args.ready_fd.map(|number| {
        inherited::claim(number).map_err(|error| Failure::Usage(format!("--ready-fd {number} cannot be used: {error}")))
    });
    let ready = ready.transpose()?;
    let config = args.flags.load("serve", Vec::new())?;
    launch::require_data_dir(&config)?;
    let launch = Launch::start(&config, ready)?;
    launch.announce();
    launch.run()
}
