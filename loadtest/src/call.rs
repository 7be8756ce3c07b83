//! One call from its first connect to its confirmed end: the reading half, and the order of things.

use std::rc::Rc;
use std::time::Duration;

use tokio_uring::net::TcpStream;
use tungstenite::protocol::{CloseFrame, Message};

use crate::acks::{Acks, Verdict};
use crate::backoff::Backoff;
use crate::event::{self, Event};
use crate::failure::{Failure, Reason};
use crate::ledger::Entry;
use crate::line::Line;
use crate::stats::Metric;
use crate::wire::{self, Link, Upgrade};
use crate::worker::Worker;

/// Bytes of a read: more than a dozen acks, and less than a page for each of thousands of calls.
const READ_SIZE: usize = 512;

/// After both Closes the node ends the TCP connection; we help after this.
const FIN_WAIT: Duration = Duration::from_secs(1);

/// Plays call `number` until it is time to hang up, over as many connections as it takes and the plan allows.
pub async fn play(worker: Rc<Worker>, number: u64) {
    let plan = worker.plan.clone();
    let mut backoff = plan.reconnect.map(Backoff::new);
    let mut call = Call { worker: worker.clone(), number, frames_before: 0, next_due: None };
    let hangs_up_at = plan.schedule.hangs_up_at(number);
    loop {
        let failure = match call.connect_and_play(&mut backoff).await {
            Ok(()) => return,
            Err(failure) => failure,
        };
        let now = plan.clock.now();
        let again = backoff.as_mut().filter(|_| failure.reason.is_retryable() && now < hangs_up_at && !plan.is_cut());
        let Some(backoff) = again else {
            worker.fail(number, &failure);
            return;
        };
        worker.recorder.write(|stats| stats.counts.reconnects += 1);
        let wait = backoff.next(fastrand::f64(), failure.retry_after);
        let remaining = Duration::from_nanos(hangs_up_at.saturating_sub(now));
        tokio::time::sleep(wait.min(remaining)).await;
        if wait >= remaining || plan.is_cut() {
            let detail = format!("the run ended before the next attempt; last: {} {}", failure.reason, failure.detail);
            worker.fail(number, &Failure::new(Reason::NotConnected, detail));
            call.lose_frames_until(plan.schedule.end);
            return;
        }
    }
}

struct Call {
    worker: Rc<Worker>,
    number: u64,
    /// Frames of earlier connections: audio goes on, `seq` starts again.
    frames_before: u64,
    /// When the first frame after a lost connection was due.
    next_due: Option<u64>,
}

impl Call {
    /// Frames that fell due without a connection: live audio does not wait.
    fn lose_frames_until(&mut self, first: u64) {
        let Some(next_due) = self.next_due.take() else { return };
        let lost = first.saturating_sub(next_due).div_ceil(self.worker.plan.schedule.interval);
        self.worker.recorder.write(|stats| stats.counts.frames_lost += lost);
    }

    async fn connect_and_play(&mut self, backoff: &mut Option<Backoff>) -> Result<(), Failure> {
        let plan = self.worker.plan.clone();
        let setup = tokio::time::timeout(plan.setup_timeout, self.set_up()).await;
        let (stream, link) = setup.unwrap_or_else(|_| {
            Err(Failure::new(Reason::SetupTimeout, format!("no call after {:?}", plan.setup_timeout)))
        })?;
        if let Some(backoff) = backoff {
            backoff.reset();
        }
        let first = plan.schedule.first_due(self.number, plan.clock.now());
        self.lose_frames_until(first.min(plan.schedule.end));
        let total = if plan.is_cut() { 0 } else { plan.schedule.frames_from(first) };
        let acks = Acks::new(first, plan.schedule.interval, plan.ack_timeout);
        let mut ending = Ending { link, stopped: false, stopped_seq: 0 };
        let finale = if plan.stop { ending.stop() } else { wire::close_frame() };
        let line = Rc::new(Line::new(stream, self.number, self.frames_before, acks, total, finale));
        tokio_uring::spawn(line.clone().write(self.worker.clone()));
        self.worker.recorder.count_up(1);
        if total > 0 {
            self.worker.join(first, line.clone());
        }
        // One timer per connection, not one per read: lateness of single acks is noticed by the writer.
        let deadline = plan.clock.instant(plan.clock.now().max(plan.schedule.hangs_up_at(self.number))) + plan.stop_timeout;
        let played = tokio::time::timeout_at(deadline.into(), self.listen(&line, &mut ending)).await;
        self.worker.recorder.count_up(-1);
        line.end(true);
        self.worker.recorder.enter(Entry {
            call: self.number,
            frames_before: self.frames_before,
            first_due: first,
            sent: line.sent(),
            promised: line.acks.borrow().acked().max(ending.stopped_seq).min(line.sent()),
        });
        self.frames_before += line.due_count();
        self.next_due = Some(first + line.due_count() * plan.schedule.interval);
        match played {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => {
                let unconfirmed = line.due_count().saturating_sub(line.acks.borrow().acked());
                self.worker.recorder.write(|stats| stats.counts.frames_lost += unconfirmed);
                Err(failure)
            }
            Err(_) => Err(self.stop_timed_out(&line, &ending)),
        }
    }

