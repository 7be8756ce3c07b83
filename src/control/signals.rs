#![forbid(unsafe_code)]
//! Signals as messages. A thread of their own receives them, so that a second SIGTERM ends the process whatever the control
//! thread is doing.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::Write;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What an operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT, the first one: drain and exit.
    Terminate,
    /// SIGHUP: read keys again.
    Hangup,
}

/// Exit code of a drain that was cut short. Not 0, which says that every call was let go in order.
const EXIT_CUT_SHORT: i32 = 1;

/// Receives signals from now on. The second of SIGTERM and SIGINT ends the process at once.
pub fn listen() -> std::io::Result<UnboundedReceiver<Signal>> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    // Not bounded: nothing is to stand between a signal and the second one that ends the process.
    let (sender, receiver) = unbounded_channel();
    std::thread::Builder::new().name("signals".into()).spawn(move || forward(signals, &sender))?;
    Ok(receiver)
}

fn forward(mut signals: Signals, sender: &UnboundedSender<Signal>) {
    let mut terminating = false;
    for signal in signals.forever() {
        let message = if signal == SIGHUP { Signal::Hangup } else { Signal::Terminate };
        if message == Signal::Terminate {
            if terminating {
                let _ = writeln!(std::io::stderr(), "error: a second signal came: ended without waiting for the calls");
                std::process::exit(EXIT_CUT_SHORT);
            }
            terminating = true;
        }
        // The control thread may have gone already, and with it the interest.
        let _ = sender.send(message);
    }
}
