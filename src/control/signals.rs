#![forbid(unsafe_code)]
//! Signals as messages. A separate thread receives them, so that a second SIGTERM ends the process
//! even if the control thread is busy.
//!
//! | signal | what it does |
//! | --- | --- |
//! | SIGTERM, SIGINT | drain; the second one ends the process at once |
//! | SIGHUP | reload keys, certificates and settings; ignored during the start, which reads them |
//! | SIGXCPU | the soft limit on CPU time is reached: drain, exit 1. The kernel repeats it |
//! | SIGXFSZ | ignored in all our programs: the write fails with EFBIG, as on a full disk |
//! | SIGPIPE | ignored by Rust's runtime: the write fails with EPIPE |
//! | SIGUSR1, SIGUSR2 | a line in the log; other servers reopen files, so some send them by habit |

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A request of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT, the first one: drain and exit.
    Terminate,
    /// SIGHUP: read keys, certificates and settings again.
    Hangup,
    /// SIGXCPU: the process has little CPU time left.
    CpuLimit,
}

/// Exit code of a drain that was cut short. 0 would say that every call ended in order.
const EXIT_CUT_SHORT: i32 = 1;

/// Lets a write beyond the limit on file sizes (`ulimit -f`) fail. By default it would kill the
/// process. Every program calls this first.
pub fn survive_file_size_limit() {
    pass_over(SIGXFSZ);
}

/// Ignores a SIGHUP that comes while the node starts. Call it before any file is read: a supervisor
/// may ask for a reload at any moment.
pub(crate) fn survive_early_hangup() {
    pass_over(SIGHUP);
}

/// Sets a handler that does nothing, not SIG_IGN: so programs that we start get the default back.
/// [`listen`] adds to it.
fn pass_over(signal: i32) {
    // Fails only for signals that cannot be handled, and these can.
    let _ = flag::register(signal, Arc::new(AtomicBool::new(false)));
}

/// Receives signals from now on. The second of SIGTERM and SIGINT ends the process at once.
pub fn listen() -> std::io::Result<UnboundedReceiver<Signal>> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGXCPU, SIGUSR1, SIGUSR2])?;
    // Unbounded, so that no full channel delays the second signal, which ends the process.
    let (sender, receiver) = unbounded_channel();
    std::thread::Builder::new().name("signals".into()).spawn(move || forward(signals, &sender))?;
    Ok(receiver)
}

fn forward(mut signals: Signals, sender: &UnboundedSender<Signal>) {
    let mut terminating = false;
    for signal in signals.forever() {
        let message = match signal {
            SIGHUP => Signal::Hangup,
            SIGXCPU => Signal::CpuLimit,
            SIGUSR1 | SIGUSR2 => {
                tracing::warn!(
                    signal,
                    "this signal does nothing here: SIGHUP reloads, SIGTERM drains"
                );
                continue;
            }
            _ => Signal::Terminate,
        };
        if message == Signal::Terminate {
            if terminating {
                let _ = writeln!(
                    std::io::stderr(),
                    "error: a second signal came: ended without waiting for the calls"
                );
                std::process::exit(EXIT_CUT_SHORT);
            }
            terminating = true;
        }
        // The receiver may be gone already, if the control thread has ended.
        let _ = sender.send(message);
    }
}
