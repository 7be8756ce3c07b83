//! The ACK level `replicated`: promises that are durable wait here until the message engine has
//! acknowledged their frames. Without IO.
//!
//! ```text
//!   promise ── durable ──► waits ── report of its seq ───────────────► ACK, `replicated`
//!                            │  on_timeout = degrade: timeout over ──► ACK, `durable`
//!                            └─ on_timeout = hold: stall timeout over ► 1013 `engine`
//! ```
//! Of each call two promises are known: the oldest that the engine lacks, and the newest. If a
//! report covers the first and not the second, the second becomes the oldest. So memory does not
//! grow with the time that the engine is away, and a call still has the true age of a promise.
//!
//! Reports come by mail, and at any time: before a promise is durable, twice, late, for calls that
//! are gone. Those of an epoch come in order. A report that does not begin where those before it
//! ended says that the engine can never have the frames between: the journal lost them. An ACK is a
//! promise for all frames up to its own, so no later ACK of this call can mean `replicated`. With
//! `degrade` they go out at `durable` at once, and with `hold` the call is closed: its next epoch
//! starts without a gap. Such a call does not make the engine late.
//!
//! With `degrade` the whole shard sends at once at `durable` from the first timeout on. Otherwise
//! each new call would wait again. That ends once the engine has acknowledged something and lacks
//! nothing that is older than the timeout.
#![forbid(unsafe_code)]

use super::Shard;
use super::connections::{Connection, ConnectionId, Stage};
use crate::ack_level::AckLevel;
use crate::call::{CallKey, Epoch, ReplicatedFrames, Seq};
use crate::clock::{Moment, Now};
use crate::io::Io;
use crate::metrics::Counters;
use crate::session::{Context, Notice, Service, Session};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Shortest time between two looks at all calls.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What happens to an ACK for which the message engine takes too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTimeout {
    /// It waits, and its call is closed after `journal.stall_timeout`.
    #[default]
    Hold,
    /// It goes out at the level `durable`.
    Degrade,
}

/// How long ACKs wait for the message engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicationSettings {
    /// `forward.replicated_timeout`.
    pub timeout: Duration,
    /// `forward.on_timeout`.
    pub on_timeout: OnTimeout,
    /// `journal.stall_timeout`: with [`OnTimeout::Hold`] a call is closed after it.
    pub stall_timeout: Duration,
}

/// A promise that holds, at some level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// For all frames up to this.
    pub(super) seq: Seq,
    /// When it was asked for.
    pub(super) since: Moment,
    /// At this level.
    pub(super) level: AckLevel,
}

/// What time has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The engine has not acknowledged the frames of so many calls in time.
    Late { calls: usize },
    /// It has caught up after this time.
    CaughtUp { after: Duration },
    /// The engine can never have all frames of a call.
    Gap,
    /// A promise goes out at a lower level.
    Degraded(ConnectionId, Kept),
    /// A call is to be closed.
    GivenUp(ConnectionId),
}

/// A durable promise.
#[derive(Clone, Copy, Debug)]
struct Durable {
    seq: Seq,
    /// When it was asked for.
    since: Moment,
    /// When it became durable: the engine's time counts from here.
    at: Moment,
}

/// A call whose ACKs wait for the engine.
#[derive(Clone, Copy, Debug)]
struct Call {
    connection: ConnectionId,
    /// In journal records.
    number: u64,
    epoch: Epoch,
    /// The engine has this frame and all before it.
    covered: Seq,
    /// It can never have the frame after that.
    has_gap: bool,
    /// The session has the promise of this frame, at whatever level.
    told: Seq,
    /// The first durable promise that the engine lacks. It means nothing if `newest` is covered.
    oldest: Durable,
    newest: Durable,
}

impl Call {
    /// Whether the engine lacks durable frames that it can have.
    fn is_behind(&self) -> bool {
        self.lacks_durable() && !self.has_gap
    }

    /// Whether the session waits for a promise.
    fn is_held(&self) -> bool {
        self.lacks_durable() && self.told < self.newest.seq
    }

    fn lacks_durable(&self) -> bool {
        self.covered < self.newest.seq
    }

    /// The promise of what is durable and acknowledged by the engine.
    fn replicated(&mut self, since: Moment) -> Kept {
        let seq = self.covered.min(self.newest.seq);
        self.told = self.told.max(seq);
        Kept { seq, since, level: AckLevel::Replicated }
    }

