#![forbid(unsafe_code)]
//! The log: structured lines on standard error. Nothing is logged per frame; a call makes one line,
//! when it ends.
//!
//! The caller formats a line, and a thread of the log writes it. The queue between them is bounded,
//! because standard error may be a pipe that is not read, and a shard never blocks. If the queue is
//! full, the line is dropped and counted ([`dropped_lines`]).
//!
//! ```text
//!   shard ──┐ format               ┌ escape what looks like the end of a line
//!   shard ──┼──► queue, lossy ──► log thread ──► standard error
//!   control ┘    (LINES_MAX)
//! ```

use crate::config::settings::{LogFormat, LogLevel};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

/// Lines that may wait to be written: a few megabytes with the longest ids. They last half a minute
/// on a node on which 300 calls end each second.
const LINES_MAX: usize = 8192;

/// How often the end of the process checks whether the last lines were written. With the pauses,
/// that is one second.
const FLUSH_POLLS_MAX: u32 = 1000;
const FLUSH_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Counts of this process, once its log has started.
static GAUGE: OnceLock<Gauge> = OnceLock::new();

/// Sets the level of the log.
type SetLevel = Box<dyn Fn(LevelFilter) + Send + Sync>;

/// Sets the level of this process, once its log has started.
static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// Lines on their way to standard error.
#[derive(Debug, Default)]
struct Counts {
    /// Lines given to the log.
    offered: AtomicUsize,
    /// Lines taken out of the queue, written or not.
    handled: AtomicUsize,
    /// Lines taken out of the queue that standard error did not accept.
    failed: AtomicUsize,
}

/// Counts of the lines on their way.
#[derive(Clone, Debug)]
struct Gauge {
    counts: Arc<Counts>,
    /// Lines that did not fit the queue.
    refused: ErrorCounter,
}

impl Gauge {
    fn waiting(&self) -> usize {
        let gone = self.refused.dropped_lines() + self.counts.handled.load(Ordering::Acquire);
        self.counts.offered.load(Ordering::Acquire).saturating_sub(gone)
    }

    fn dropped(&self) -> u64 {
        (self.refused.dropped_lines() + self.counts.failed.load(Ordering::Acquire)) as u64
    }
}

/// Lines of this process that were lost, because standard error did not accept them in time, or at
/// all.
pub(crate) fn dropped_lines() -> u64 {
    GAUGE.get().map_or(0, Gauge::dropped)
}

/// Owns the log's thread. When dropped at the end of the process, it waits a moment until the last
/// lines are written.
#[must_use = "dropped at once, it ends the log"]
#[derive(Debug)]
pub(crate) struct Log {
    /// Taken by the drop; `None` if the log had been started before.
    guard: Option<(WorkerGuard, Gauge)>,
}

impl Drop for Log {
    fn drop(&mut self) {
        let Some((guard, gauge)) = self.guard.take() else { return };
        for _ in 0..FLUSH_POLLS_MAX {
            if gauge.waiting() == 0 {
                return drop(guard);
            }
            std::thread::sleep(FLUSH_POLL_INTERVAL);
        }
        // Standard error is not read. The guard would wait again, and then complain on standard
        // output, which is not for messages.
        std::mem::forget(guard);
    }
}

/// Starts the log of this process. Only the first call has an effect.
pub(crate) fn start(format: LogFormat, level: LogLevel) -> Log {
    if GAUGE.get().is_some() {
        return Log { guard: None };
    }
    let (lines, log, gauge) = queue(std::io::stderr(), format, LINES_MAX);
    let _ = GAUGE.set(gauge);
    // https://no-color.org: set and not empty.
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let output = tracing_subscriber::fmt::layer()
        .with_writer(lines)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal() && !no_color)
        // It would report a broken standard error to standard error, and panic.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => install(output, level),
        LogFormat::Json => install(output.json().flatten_event(true), level),
    }
    log
}

/// Writes lines of this level or higher severity from now on. Has no effect before [`start`].
pub(crate) fn set_level(level: LogLevel) {
    if let Some(set) = SET_LEVEL.get() {
        set(filter(level));
    }
}