    fn stop_timed_out(&self, line: &Line, ending: &Ending) -> Failure {
        self.count_missing(line);
        let what = match (line.is_finale_sent(), ending.stopped) {
            (false, _) => "the last frames could not be sent",
            (true, false) if self.worker.plan.stop => "no 'stopped'",
            (true, _) => "no Close",
        };
        Failure::new(Reason::StopTimeout, format!("{what} {:?} after the end", self.worker.plan.stop_timeout))
    }

    /// Connect, upgrade, start: each timed by itself.
    async fn set_up(&self) -> Result<(Rc<TcpStream>, Link), Failure> {
        let plan = &self.worker.plan;
        let ids = &plan.calls[self.number as usize];
        let begin = plan.clock.now();
        let failed = |error: std::io::Error| Failure::new(Reason::ConnectFailed, error.to_string());
        let stream = Rc::new(TcpStream::connect(plan.address()).await.map_err(failed)?);
        stream.set_nodelay(true).map_err(failed)?;
        let connected = plan.clock.now();
        let mut link = upgrade(&stream, Upgrade::begin(&plan.target, &ids.token)?).await?;
        let upgraded = plan.clock.now();
        link.send(Message::text(event::start(&ids.interaction, &ids.tenant, plan.sample_rate)));
        stream.write_all(link.take_output()).await.0.map_err(dropped)?;
        await_started(&stream, &mut link, &ids.interaction).await?;
        let started = plan.clock.now();
        self.worker.recorder.write(|stats| {
            stats.record(Metric::Connect, connected - begin);
            stats.record(Metric::Upgrade, upgraded - connected);
            stats.record(Metric::Started, started - upgraded);
            stats.record(Metric::Setup, started - begin);
        });
        Ok((stream, link))
    }

    /// Reads until the call is over: all its acks, `stopped`, Close.
    async fn listen(&self, line: &Rc<Line>, ending: &mut Ending) -> Result<(), Failure> {
        let mut buffer = Vec::with_capacity(READ_SIZE);
        loop {
            while let Some(message) = ending.link.poll_message()? {
                if self.handle_message(message, line, ending)? {
                    self.count_missing(line);
                    let _ = tokio::time::timeout(FIN_WAIT, self.finish(line, ending, buffer)).await;
                    self.worker.recorder.write(|stats| stats.counts.calls_completed += 1);
                    return Ok(());
                }
            }
            line.queue(ending.link.take_output());
            buffer = read(&line.stream, &mut ending.link, buffer).await?;
        }
    }

    /// True once the node's Close has ended the call rightly.
    fn handle_message(&self, message: Message, line: &Rc<Line>, ending: &mut Ending) -> Result<bool, Failure> {
        match message {
            Message::Text(text) => match event::parse(&text) {
                Ok(Event::Ack { seq }) => self.handle_ack(seq, line),
                Ok(Event::Stopped(stopped)) if line.is_finale_sent() && self.worker.plan.stop && !ending.stopped => {
                    ending.stopped = true;
                    ending.stopped_seq = stopped.seq;
                    self.check_stopped(&stopped, line);
                }
                Ok(Event::Error { reason, message, code, .. }) => ending.link.remember_error(code, &reason, &message),
                _ => self.unexpected(&event::excerpt(&text)),
            },
            Message::Close(close) => return self.handle_close(close, line, ending).map(|()| true),
            Message::Ping(_) => {}
            other => self.unexpected(&format!("a {} bytes long non-text message", other.len())),
        }
        Ok(false)
    }

    fn unexpected(&self, what: &str) {
        self.worker.fail(self.number, &Failure::new(Reason::UnexpectedMessage, what));
    }

    fn handle_ack(&self, seq: u64, line: &Line) {
        let now = self.worker.plan.clock.now();
        let verdict = line.acks.borrow_mut().handle_ack(seq, line.sent(), now);
        match verdict {
            Verdict::Right { latency, late } => {
                self.worker.recorder.write(|stats| {
                    stats.record(Metric::Ack, latency);
                    stats.counts.acks += 1;
                });
                if let Some(failure) = late {
                    self.worker.fail(self.number, &failure);
                }
            }
            Verdict::Wrong(failure) => self.worker.fail(self.number, &failure),
        }
    }

