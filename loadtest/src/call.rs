//! One call from its first connect to its confirmed end: setup, reading, and connecting again.
//! [`crate::connection`] is the sending half.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tungstenite::protocol::{CloseFrame, Message};

use crate::acks::{Acks, Verdict};
use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::event::{self, Event};
use crate::failure::{Failure, Reason};
use crate::ledger::Entry;
use crate::pacer::Pacer;
use crate::socket::{Socket, dropped};
use crate::stats::Metric;
use crate::storm::{Fate, How};
use crate::wire::{self, Link, Upgrade};
use crate::worker::Worker;

/// Bytes of a read: more than a dozen acks, and less than a page for each of thousands of calls.
const READ_SIZE: usize = 512;

/// After both Closes the node ends the TCP connection. If it has not by then, we end it.
const FIN_WAIT: Duration = Duration::from_secs(1);

/// Plays call `number` until it is time to hang up, over as many connections as it takes and the
/// plan allows.
pub async fn play(worker: Rc<Worker>, pacer: Rc<Pacer>, number: u64) {
    let plan = worker.plan.clone();
    let takes_part = plan.storm.as_ref().is_some_and(|storm| storm.takes(number));
    let part = if takes_part { Part::Ahead } else { Part::None };
    let mut call =
        Call { worker, pacer, number, frames_before: 0, next_due: None, connections: 0, part };
    call.play_on(Backoff::new(plan.reconnect_wait)).await;
    // The call ended before the storm, or did not come back after it.
    call.settle(if call.part == Part::Out { Fate::Lost } else { Fate::Absent });
}

struct Call {
    worker: Rc<Worker>,
    pacer: Rc<Pacer>,
    number: u64,
    /// Frames of earlier connections. The audio goes on; `seq` starts again.
    frames_before: u64,
    /// When the first frame after a lost connection was due.
    next_due: Option<u64>,
    /// Connections tried so far.
    connections: u64,
    part: Part,
}

/// The call's part in the storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// There is none, or the call stays up.
    None,
    /// The call will lose its connection.
    Ahead,
    /// It has lost it, and has not come back.
    Out,
    /// Its fate is settled.
    Through,
}

/// How a connection ended well.
enum End {
    /// The call is over.
    HungUp,
    /// The call gave the connection up in the storm.
    Left,
}

impl Call {
    async fn play_on(&mut self, mut backoff: Backoff) {
        let plan = self.worker.plan.clone();
        let hangs_up_at = plan.schedule.hangs_up_at(self.number);
        loop {
            let wait = match self.connect_and_play(&mut backoff).await {
                Ok(End::HungUp) => return,
                Ok(End::Left) => plan
                    .storm
                    .as_ref()
                    .map_or(Duration::ZERO, |storm| storm.plan.jitter.mul_f64(fastrand::f64())),
                Err(failure) => {
                    let is_time = plan.clock.now() >= hangs_up_at || plan.is_cut();
                    let again = self.is_to_come_back() && failure.reason.is_retryable() && !is_time;
                    self.note_attempt(&failure, again);
                    if !again {
                        self.worker.fail(self.number, &failure);
                        return;
                    }
                    let wait = backoff.next(fastrand::f64(), failure.retry_after);
                    if !self.wait(wait, hangs_up_at).await {
                        let why = format!("{} {}", failure.reason, failure.detail);
                        return self.give_up(&why);
                    }
                    continue;
                }
            };
            if !self.wait(wait, hangs_up_at).await {
                return self.give_up("it had left in the storm");
            }
        }
    }

    /// Whether the call connects again after a loss.
    fn is_to_come_back(&self) -> bool {
        self.worker.plan.reconnect || self.part == Part::Out
    }

    /// An attempt has failed.
    fn note_attempt(&self, failure: &Failure, again: bool) {
        match &self.worker.plan.storm {
            Some(storm) if self.part == Part::Out => storm.note_refusal(failure.reason, again),
            _ if again => self.worker.recorder.write(|stats| stats.counts.reconnects += 1),
            _ => {}
        }
    }

    /// Waits before the next attempt. False where the run is over by then.
    async fn wait(&self, wait: Duration, hangs_up_at: u64) -> bool {
        let plan = &self.worker.plan;
        let remaining = Duration::from_nanos(hangs_up_at.saturating_sub(plan.clock.now()));
        tokio::time::sleep(wait.min(remaining)).await;
        wait < remaining && !plan.is_cut()
    }