    /// The promise of what is durable, without the engine.
    fn degraded(&mut self) -> Kept {
        self.told = self.newest.seq;
        Kept { seq: self.newest.seq, since: self.oldest.since, level: AckLevel::Durable }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Replication {
    settings: ReplicationSettings,
    /// By slot of the table of connections.
    calls: Vec<Option<Call>>,
    /// Slots by epoch. A shard gives each epoch once, so its time is enough.
    slots: HashMap<u64, u32>,
    /// Calls that are behind.
    behind_count: usize,
    /// Since when the engine is late.
    late_since: Option<Moment>,
    /// The engine has acknowledged something new since it was found to be late.
    has_news: bool,
    /// When to look at all calls. At most the first timeout.
    look_at: Option<Moment>,
    due: VecDeque<Due>,
}

impl Replication {
    pub(super) fn new(settings: ReplicationSettings) -> Replication {
        Replication {
            settings,
            calls: Vec::new(),
            slots: HashMap::new(),
            behind_count: 0,
            late_since: None,
            has_news: false,
            look_at: None,
            due: VecDeque::new(),
        }
    }

    /// A call has started whose ACKs wait for the engine.
    pub(super) fn handle_start(&mut self, connection: ConnectionId, call: CallKey, epoch: Epoch) {
        let slot = connection.index as usize;
        if self.calls.len() <= slot {
            self.calls.resize(slot + 1, None);
        }
        self.remove(slot);
        let none = Durable { seq: Seq(0), since: Moment::ZERO, at: Moment::ZERO };
        self.calls[slot] = Some(Call {
            connection,
            number: call.record_number(),
            epoch,
            covered: Seq(0),
            has_gap: false,
            told: Seq(0),
            oldest: none,
            newest: none,
        });
        self.slots.insert(epoch.micros, connection.index);
    }

    /// A session is over: nobody waits for its promises.
    pub(super) fn handle_end(&mut self, connection: ConnectionId) {
        if self.call(connection).is_some() {
            self.remove(connection.index as usize);
        }
    }

    /// A promise has become durable. Returns what holds now; `None`: it waits for the engine.
    pub(super) fn handle_durable(
        &mut self,
        now: Moment,
        connection: ConnectionId,
        (seq, since): (Seq, Moment),
    ) -> Option<Kept> {
        let is_degraded = self.is_degraded();
        let timeout = self.settings.timeout;
        let Some(call) = self.call(connection) else {
            return Some(Kept { seq, since, level: AckLevel::Durable });
        };
        let was_behind = call.is_behind();
        call.newest = Durable { seq, since, at: now };
        if !was_behind {
            call.oldest = call.newest;
        }
        if !call.lacks_durable() {
            return Some(call.replicated(since));
        }
        if call.has_gap {
            let kept = self.pass_gap(connection.index as usize);
            return kept.map(|kept| Kept { since, ..kept });
        }
        let kept = if is_degraded {
            Some(Kept { since, ..call.degraded() })
        } else {
            // A report that came before may cover a part.
            (call.covered > call.told).then(|| call.replicated(since))
        };
        if !was_behind {
            self.behind_count += 1;
            self.look_no_later_than(now + timeout);
        }
        kept
    }

    /// The engine has frames of a call. Returns the connection that is to be told, and what.
    pub(super) fn handle_report(
        &mut self,
        report: ReplicatedFrames,
    ) -> Option<(ConnectionId, Kept)> {
        let ReplicatedFrames { call: number, epoch, first, last } = report;
        let slot = self.slots.get(&epoch.micros).copied();
        let call = slot.and_then(|slot| self.calls[slot as usize].as_mut());
        let Some(call) = call.filter(|call| call.epoch == epoch && call.number == number) else {
            // A call that is over: the engine still works on what it was late with.
            self.note_news();
            return None;
        };
        if call.has_gap {
            self.note_news();
            return None;
        }
        if last <= call.covered {
            return None;
        }
        if first.0 > call.covered.0 + 1 {
            self.note_gap(slot?);
            return None;
        }
        let (was_behind, since) = (call.is_behind(), call.oldest.since);
        call.covered = last;
        let kept = was_behind.then(|| (call.connection, call.replicated(since)));
        if call.is_behind() && call.covered >= call.oldest.seq {
            call.oldest = call.newest;
        }
        self.behind_count -= usize::from(was_behind && !call.is_behind());
        self.note_news();
        kept
    }

    /// The engine's time may be over.
    pub(super) fn poll_due(&mut self, now: Moment) -> Option<Due> {
        if self.look_at.is_some_and(|at| at <= now) {
            self.look(now);
        }
        self.due.pop_front()
    }

    /// When [`Replication::poll_due`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        if self.due.is_empty() { self.look_at } else { Some(Moment::ZERO) }
    }

    /// The shard stood still for `gap`: that was not the engine's time.
    pub(super) fn handle_standstill(&mut self, now: Moment, gap: Duration) {
        for call in self.calls.iter_mut().flatten() {
            for durable in [&mut call.oldest, &mut call.newest] {
                durable.at = (durable.at + gap).min(now);
            }
        }
        self.look_at = self.look_at.map(|at| at + gap);
    }

    /// From now on these hold.
    pub(super) fn handle_settings(&mut self, now: Moment, settings: ReplicationSettings) {
        self.settings = settings;
        self.look_at = Some(now);
    }

    /// The promises that sessions wait for: connection, and since when.
    pub(super) fn held(&self) -> impl Iterator<Item = (ConnectionId, Moment)> {
        let held = self.calls.iter().flatten().filter(|call| call.is_held());
        held.map(|call| (call.connection, call.oldest.since))
    }

    pub(super) fn publish(&self, counters: &Counters) {
        counters.engine_calls_waiting.set(self.behind_count as u64);
        counters.engine_late.set(u64::from(self.late_since.is_some()));
        counters.engine_degrades.set(u64::from(self.is_degraded()));
    }

    fn is_degraded(&self) -> bool {
        self.late_since.is_some() && self.settings.on_timeout == OnTimeout::Degrade
    }

    fn call(&mut self, connection: ConnectionId) -> Option<&mut Call> {
        let call = self.calls.get_mut(connection.index as usize)?.as_mut();
        call.filter(|call| call.connection == connection)
    }

    fn remove(&mut self, slot: usize) {
        if let Some(call) = self.calls[slot].take() {
            self.slots.remove(&call.epoch.micros);
            self.behind_count -= usize::from(call.is_behind());
        }
    }

    /// The engine can never have all frames of a call.
    fn note_gap(&mut self, slot: u32) {
        let slot = slot as usize;
        let Some(call) = self.calls[slot].as_mut() else { return };
        self.behind_count -= usize::from(call.is_behind());
        call.has_gap = true;
        let (connection, is_held) = (call.connection, call.is_held());
        self.due.push_back(Due::Gap);
        if is_held && let Some(kept) = self.pass_gap(slot) {
            self.due.push_back(Due::Degraded(connection, kept));
        }
        self.note_news();
    }

    /// A durable promise is for frames after a gap, too. Returns what holds. With `hold` the call
    /// is to be closed. It stays here until its session has ended: no promise may go out meanwhile.
    fn pass_gap(&mut self, slot: usize) -> Option<Kept> {
        let call = self.calls[slot].as_mut()?;
        match self.settings.on_timeout {
            OnTimeout::Degrade => Some(call.degraded()),
            OnTimeout::Hold => {
                self.due.push_back(Due::GivenUp(call.connection));
                let since = call.oldest.since;
                (call.covered > call.told).then(|| call.replicated(since))
            }
        }
    }

    fn look_no_later_than(&mut self, moment: Moment) {
        self.look_at = Some(self.look_at.map_or(moment, |at| at.min(moment)));
    }

    /// The engine works. If it was late, a look finds out whether it still is.
    fn note_news(&mut self) {
        if let Some(since) = self.late_since
            && !self.has_news
        {
            self.has_news = true;
            // A moment that has passed: at once.
            self.look_no_later_than(since);
        }
    }

    /// Looks at all calls: finds what is due now, and when to look again.
    fn look(&mut self, now: Moment) {
        let ReplicationSettings { timeout, stall_timeout, on_timeout } = self.settings;
        let mut next: Option<Moment> = None;
        let mut late = 0;
        for call in self.calls.iter().flatten().filter(|call| call.is_behind()) {
            let deadline = call.oldest.at + timeout;
            late += usize::from(deadline <= now);
            let next_of_call = if deadline <= now { now + timeout } else { deadline };
            next = Some(next.map_or(next_of_call, |next| next.min(next_of_call)));
        }
        match self.late_since {
            None if late > 0 => {
                (self.late_since, self.has_news) = (Some(now), false);
                self.due.push_back(Due::Late { calls: late });
            }
            Some(since) if late == 0 && self.has_news => {
                self.late_since = None;
                self.due.push_back(Due::CaughtUp { after: now.since(since) });
            }
            _ => {}
        }
        if self.is_degraded() {
            for call in self.calls.iter_mut().flatten().filter(|call| call.is_held()) {
                self.due.push_back(Due::Degraded(call.connection, call.degraded()));
            }
        }
        if on_timeout == OnTimeout::Hold {
            for slot in 0..self.calls.len() {
                let Some(call) = self.calls[slot].filter(Call::is_held) else { continue };
                let deadline = call.oldest.at + stall_timeout;
                if deadline <= now {
                    self.due.push_back(Due::GivenUp(call.connection));
                    self.remove(slot);
                } else {
                    next = Some(next.map_or(deadline, |next| next.min(deadline)));
                }
            }
        }
        self.has_news &= self.late_since.is_some();
        self.look_at = next.map(|next| next.max(now + LOOK_INTERVAL));
        if self.has_news {
            self.look_no_later_than(now + LOOK_INTERVAL);
        }
    }
}

impl<I: Io, S: Service> Shard<I, S> {
    /// A promise has become durable: tells its session, or lets it wait for the engine.
    pub(super) fn keep_durable(&mut self, now: Now, id: ConnectionId, promise: (Seq, Moment)) {
        let kept = match &mut self.replication {
            None => {
                let (seq, since) = promise;
                Some(Kept { seq, since, level: self.level })
            }
            Some(replication) => replication.handle_durable(now.moment, id, promise),
        };
        if let Some(kept) = kept {
            self.keep(now, id, kept);
        }
    }