    fn check_stopped(&self, stopped: &event::Stopped, line: &Line) {
        let plan = &self.worker.plan;
        let seq = line.sent();
        let bytes = seq * plan.audio.payload_size() as u64;
        if !stopped.is_right(&plan.calls[self.number as usize].interaction, seq, bytes, plan.sample_rate) {
            let detail = format!("sent {seq} frames with {bytes} bytes, the node says {stopped:?}");
            self.worker.fail(self.number, &Failure::new(Reason::StoppedWrong, detail));
        }
    }

    fn handle_close(&self, close: Option<CloseFrame>, line: &Line, ending: &Ending) -> Result<(), Failure> {
        // 1005 is RFC 6455's name for a Close without a code (§7.1.5).
        let code = close.as_ref().map_or(1005, |close| u16::from(close.code));
        let text = close.as_ref().map_or("", |close| close.reason.as_str());
        if !line.is_finale_sent() {
            let detail =
                format!("Close {code} '{}' after {} frames{}", event::excerpt(text), line.sent(), ending.link.error());
            return Err(Failure::new(Reason::Closed(code), detail));
        }
        if code != 1000 {
            let detail = format!("Close {code} '{}' at the end{}", event::excerpt(text), ending.link.error());
            self.worker.fail(self.number, &Failure::new(Reason::CloseWrong, detail));
        } else if self.worker.plan.stop && !ending.stopped {
            self.worker.fail(self.number, &Failure::new(Reason::StoppedWrong, "Close 1000 without 'stopped'"));
        }
        Ok(())
    }

    /// Answers the node's Close, unless it was the answer to ours, and waits for the end of the stream.
    async fn finish(&self, line: &Rc<Line>, ending: &mut Ending, mut buffer: Vec<u8>) {
        if self.worker.plan.stop {
            line.queue(ending.link.take_output());
        }
        line.end(false);
        loop {
            let done;
            buffer.clear();
            (done, buffer) = line.stream.read(buffer).await;
            if !matches!(done, Ok(1..)) {
                return;
            }
        }
    }

    fn count_missing(&self, line: &Line) {
        let acks = line.acks.borrow();
        for index in 0..acks.missing(line.sent()) {
            let seq = acks.expected() + index * crate::acks::ACK_EVERY;
            self.worker.fail(self.number, &Failure::new(Reason::AckMissing, format!("ack {seq} never came")));
        }
    }
}

/// The connection's codec, and how far its end has come.
struct Ending {
    link: Link,
    /// `stopped` has come.
    stopped: bool,
    /// The frames that it promised.
    stopped_seq: u64,
}

impl Ending {
    /// The bytes of `stop`, made in advance; the codec goes on reading.
    fn stop(&mut self) -> Vec<u8> {
        self.link.send(Message::text(event::STOP));
        self.link.take_output()
    }
}

async fn upgrade(stream: &TcpStream, begun: (Upgrade, Vec<u8>)) -> Result<Link, Failure> {
    let (mut upgrade, request) = begun;
    stream.write_all(request).await.0.map_err(dropped)?;
    let mut buffer = Vec::with_capacity(READ_SIZE);
    loop {
        let done;
        buffer.clear();
        (done, buffer) = stream.read(buffer).await;
        if done.map_err(dropped)? == 0 {
            return Err(Failure::new(Reason::Dropped, "the connection ended during the upgrade"));
        }
        if let Some(link) = upgrade.handle_bytes(&buffer)? {
            return Ok(link);
        }
    }
}

async fn await_started(stream: &TcpStream, link: &mut Link, interaction: &str) -> Result<(), Failure> {
    let mut buffer = Vec::with_capacity(READ_SIZE);
    loop {
        match link.poll_message()? {
            Some(Message::Text(text)) => match event::parse(&text) {
                Ok(Event::Started { interaction_id }) if interaction_id == interaction => return Ok(()),
                Ok(Event::Error { code, reason, message, .. }) => link.remember_error(code, &reason, &message),
                _ => return Err(Failure::new(Reason::StartedWrong, event::excerpt(&text))),
            },
            Some(Message::Close(close)) => {
                let code = close.map_or(1005, |close| u16::from(close.code));
                return Err(Failure::new(Reason::Closed(code), format!("Close {code} before 'started'{}", link.error())));
            }
            Some(Message::Ping(_)) => stream.write_all(link.take_output()).await.0.map_err(dropped)?,
            Some(_) => return Err(Failure::new(Reason::StartedWrong, "a message that is not text")),
            None => buffer = read(stream, link, buffer).await?,
        }
    }
}

/// Reads once; the end of the stream is a failure here.
async fn read(stream: &TcpStream, link: &mut Link, mut buffer: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let done;
    buffer.clear();
    (done, buffer) = stream.read(buffer).await;
    if done.map_err(dropped)? == 0 {
        return Err(Failure::new(Reason::Dropped, format!("the connection ended without a Close{}", link.error())));
    }
    link.handle_bytes(&buffer);
    Ok(buffer)
}

fn dropped(error: std::io::Error) -> Failure {
    Failure::new(Reason::Dropped, error.to_string())
}