    fn give_up(&mut self, last: &str) {
        let detail = format!("the run ended before the next attempt; last: {last}");
        self.worker.fail(self.number, &Failure::new(Reason::NotConnected, detail));
        self.lose_frames_until(self.worker.plan.schedule.audio_ends_at(self.number));
    }

    /// Settles the call's fate in the storm, once, if the call takes part.
    fn settle(&mut self, fate: Fate) {
        let is_open = matches!(self.part, Part::Ahead | Part::Out);
        if let Some(storm) = self.worker.plan.storm.as_ref().filter(|_| is_open) {
            self.part = Part::Through;
            storm.settle(fate, self.worker.plan.clock.now());
        }
    }

    /// The connection is up. If the call had lost one in the storm, it is back now.
    fn note_up(&mut self, now: u64) {
        let Some(at) = self.worker.plan.storm.as_ref().map(|storm| storm.plan.at) else { return };
        match self.part {
            Part::Out => {
                self.worker.recorder.write(|stats| stats.record(Metric::StormBack, now - at));
                self.settle(Fate::Back);
            }
            Part::Ahead if now >= at => self.settle(Fate::Absent),
            _ => {}
        }
    }

    /// Counts the frames that fell due without a connection: live audio does not wait.
    fn lose_frames_until(&mut self, first: u64) {
        let Some(next_due) = self.next_due.take() else { return };
        let lost = first.saturating_sub(next_due).div_ceil(self.worker.plan.schedule.interval);
        self.worker.recorder.write(|stats| stats.counts.frames_lost += lost);
    }

    async fn connect_and_play(&mut self, backoff: &mut Backoff) -> Result<End, Failure> {
        let plan = self.worker.plan.clone();
        self.connections += 1;
        let setup = tokio::time::timeout(plan.setup_timeout, self.set_up()).await;
        let (socket, link) = setup.unwrap_or_else(|_| {
            Err(Failure::new(
                Reason::SetupTimeout,
                format!("no call after {:?}", plan.setup_timeout),
            ))
        })?;
        let now = plan.clock.now();
        self.note_up(now);
        backoff.reset();
        let first = plan.schedule.first_due(self.number, now);
        self.lose_frames_until(first.min(plan.schedule.audio_ends_at(self.number)));
        let total = if plan.is_cut() { 0 } else { plan.schedule.frames_from(self.number, first) };
        let acks = Acks::new(first, plan.schedule.interval, plan.ack_timeout);
        let mut ending = Ending { link, stopped: false, stopped_seq: 0 };
        let finale = if plan.stop { ending.stop() } else { wire::close_frame() };
        let connection =
            Rc::new(Connection::new(&socket, self.number, self.frames_before, acks, total, finale));
        tokio_uring::spawn(connection.clone().write(socket.clone(), self.worker.clone()));
        self.worker.recorder.count_up(1);
        if total > 0 {
            self.pacer.join(first, connection.clone());
        }
        let played = self.listen_until_the_end(&socket, &connection, &mut ending).await;
        self.worker.recorder.count_up(-1);
        let left_by_reset = connection.is_leaving() && !connection.is_finale_sent();
        if !left_by_reset {
            connection.end(true);
        }
        self.enter(&connection, first, &ending);
        if connection.is_leaving()
            && let Some(storm) = &plan.storm
        {
            self.part = Part::Out;
            storm.note_left();
        }
        match played {
            Some(Ok(())) if connection.is_leaving() => {
                self.lose_unconfirmed(&connection);
                Ok(End::Left)
            }
            Some(Ok(())) => Ok(End::HungUp),
            Some(Err(failure)) => {
                self.lose_unconfirmed(&connection);
                Err(failure)
            }
            None => Err(self.stop_timed_out(&connection, &ending)),
        }
    }

