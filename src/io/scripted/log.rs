//! The events of a simulated world, in order. A test can cut them anywhere and check what is left.

use super::World;
pub use super::event::Event;
use super::state::State;

impl World {
    /// Keeps a log from now on.
    pub fn keep_log(&self) {
        self.state().log.get_or_insert_default();
    }

    /// Number of events in the log.
    pub fn log_size(&self) -> usize {
        self.state().log.as_ref().map_or(0, Vec::len)
    }

    /// Returns all events in the log, and stops keeping it.
    pub fn take_log(&self) -> Vec<Event> {
        self.state().log.take().unwrap_or_default()
    }
}

impl State {
    /// Adds an event to the log.
    pub(super) fn note(&mut self, event: impl FnOnce() -> Event) {
        if let Some(log) = &mut self.log {
            log.push(event());
        }
    }
}
