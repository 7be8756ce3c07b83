#![forbid(unsafe_code)]
//! The threads of the store, which begin and end together.

use super::keeper::Keeper;
use super::maker::Maker;
use super::outbox::Outbox;
use super::run::Run;
use super::state::StoreState;
use super::view::StoreView;
use super::{StoreEvent, Tell, lock};
use crate::journal::settings::JournalSettings;
use crate::journal::writer::{PreparedSegment, SegmentRequest};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

impl Run {
    /// Starts the store. It serves `requests` until all of their senders are gone, and tells shards
    /// by `tell`. Returns the first segment of each shard too, as far as there is room.
    pub(crate) fn start(
        self,
        requests: Receiver<(usize, SegmentRequest)>,
        tell: impl Fn(usize, StoreEvent) -> Result<(), StoreEvent> + Send + Sync + 'static,
    ) -> io::Result<(StoreThread, Vec<Option<PreparedSegment>>)> {
        let (run, state) = (Arc::new(self), Arc::new(StoreState::default()));
        let (tell, shard_count): (Tell, usize) = (Arc::new(tell), run.shard_dirs.len());
        let (to_keeper, events) = channel();
        let outbox = || Outbox::new(Arc::clone(&tell), shard_count);
        let mut keeper = Keeper::new(Arc::clone(&run), Arc::clone(&state), outbox())?;
        keeper.make_first_room();
        let mut maker = Maker::new(Arc::clone(&run), Arc::clone(&state), to_keeper, outbox());
        let first = maker.first_segments();
        let spawn = |name: &str| std::thread::Builder::new().name(name.into());
        let keeper = spawn("keeper").spawn(move || keeper.work(&events))?;
        let maker = spawn("store").spawn(move || maker.work(&requests))?;
        Ok((StoreThread { threads: vec![maker, keeper], state }, first))
    }
}

/// The store's threads.
#[derive(Debug)]
pub(crate) struct StoreThread {
    threads: Vec<JoinHandle<()>>,
    state: Arc<StoreState>,
}

impl StoreThread {
    /// Keeps the journal by these settings from its next tick on. Only those that may be reloaded
    /// differ from the settings at the start.
    pub(crate) fn set_settings(&self, settings: JournalSettings) {
        *lock(&self.state.changed) = Some(settings);
    }

    /// What other threads may see.
    pub(crate) fn view(&self) -> Arc<StoreView> {
        Arc::clone(&self.state.view)
    }

    /// Waits for their end, which comes after that of all shards.
    pub(crate) fn join(self) {
        // They report in the log, and have no result.
        self.threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}