    /// Listens until the call is over, or until the storm. None: the end did not come in time.
    async fn listen_until_the_end(
        &self,
        socket: &Rc<Socket>,
        connection: &Rc<Connection>,
        ending: &mut Ending,
    ) -> Option<Result<(), Failure>> {
        let plan = &self.worker.plan;
        let deadline = |at: u64| -> tokio::time::Instant {
            (plan.clock.instant(plan.clock.now().max(at)) + plan.stop_timeout).into()
        };
        let mut listening = pin!(self.listen(socket, connection, ending));
        if let Some(storm) = plan.storm.as_ref().filter(|_| self.part == Part::Ahead) {
            let at = plan.clock.instant(storm.plan.at).into();
            if let Ok(played) = tokio::time::timeout_at(at, &mut listening).await {
                return Some(played);
            }
            self.worker.gate.pass(|| connection.leave(storm.plan.how)).await;
            return match storm.plan.how {
                How::Rst => Some(Ok(())),
                How::Close => {
                    tokio::time::timeout_at(deadline(storm.plan.at), listening).await.ok()
                }
            };
        }
        // One timer for each connection, not one for each read: the writer notices single late
        // acks.
        tokio::time::timeout_at(deadline(plan.schedule.hangs_up_at(self.number)), listening)
            .await
            .ok()
    }

    /// Records what a connection has sent, and what the node has promised.
    fn enter(&mut self, connection: &Connection, first: u64, ending: &Ending) {
        self.worker
            .recorder
            .write(|stats| stats.counts.acks_due += connection.sent() / crate::acks::ACK_EVERY);
        self.worker.recorder.enter(Entry {
            call: self.number,
            frames_before: self.frames_before,
            first_due: first,
            sent: connection.sent(),
            promised: connection
                .acks
                .borrow()
                .acked()
                .max(ending.stopped_seq)
                .min(connection.sent()),
        });
        self.frames_before += connection.due_count();
        self.next_due = Some(first + connection.due_count() * self.worker.plan.schedule.interval);
    }

    fn lose_unconfirmed(&self, connection: &Connection) {
        let unconfirmed = connection.due_count().saturating_sub(connection.acks.borrow().acked());
        self.worker.recorder.write(|stats| stats.counts.frames_lost += unconfirmed);
    }

    fn stop_timed_out(&self, connection: &Connection, ending: &Ending) -> Failure {
        self.count_missing(connection);
        let what = match (connection.is_finale_sent(), ending.stopped) {
            (false, _) => "the last frames could not be sent",
            (true, false) if self.worker.plan.stop => "no 'stopped'",
            (true, _) => "no Close",
        };
        Failure::new(
            Reason::StopTimeout,
            format!("{what} {:?} after the end", self.worker.plan.stop_timeout),
        )
    }

    /// Connects, does TLS and the upgrade, and starts the call. Each step is timed.
    async fn set_up(&self) -> Result<(Rc<Socket>, Link), Failure> {
        let plan = &self.worker.plan;
        let ids = &plan.calls[self.number as usize];
        // In a storm thousands of calls do this at once.
        let (begun, _) = self.worker.gate.pass(|| Upgrade::begin(&plan.target, &ids.token)).await;
        let begun = begun?;
        let begin = plan.clock.now();
        let mut socket = Socket::connect(plan.address()).await?;
        let connected = plan.clock.now();
        if let Some(tls) = &plan.tls {
            let again = self.connections > 1 || plan.schedule.replaces(self.number);
            let handshake = socket.secure(tls, again, &self.worker.gate).await?;
            self.worker.recorder.write(|stats| {
                stats.handshakes.note(handshake);
                stats.record(Metric::Tls, plan.clock.now() - connected);
            });
        }
        let secured = plan.clock.now();
        let mut link = upgrade(&socket, begun).await?;
        let upgraded = plan.clock.now();
        link.send(Message::text(event::start(&ids.interaction, &ids.tenant, plan.sample_rate)));
        socket.write_all(link.take_output()).await.map_err(dropped)?;
        await_started(&socket, &mut link, &ids.interaction).await?;
        let started = plan.clock.now();
        self.worker.recorder.write(|stats| {
            stats.record(Metric::Connect, connected - begin);
            stats.record(Metric::Upgrade, upgraded - secured);
            stats.record(Metric::Started, started - upgraded);
            stats.record(self.kind_of_setup(), started - begin);
        });
        Ok((Rc::new(socket), link))
    }

    fn kind_of_setup(&self) -> Metric {
        match self.part {
            Part::Out => Metric::StormSetup,
            _ if self.worker.plan.schedule.replaces(self.number) => Metric::ChurnSetup,
            _ => Metric::Setup,
        }
    }

