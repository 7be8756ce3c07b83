//! `exo-ingest top`: a node at a glance, in a terminal, as text, or as JSON.

#![forbid(unsafe_code)]

mod app;
mod fetch;
mod grid;
mod rates;
#[cfg(test)]
mod sample;
mod screen;
mod tables;
mod units;

use super::{Failure, print};
use crate::control::admin::document::StatusDocument;
use app::{App, Outcome};
use fetch::AdminAddress;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use rates::Change;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

const EXAMPLE: &str = "Examples:
  exo-ingest top
  exo-ingest top --admin 10.0.0.7:9464 --interval 2s
  exo-ingest top --once --json | jq .rates.node

Keys: q quits, p pauses, s sorts the chosen table by its next column, left and right choose a \
table, up and down move in it.";

/// How long the view waits for a key before it looks for an answer of the node.
const KEY_WAIT: Duration = Duration::from_millis(50);

/// Watch a node: shards, calls, latencies, refusals, tenants
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct TopArgs {
    /// The node's admin address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9464")]
    #[arg(value_parser = AdminAddress::parse)]
    admin: AdminAddress,
    /// Time between two looks, at least 100ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    interval: Duration,
    /// Look twice, print what happened in between, and end
    #[arg(long)]
    once: bool,
    /// Print JSON, one line for each look: the node's status document, and rates
    #[arg(long)]
    json: bool,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    if range.contains(&interval) {
        Ok(interval)
    } else {
        Err("give a time from 100ms to 1h".into())
    }
}

/// Runs the command.
pub(super) fn run(args: &TopArgs) -> Result<(), Failure> {
    match (args.json, args.once) {
        (false, false) => watch(args),
        (false, true) => {
            let (document, change) = Looks::begin(args)?.next()?;
            print(&tables::plain(&document, change.as_ref(), &args.admin.to_string()))
        }
        (true, is_once) => print_json(args, is_once),
    }
}

fn fetch(admin: &AdminAddress) -> Result<StatusDocument, String> {
    admin.fetch().map_err(|error| error.sentence(admin))
}

/// Documents, an interval apart.
struct Looks<'a> {
    args: &'a TopArgs,
    taken_at: Instant,
    document: StatusDocument,
}

impl<'a> Looks<'a> {
    fn begin(args: &'a TopArgs) -> Result<Looks<'a>, Failure> {
        let document = fetch(&args.admin).map_err(Failure::Run)?;
        Ok(Looks { args, taken_at: Instant::now(), document })
    }

    /// The document after the interval, and what has changed.
    fn next(&mut self) -> Result<(StatusDocument, Option<Change>), Failure> {
        thread::sleep(self.args.interval.saturating_sub(self.taken_at.elapsed()));
        let document = fetch(&self.args.admin).map_err(Failure::Run)?;
        let at = Instant::now();
        let change = Change::between(&self.document, &document, at - self.taken_at);
        (self.taken_at, self.document) = (at, document.clone());
        Ok((document, change))
    }
}

/// A line of JSON.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    document: &'a StatusDocument,
    /// `null` if the node was started again since the last look.
    rates: Option<&'a Change>,
}

fn print_json(args: &TopArgs, is_once: bool) -> Result<(), Failure> {
    let mut looks = Looks::begin(args)?;
    loop {
        let (document, change) = looks.next()?;
        let report = Report { document: &document, rates: change.as_ref() };
        let line = serde_json::to_string(&report)
            .map_err(|error| Failure::Run(format!("the status cannot be printed: {error}")))?;
        let mut stdout = io::stdout().lock();
        match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
            Ok(()) if is_once => return Ok(()),
            Ok(()) => {}
            // The reader has read enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => {
                return Err(Failure::Run(format!("cannot write to standard output: {error}")));
            }
        }
    }
}

/// An attempt to get a document, and when it ended.
type Answer = (Instant, Result<StatusDocument, String>);

fn watch(args: &TopArgs) -> Result<(), Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "top needs a terminal: use --once for a table, or --json".into(),
        ));
    }
    let failed = |error: io::Error| Failure::Run(format!("the terminal cannot be used: {error}"));
    // The terminal must be put in order again before the process ends.
    let is_ended = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&is_ended)).map_err(failed)?;
    }
    end_with_the_terminal();
    let answers = ask_again_and_again(args.admin.clone(), args.interval);
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let app = App::new(args.admin.to_string());
    let outcome = show(&mut terminal, app, &answers, &is_ended);
    ratatui::restore();
    outcome.map_err(failed)
}

/// Ends the process when its terminal is gone. SIGHUP reaches only processes that the terminal
/// controls, and crossterm 0.29 reads for ever, without a pause, where there is nothing to read.
fn end_with_the_terminal() {
    thread::spawn(|| {
        let stdin = io::stdin();
        loop {
            let mut terminal = [PollFd::new(&stdin, PollFlags::empty())];
            match poll(&mut terminal, None) {
                Err(Errno::INTR) => {}
                Ok(_) if !terminal[0].revents().is_empty() => std::process::exit(0),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    });
}

/// Asks in a thread of its own, so that keys work while a node does not answer.
fn ask_again_and_again(admin: AdminAddress, interval: Duration) -> Receiver<Answer> {
    let (sender, answers) = sync_channel(1);
    thread::spawn(move || {
        loop {
            let began = Instant::now();
            let answer = fetch(&admin);
            if sender.send((Instant::now(), answer)).is_err() {
                return;
            }
            thread::sleep(interval.saturating_sub(began.elapsed()));
        }
    });
    answers
}

fn show(
    terminal: &mut DefaultTerminal,
    mut app: App,
    answers: &Receiver<Answer>,
    is_ended: &AtomicBool,
) -> io::Result<()> {
    let mut is_new = true;
    while !is_ended.load(Ordering::Relaxed) {
        if std::mem::take(&mut is_new) {
            terminal.draw(|frame| screen::draw(frame, &app))?;
        }
        if event::poll(KEY_WAIT)? {
            is_new = true;
            if let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
                && app.handle_key(key) == Outcome::Quit
            {
                return Ok(());
            }
        }
        while let Ok((at, answer)) = answers.try_recv() {
            is_new = true;
            app.handle_answer(at, answer);
        }
    }
    Ok(())
}
