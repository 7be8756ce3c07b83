//! Which connections give way when places run short.
//!
//! ```text
//!   accepted ──► Incomplete ──head complete──► Settled ──answered, FIN──► Lingering
//!                2nd to give way               never                      1st to give way
//!                     └────────────► Leaving ◄────────────────────────────────┘
//! ```
//! A peer that sends its request at once holds its place for a round trip. So places that stay
//! taken belong to connections that say nothing, say it slowly, or do not end. The oldest of these
//! make room for the next. A request that is sent at once is always answered, `/health` above all.
//! Upgraded connections never give way, and cannot take the last places ([`visitors_max`]).
//!
//! Rejected: that connections which have sent nothing go first. Under a flood of half requests that
//! is the health check which was accepted a moment ago.
#![forbid(unsafe_code)]

use super::connections::{Connection, ConnectionId, Connections, Stage};
use super::standing::Standing;
use crate::clock::Moment;
use crate::constants::{FREE_SHARE_OF_VISITORS, visitors_max};
use crate::limits::Limits;
use std::collections::VecDeque;
use std::time::Duration;

/// How long a connection keeps its place at least. A request follows the end of TCP's handshake at
/// once, so it is read within a turn or two. Under a flood the backlog of 4,096 passes in a second.
const PLACE_TIME_MIN: Duration = Duration::from_millis(10);

/// Connections of one standing, the oldest first, and since when they have it. Some entries are
/// outdated: their connections have moved on, or are gone.
type Queue = VecDeque<(ConnectionId, Moment)>;

/// The connections that may have to give way.
#[derive(Debug)]
pub(super) struct Places {
    incomplete: Queue,
    lingering: Queue,
    /// Connections whose request is not complete.
    incomplete_count: usize,
    incomplete_max: usize,
    /// Connections that give way now: their places are free soon.
    leaving_count: usize,
    /// Most entries of a queue before outdated ones are left out.
    size_max: usize,
    /// Free places that are kept for the next connections.
    free_min: usize,
    /// Places run short, and the oldest connection may give way from then on.
    next_at: Option<Moment>,
}

impl Places {
    pub(super) fn new(limits: &Limits) -> Self {
        let visitors = visitors_max(limits.connections_max);
        Places {
            incomplete: VecDeque::new(),
            lingering: VecDeque::new(),
            incomplete_count: 0,
            incomplete_max: limits.heads_max,
            leaving_count: 0,
            size_max: 2 * (limits.connections_max + visitors),
            free_min: visitors / FREE_SHARE_OF_VISITORS,
            next_at: None,
        }
    }

    pub(super) fn incomplete_count(&self) -> usize {
        self.incomplete_count
    }

    /// When the oldest connection may give way, if that is waited for.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.next_at
    }

    /// Notes what has become of a connection, if its standing has changed.
    pub(super) fn handle_change<S>(
        &mut self,
        now: Moment,
        id: ConnectionId,
        connections: &mut Connections<S>,
    ) {
        let Some(connection) = connections.get(id) else { return };
        let standing = connection.standing_now();
        if connection.standing == standing {
            return;
        }
        self.change(&mut connection.standing, standing);
        let size_max = self.size_max;
        let Some(queue) = self.queue(standing) else { return };
        if queue.len() >= size_max {
            queue.retain(|(id, _)| connections.get(*id).is_some_and(|it| it.standing == standing));
        }
        queue.push_back((id, now));
    }

    /// The next connection that has to give way. It gives way before the next call.
    pub(super) fn poll<S>(
        &mut self,
        now: Moment,
        is_accepting: bool,
        connections: &mut Connections<S>,
    ) -> Option<ConnectionId> {
        self.next_at = None;
        if self.incomplete_count > self.incomplete_max
            && let Some((id, _)) = self.oldest(Standing::Incomplete, connections)
        {
            return Some(id);
        }
        if !is_accepting || connections.free_count() + self.leaving_count >= self.free_min {
            return None;
        }
        let (id, since) = match self.oldest(Standing::Lingering, connections) {
            Some(oldest) => oldest,
            None => self.oldest(Standing::Incomplete, connections)?,
        };
        if now < since + PLACE_TIME_MIN {
            self.next_at = Some(since + PLACE_TIME_MIN);
            return None;
        }
        Some(id)
    }

    /// A connection gives way. Returns whether it has its answer already.
    pub(super) fn handle_leaving<S>(&mut self, connection: &mut Connection<S>) -> bool {
        let is_answered = connection.standing == Standing::Lingering;
        self.change(&mut connection.standing, Standing::Leaving);
        is_answered
    }

    /// A connection of this standing frees its place.
    pub(super) fn handle_end(&mut self, standing: Standing) {
        if let Some(count) = self.count(standing) {
            *count -= 1;
        }
    }

    fn change(&mut self, standing: &mut Standing, to: Standing) {
        self.handle_end(*standing);
        if let Some(count) = self.count(to) {
            *count += 1;
        }
        *standing = to;
    }

    fn count(&mut self, standing: Standing) -> Option<&mut usize> {
        match standing {
            Standing::Incomplete => Some(&mut self.incomplete_count),
            Standing::Leaving => Some(&mut self.leaving_count),
            Standing::Lingering | Standing::Settled => None,
        }
    }

    fn queue(&mut self, standing: Standing) -> Option<&mut Queue> {
        match standing {
            Standing::Incomplete => Some(&mut self.incomplete),
            Standing::Lingering => Some(&mut self.lingering),
            Standing::Settled | Standing::Leaving => None,
        }
    }

    /// The oldest connection of a standing, and since when it has that.
    fn oldest<S>(
        &mut self,
        standing: Standing,
        connections: &mut Connections<S>,
    ) -> Option<(ConnectionId, Moment)> {
        let queue = self.queue(standing)?;
        while let Some(oldest) = queue.front().copied() {
            if connections.get(oldest.0).is_some_and(|it| it.standing == standing) {
                return Some(oldest);
            }
            queue.pop_front();
        }
        None
    }
}

impl<S> Connection<S> {
    fn standing_now(&self) -> Standing {
        match &self.stage {
            _ if self.standing == Standing::Leaving => Standing::Leaving,
            Stage::Head(_) => Standing::Incomplete,
            Stage::Done if self.ends.is_shut_down() && !self.is_upgraded => Standing::Lingering,
            Stage::Waiting(_) | Stage::Open(_) | Stage::Done => Standing::Settled,
        }
    }
}
