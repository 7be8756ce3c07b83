#![forbid(unsafe_code)]
//! `exo-ingest serve`: the production node.

use super::flags::SettingFlags;
use super::launch::{self, Launch};
use super::{Failure, check, doctor};
use crate::control::signals;
use crate::io::inherited;
use clap::Args;

/// Run the node
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    flags: SettingFlags,
    /// Inherited descriptor: gets the line `listening on ADDRESS`, then is closed
    #[arg(long, value_name = "N")]
    ready_fd: Option<i32>,
    /// Check configuration, keys, certificates, data directory, limits and kernel; do not serve
    #[arg(long, conflicts_with = "ready_fd")]
    check: bool,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest serve --jwt-key keys/public.pem --data-dir /var/lib/exo-ingest
  exo-ingest serve --jwt-key keys/public.pem --no-journal
  exo-ingest serve --config /etc/exo-ingest/exo-ingest.toml --cpus 2-9 --log json
  exo-ingest serve --config /etc/exo-ingest/exo-ingest.toml --check
  exo-ingest serve --jwt-key keys/public.pem --data-dir /var/lib/exo-ingest \\
    --tls-cert exo.pem --tls-key exo-key.pem

When the node serves, it prints one line to standard output: listening on ADDRESS. Logs go to \
standard error.
SIGTERM or SIGINT drains and exits 0; a second one exits 1 at once. SIGHUP, or a change of their \
files, reloads keys, certificates and the --config file. Some settings take a restart; the log \
names them. SIGXCPU drains and exits 1.
The admin address serves /ready, /metrics, /debug/latency.hlog and .hgrm.
Under systemd (NOTIFY_SOCKET) the node reports READY=1, RELOADING=1 and STOPPING=1. A socket that \
systemd passes (LISTEN_FDS) replaces --listen.
Exit codes: 0 success, 1 could not run, 2 wrong usage, or a configuration, key or certificate that \
must be changed first.";

/// Serves until a signal.
pub(super) fn serve(args: &ServeArgs) -> Result<(), Failure> {
    // First of all: while nothing has been opened, the number can only be the descriptor that was
    // passed.
    let passed = inherited::claim_listener();
    let passed =
        passed.map_err(|error| Failure::Usage(format!("LISTEN_FDS cannot be used: {error}")))?;
    if passed.is_some() && args.ready_fd == Some(inherited::FIRST_PASSED) {
        return Err(Failure::Usage(
            "--ready-fd 3 is the socket that LISTEN_FDS passes: give another number".into(),
        ));
    }
    let ready = args.ready_fd.map(|number| {
        inherited::claim(number)
            .map_err(|error| Failure::Usage(format!("--ready-fd {number} cannot be used: {error}")))
    });
    let ready = ready.transpose()?;
    signals::survive_early_hangup();
    let config = args.flags.load("serve", Vec::new())?;
    if args.check {
        return check::check(&config);
    }
    launch::refuse_contradiction(&config)?;
    launch::require_data_dir(&config)?;
    let launch = Launch::start(&config, ready, passed)?;
    launch.announce();
    tracing::info!("{}", doctor::log_line(&config.settings));
    launch.run()
}