/// Makes `output` the log of this process, with a level that can change.
fn install(output: impl Layer<Registry> + Send + Sync, level: LogLevel) {
    let (level, handle) = reload::Layer::new(filter(level));
    if tracing_subscriber::registry().with(output).with(level).try_init().is_ok() {
        let _ = SET_LEVEL.set(Box::new(move |level| {
            // It fails where the log has ended.
            let _ = handle.reload(level);
        }));
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// A queue of `lines_max` lines to `to`, and the thread that writes them.
fn queue(
    to: impl Write + Send + 'static,
    format: LogFormat,
    lines_max: usize,
) -> (Counted, Log, Gauge) {
    let counts = Arc::new(Counts::default());
    let output = Output { to, format, counts: Arc::clone(&counts) };
    let builder = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(lines_max)
        .thread_name("log");
    let (queue, guard) = builder.finish(output);
    let gauge = Gauge { counts: Arc::clone(&counts), refused: queue.error_counter() };
    (Counted { queue, counts }, Log { guard: Some((guard, gauge.clone())) }, gauge)
}

/// The queue, with counts of what goes in.
struct Counted {
    queue: NonBlocking,
    counts: Arc<Counts>,
}

impl<'a> MakeWriter<'a> for Counted {
    type Writer = NonBlocking;

    /// Called once per line.
    fn make_writer(&'a self) -> NonBlocking {
        self.counts.offered.fetch_add(1, Ordering::AcqRel);
        self.queue.clone()
    }
}

/// The output of the queue: the log thread writes here, one whole line at a time.
struct Output<W> {
    to: W,
    format: LogFormat,
    counts: Arc<Counts>,
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.write_all(line)?;
        Ok(line.len())
    }

    fn write_all(&mut self, line: &[u8]) -> std::io::Result<()> {
        let taken = self.to.write_all(&one_line(line, self.format));
        self.counts.failed.fetch_add(usize::from(taken.is_err()), Ordering::AcqRel);
        self.counts.handled.fetch_add(1, Ordering::AcqRel);
        // Possibly closed. It is counted, and the lines after it are still tried.
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// The line, with characters escaped that a reader may take for the end of a line, or that reverse
/// text. Ids come from peers. Formatting has already escaped quotes, control characters and
/// terminal escapes, but JSON allows these.
fn one_line(line: &[u8], format: LogFormat) -> Cow<'_, [u8]> {
    let text = match std::str::from_utf8(line) {
        Ok(text) if text.contains(is_deceptive) => text,
        _ => return Cow::Borrowed(line),
    };
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        let _ = match (is_deceptive(character), format) {
            (false, _) => escaped.write_char(character),
            (true, LogFormat::Text) => write!(escaped, "\\u{{{:x}}}", character as u32),
            (true, LogFormat::Json) => write!(escaped, "\\u{:04x}", character as u32),
        };
    }
    Cow::Owned(escaped.into_bytes())
}

/// C1 controls (U+0085 ends a line), the line and paragraph separators, and characters that change
/// the direction of text.
pub(crate) fn is_deceptive(character: char) -> bool {
    matches!(
        character,
        '\u{80}'..='\u{9f}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// A reader that takes a line when told to, and is told whether it accepts it.
    struct Gate(Receiver<bool>, Sender<Vec<u8>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            match self.0.recv() {
                Ok(false) => Err(std::io::ErrorKind::BrokenPipe.into()),
                // After the last command, it accepts everything.
                Ok(true) | Err(_) => {
                    let _ = self.1.send(bytes.to_vec());
                    Ok(bytes.len())
                }
            }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn unread_lines_are_dropped_and_counted_and_the_rest_is_written() {
        let ((gate, told), (taker, taken)) = (channel(), channel());
        let (lines, log, gauge) = queue(Gate(told, taker), LogFormat::Text, 4);
        let offer = |number: usize| {
            lines.make_writer().write_all(format!("line {number}\n").as_bytes()).unwrap()
        };
        (0..100).for_each(offer);
        // Four in the queue, and one that the thread may hold.
        let (waiting, dropped) = (gauge.waiting(), gauge.dropped());
        assert!(
            (4..=5).contains(&waiting) && dropped + waiting as u64 == 100,
            "{waiting} wait, {dropped} are gone"
        );
        gate.send(false).unwrap();
        gate.send(true).unwrap();
        assert_eq!(
            taken.recv().unwrap(),
            b"line 1\n",
            "a line that fails does not take others with it"
        );
        assert_eq!(gauge.dropped(), dropped + 1);
        drop(gate);
        drop(log);
        assert_eq!((gauge.waiting(), taken.iter().count()), (0, waiting - 2));
    }

    #[test]
    fn the_end_does_not_wait_for_a_reader_that_never_reads() {
        let ((gate, told), (taker, _taken)) = (channel(), channel());
        let (lines, log, gauge) = queue(Gate(told, taker), LogFormat::Text, 4);
        (0..10).for_each(|_| lines.make_writer().write_all(b"line\n").unwrap());
        drop(log);
        assert!(gauge.waiting() >= 4, "nothing was read, and yet the drop returned");
        drop(gate);
    }

    #[test]
    fn a_line_stays_one_line_with_the_same_meaning() {
        let id = "a\u{2028}b\u{2029}c\u{85}d\u{202e}e\u{2066}ü☎";
        let json = format!("{}\n", serde_json::json!({ "tenant": id }));
        let line =
            String::from_utf8(one_line(json.as_bytes(), LogFormat::Json).into_owned()).unwrap();
        assert!(
            line.strip_suffix('\n')
                .is_some_and(|line| !line.contains(|c: char| is_deceptive(c) || c.is_control()))
        );
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["tenant"], id);
        assert_eq!(
            one_line("x=\u{2028}☎\n".as_bytes(), LogFormat::Text),
            "x=\\u{2028}☎\n".as_bytes()
        );
        assert!(matches!(one_line("Zürich ☎\n".as_bytes(), LogFormat::Text), Cow::Borrowed(_)));
    }
}
