//! Tickets for resumed handshakes: one pool for all calls of the run.
//!
//! It replaces rustls' own cache, which keeps eight tickets for a server: a storm needs thousands.
//! A ticket is valid for any call, whichever call it came with.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// The pool.
pub struct Tickets {
    tickets_max: usize,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    /// Oldest first. Each is used for one connection (RFC 8446 §C.4).
    tls13: VecDeque<Tls13ClientSessionValue>,
    /// Can be used any number of times.
    tls12: Option<Tls12ClientSessionValue>,
    group: Option<NamedGroup>,
}

impl Tickets {
    /// An empty pool.
    pub fn new(tickets_max: usize) -> Self {
        Self { tickets_max, pool: Mutex::default() }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool, as rustls uses it. The server's name is ignored: there is one node.
pub struct Store {
    tickets: Arc<Tickets>,
    takes: bool,
}

impl Store {
    /// Puts tickets into the pool, and takes none.
    pub fn keeping(tickets: Arc<Tickets>) -> Self {
        Self { tickets, takes: false }
    }

    /// Takes them too.
    pub fn using(tickets: Arc<Tickets>) -> Self {
        Self { tickets, takes: true }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Tickets hold secrets.
        f.debug_struct("Store").field("takes", &self.takes).finish_non_exhaustive()
    }
}

impl ClientSessionStore for Store {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.tickets.pool().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.tickets.pool().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.tickets.pool().tls12 = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        if self.takes { self.tickets.pool().tls12.clone() } else { None }
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.tickets.pool().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut pool = self.tickets.pool();
        pool.tls13.push_back(value);
        if pool.tls13.len() > self.tickets.tickets_max {
            pool.tls13.pop_front();
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        // The newest: it is the last to expire.
        if self.takes { self.tickets.pool().tls13.pop_back() } else { None }
    }
}