    /// Reads until the call is over: all its acks, `stopped`, Close.
    async fn listen(
        &self,
        socket: &Rc<Socket>,
        connection: &Rc<Connection>,
        ending: &mut Ending,
    ) -> Result<(), Failure> {
        let mut buffer = Vec::with_capacity(READ_SIZE);
        loop {
            while let Some(message) = ending.link.poll_message()? {
                if self.handle_message(message, connection, ending)? {
                    self.count_missing(connection);
                    let _ = tokio::time::timeout(
                        FIN_WAIT,
                        self.finish(socket, connection, ending, buffer),
                    )
                    .await;
                    let is_over = u64::from(!connection.is_leaving());
                    self.worker.recorder.write(|stats| stats.counts.calls_completed += is_over);
                    return Ok(());
                }
            }
            connection.queue(ending.link.take_output());
            buffer = read(socket, &mut ending.link, buffer).await?;
            if socket.wants_write() {
                connection.wake_writer();
            }
        }
    }

    /// True once the node's Close has ended the call as it should.
    fn handle_message(
        &self,
        message: Message,
        connection: &Rc<Connection>,
        ending: &mut Ending,
    ) -> Result<bool, Failure> {
        match message {
            Message::Text(text) => match event::parse(&text) {
                Ok(Event::Ack { seq }) => self.handle_ack(seq, connection),
                Ok(Event::Stopped(stopped))
                    if connection.is_finale_sent() && self.worker.plan.stop && !ending.stopped =>
                {
                    ending.stopped = true;
                    ending.stopped_seq = stopped.seq;
                    self.check_stopped(&stopped, connection);
                }
                Ok(Event::Error { reason, message, code, .. }) => {
                    ending.link.remember_error(code, &reason, &message)
                }
                _ => self.unexpected(&event::excerpt(&text)),
            },
            Message::Close(close) => {
                return self.handle_close(close, connection, ending).map(|()| true);
            }
            Message::Ping(_) => {}
            other => self.unexpected(&format!("a {} bytes long non-text message", other.len())),
        }
        Ok(false)
    }

    fn unexpected(&self, what: &str) {
        self.worker.fail(self.number, &Failure::new(Reason::UnexpectedMessage, what));
    }

    fn handle_ack(&self, seq: u64, connection: &Connection) {
        let now = self.worker.plan.clock.now();
        let verdict = connection.acks.borrow_mut().handle_ack(seq, connection.sent(), now);
        match verdict {
            Verdict::Right { latency, late } => {
                let part = self.part_of_run(now, latency);
                self.worker.recorder.write(|stats| {
                    stats.record(Metric::Ack, latency);
                    stats.counts.acks += 1;
                    if let Some(part) = part {
                        stats.record(part, latency);
                    }
                });
                if let Some(failure) = late {
                    self.worker.fail(self.number, &failure);
                }
            }
            Verdict::Wrong(failure) => self.worker.fail(self.number, &failure),
        }
    }

    /// The part of the run (before, in or after the storm) that an ack counts for. Only acks of
    /// calls that stay up do.
    fn part_of_run(&self, now: u64, latency: u64) -> Option<Metric> {
        let plan = &self.worker.plan;
        let storm = plan.storm.as_ref().filter(|_| self.part == Part::None)?;
        let is_of_ramp = now.saturating_sub(latency) < plan.schedule.ramp;
        (!is_of_ramp).then(|| storm.part(now, latency))
    }

    fn check_stopped(&self, stopped: &event::Stopped, connection: &Connection) {
        let plan = &self.worker.plan;
        let seq = connection.sent();
        let bytes = seq * plan.audio.payload_size() as u64;
        if !stopped.is_right(
            &plan.calls[self.number as usize].interaction,
            seq,
            bytes,
            plan.sample_rate,
        ) {
            let detail =
                format!("{seq} frames with {bytes} bytes were sent; the node says {stopped:?}");
            self.worker.fail(self.number, &Failure::new(Reason::StoppedWrong, detail));
        }
    }

    fn handle_close(
        &self,
        close: Option<CloseFrame>,
        connection: &Connection,
        ending: &Ending,
    ) -> Result<(), Failure> {
        // 1005 is RFC 6455's name for a Close without a code (§7.1.5).
        let code = close.as_ref().map_or(1005, |close| u16::from(close.code));
        let text = close.as_ref().map_or("", |close| close.reason.as_str());
        if !connection.is_finale_sent() {
            let detail = format!(
                "Close {code} '{}' after {} frames{}",
                event::excerpt(text),
                connection.sent(),
                ending.link.error()
            );
            return Err(Failure::new(Reason::Closed(code), detail));
        }
        if code != 1000 {
            let detail = format!(
                "Close {code} '{}' at the end{}",
                event::excerpt(text),
                ending.link.error()
            );
            self.worker.fail(self.number, &Failure::new(Reason::CloseWrong, detail));
        } else if self.worker.plan.stop && !ending.stopped && !connection.is_leaving() {
            self.worker.fail(
                self.number,
                &Failure::new(Reason::StoppedWrong, "Close 1000 without 'stopped'"),
            );
        }
        Ok(())
    }