    /// Tells a session that a promise holds, and sends what follows from it.
    fn keep(&mut self, now: Now, id: ConnectionId, kept: Kept) {
        let Shard { connections, ring, epochs, counters, .. } = self;
        if let Some(Connection { stage: Stage::Open(open), timing, origin, .. }) =
            connections.get(id)
        {
            let peer = Some(origin.peer);
            let mut context = Context { ring, epochs, counters, peer };
            let acks = open.session.handle_promise(now, kept.seq, kept.level, &mut context);
            timing.owe(kept.since, acks);
        }
        self.settle(now, id);
    }

    /// The message engine has acknowledged frames.
    pub(super) fn handle_replicated(&mut self, now: Now, reports: Vec<ReplicatedFrames>) {
        for report in reports {
            let told = self.replication.as_mut().and_then(|it| it.handle_report(report));
            if let Some((id, kept)) = told {
                self.keep(now, id, kept);
            }
        }
    }

    /// Does what is due for ACKs that wait for the engine.
    pub(super) fn drive_replication(&mut self, now: Now) {
        let mut gaps = 0;
        while let Some(due) = self.replication.as_mut().and_then(|it| it.poll_due(now.moment)) {
            match due {
                Due::Late { calls } => self.log_late(calls),
                Due::CaughtUp { after } => tracing::info!(
                    shard = self.index,
                    seconds = after.as_secs_f64(),
                    acks_degraded = self.counters.acks_degraded.read(),
                    "the message engine acknowledges audio in time again: ACKs mean replicated"
                ),
                Due::Gap => {
                    self.counters.calls_engine_lacks.add(1);
                    gaps += 1;
                }
                Due::Degraded(id, kept) => self.keep(now, id, kept),
                Due::GivenUp(id) => self.notify(now, id, Notice::Engine),
            }
        }
        if gaps > 0 {
            tracing::error!(
                shard = self.index,
                calls = gaps,
                "the journal lost frames of calls before the message engine had them: their ACKs \
                 cannot mean replicated any more"
            );
        }
    }

    fn log_late(&self, calls: usize) {
        let Some(replication) = &self.replication else { return };
        let ReplicationSettings { timeout, on_timeout, .. } = replication.settings;
        let (shard, seconds) = (self.index, timeout.as_secs_f64());
        match on_timeout {
            OnTimeout::Hold => tracing::warn!(
                shard,
                calls,
                seconds,
                "the message engine has not acknowledged the audio of calls for this long: their \
                 ACKs wait"
            ),
            OnTimeout::Degrade => tracing::warn!(
                shard,
                calls,
                seconds,
                "the message engine has not acknowledged the audio of calls for this long: from \
                 now on ACKs mean durable, not replicated"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