    /// Answers the node's Close, unless that Close was the answer to ours. Then waits for the end
    /// of the stream.
    async fn finish(
        &self,
        socket: &Socket,
        connection: &Connection,
        ending: &mut Ending,
        mut buffer: Vec<u8>,
    ) {
        if self.worker.plan.stop && !connection.is_leaving() {
            connection.queue(ending.link.take_output());
        }
        connection.end(false);
        loop {
            let done;
            (done, buffer) = socket.read(buffer).await;
            if !matches!(done, Ok(Some(_))) {
                let is_unclosed = matches!(done, Ok(None)) && !socket.is_closed_by_peer();
                self.worker
                    .recorder
                    .write(|stats| stats.handshakes.unclosed += u64::from(is_unclosed));
                return;
            }
        }
    }

    fn count_missing(&self, connection: &Connection) {
        let acks = connection.acks.borrow();
        for index in 0..acks.missing(connection.sent()) {
            let seq = acks.expected() + index * crate::acks::ACK_EVERY;
            self.worker.fail(
                self.number,
                &Failure::new(Reason::AckMissing, format!("ack {seq} never came")),
            );
        }
    }
}

/// The connection's codec, and how far its end has come.
struct Ending {
    link: Link,
    /// Whether `stopped` has come.
    stopped: bool,
    /// The frames that `stopped` promised.
    stopped_seq: u64,
}

impl Ending {
    /// The bytes of `stop`, made in advance. The codec goes on reading meanwhile.
    fn stop(&mut self) -> Vec<u8> {
        self.link.send(Message::text(event::STOP));
        self.link.take_output()
    }
}

async fn upgrade(socket: &Socket, begun: (Upgrade, Vec<u8>)) -> Result<Link, Failure> {
    let (mut upgrade, request) = begun;
    // If the write fails, the node may have sent a reason before it ended the connection.
    let _ = socket.write_all(request).await;
    let mut buffer = Vec::with_capacity(READ_SIZE);
    loop {
        let done;
        (done, buffer) = socket.read(buffer).await;
        if done?.is_none() {
            return Err(Failure::new(Reason::Dropped, "the connection ended during the upgrade"));
        }
        if let Some(link) = upgrade.handle_bytes(&buffer)? {
            return Ok(link);
        }
    }
}

async fn await_started(socket: &Socket, link: &mut Link, interaction: &str) -> Result<(), Failure> {
    let mut buffer = Vec::with_capacity(READ_SIZE);
    loop {
        match link.poll_message()? {
            Some(Message::Text(text)) => match event::parse(&text) {
                Ok(Event::Started { interaction_id }) if interaction_id == interaction => {
                    return Ok(());
                }
                Ok(Event::Error { code, reason, message, .. }) => {
                    link.remember_error(code, &reason, &message)
                }
                _ => return Err(Failure::new(Reason::StartedWrong, event::excerpt(&text))),
            },
            Some(Message::Close(close)) => {
                let code = close.map_or(1005, |close| u16::from(close.code));
                return Err(Failure::new(
                    Reason::Closed(code),
                    format!("Close {code} before 'started'{}", link.error()),
                ));
            }
            Some(Message::Ping(_)) => {
                socket.write_all(link.take_output()).await.map_err(dropped)?
            }
            Some(_) => {
                return Err(Failure::new(Reason::StartedWrong, "a message that is not text"));
            }
            None => buffer = read(socket, link, buffer).await?,
        }
    }
}

/// Reads once; the end of the stream is a failure here.
async fn read(socket: &Socket, link: &mut Link, buffer: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let (done, buffer) = socket.read(buffer).await;
    if done?.is_none() {
        return Err(Failure::new(
            Reason::Dropped,
            format!("the connection ended without a Close{}", link.error()),
        ));
    }
    link.handle_bytes(&buffer);
    Ok(buffer)
}
