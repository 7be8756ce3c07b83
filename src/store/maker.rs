#![forbid(unsafe_code)]
//! The thread `store`: makes segment files when shards ask for them, and nothing else.

use super::error::trouble;
use super::keeper::KeeperEvent;
use super::outbox::Outbox;
use super::run::Run;
use super::state::StoreState;
use super::{StoreEvent, disk, lock, remove_if_there};
use crate::archive::layout;
use crate::constants::RECORD_HEADERS_SHARE;
use crate::format::{Lsn, SegmentUuid};
use crate::io::FileHandle;
use crate::journal::frame_ring::RecordHeaders;
use crate::journal::settings::JournalSettings;
use crate::journal::writer::{PreparedSegment, SegmentRequest};
use rand_core::{OsRng, RngCore};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// Pause before another try at a segment that could not be made.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The same while the keeper is making room, and for mail that a shard did not take.
const SHORT_PAUSE: Duration = Duration::from_millis(10);

/// How long a new segment waits for room within `retain_bytes`. A file that is made sooner exceeds
/// the limit, and another one is freed for it. The shard writes to another segment meanwhile.
const ROOM_WAIT: Duration = Duration::from_millis(250);

/// How long a shard hears nothing of a full disk while the keeper is making room.
const FULL_WAIT: Duration = Duration::from_secs(2);

/// Longest wait for a request.
const IDLE_WAIT: Duration = Duration::from_secs(3_600);

/// A shard that waits for a segment that could not be made.
struct Unserved {
    shard: usize,
    since: Instant,
    is_told: bool,
}

/// State of the thread.
pub(super) struct Maker {
    run: Arc<Run>,
    state: Arc<StoreState>,
    keeper: Sender<KeeperEvent>,
    outbox: Outbox,
    next_ids: Vec<u64>,
    /// Files that shards write or have prepared, by shard and id.
    open: HashMap<(usize, u64), File>,
    unserved: Vec<Unserved>,
    /// The logged reason why segments cannot be made.
    trouble: Option<String>,
}

impl Maker {
    pub(super) fn new(
        run: Arc<Run>,
        state: Arc<StoreState>,
        keeper: Sender<KeeperEvent>,
        outbox: Outbox,
    ) -> Maker {
        let next_ids = vec![1; run.shard_dirs.len()];
        let (open, unserved, trouble) = (HashMap::new(), Vec::new(), None);
        Maker { run, state, keeper, outbox, next_ids, open, unserved, trouble }
    }

    /// The first segment of each shard, as far as there is room.
    pub(super) fn first_segments(&mut self) -> Vec<Option<PreparedSegment>> {
        let shard_count = self.next_ids.len();
        let make = |shard| match self.create_segment(shard) {
            Ok(segment) => Some(segment),
            Err(error) => {
                self.log_trouble(shard, &error);
                None
            }
        };
        (0..shard_count).map(make).collect()
    }

    /// Serves until all senders of requests are gone.
    pub(super) fn work(mut self, requests: &Receiver<(usize, SegmentRequest)>) {
        loop {
            match requests.recv_timeout(self.pause()) {
                Ok((shard, SegmentRequest::Prepare)) => self.prepare(shard),
                Ok((shard, SegmentRequest::Retire { id, size, is_fenced, headers })) => {
                    if let Some(file) = self.open.remove(&(shard, id)) {
                        self.state.retired.fetch_add(1, Ordering::Relaxed);
                        self.tell_keeper(KeeperEvent::Retired {
                            shard,
                            id,
                            file,
                            size,
                            is_fenced,
                            headers,
                        });
                    }
                }
                Ok((shard, SegmentRequest::Sealed)) => {
                    self.tell_keeper(KeeperEvent::Sealed { shard });
                }
                Err(RecvTimeoutError::Timeout) => self.retry_unserved(),
                Err(RecvTimeoutError::Disconnected) => {
                    let open = std::mem::take(&mut self.open);
                    return self.tell_keeper(KeeperEvent::Ended { open });
                }
            }
            self.outbox.retry();
        }
    }

    fn pause(&self) -> Duration {
        let is_soon = self.outbox.has_waiting() || self.unserved.iter().any(|it| !it.is_told);
        match (is_soon, self.unserved.is_empty()) {
            (true, _) => SHORT_PAUSE,
            (false, false) => RETRY_PAUSE,
            (false, true) => IDLE_WAIT,
        }
    }

    fn tell_keeper(&self, event: KeeperEvent) {
        // It ends after this thread. If it has failed, its files stay as they are.
        let _ = self.keeper.send(event);
    }

    fn prepare(&mut self, shard: usize) {
        if self.unserved.iter().all(|unserved| unserved.shard != shard) {
            self.unserved.push(Unserved { shard, since: Instant::now(), is_told: false });
            self.retry_unserved();
        }
    }

    /// Tries to make the segments that shards wait for.
    fn retry_unserved(&mut self) {
        let is_retiring = self.is_retiring();
        for mut unserved in std::mem::take(&mut self.unserved) {
            let shard = unserved.shard;
            if self.waits_for_room(unserved.since, is_retiring) {
                self.unserved.push(unserved);
                continue;
            }
            match self.create_segment(shard) {
                Ok(segment) => {
                    if self.trouble.take().is_some() {
                        tracing::info!(shard, "segments can be made again");
                    }
                    self.outbox.send(shard, StoreEvent::Segment(segment));
                }
                Err(error) => {
                    let is_coming = disk::is_full(&error)
                        && self.state.can_remove()
                        && self.state.is_over(0)
                        && unserved.since.elapsed() < FULL_WAIT;
                    if !is_coming && !unserved.is_told {
                        self.log_trouble(shard, &error);
                        self.outbox.send(shard, StoreEvent::NoRoom);
                        unserved.is_told = true;
                    }
                    self.unserved.push(unserved);
                }
            }
        }
    }

    /// Whether a segment that was asked for at `since` waits, because room for it is being made. It
    /// must not block this thread: the file that makes room may be on its way through it.
    fn waits_for_room(&self, since: Instant, is_retiring: bool) -> bool {
        self.state.is_over(self.run.config.settings.segment_size)
            && (self.state.can_remove() || is_retiring)
            && since.elapsed() < ROOM_WAIT
    }

    /// Whether a shard is about to finish a segment, or the keeper to take one over. Otherwise a
    /// shard has the one that it writes, and the next one unless it waits for that.
    fn is_retiring(&self) -> bool {
        let in_use = (2 * self.next_ids.len()).saturating_sub(self.unserved.len());
        self.state.retired.load(Ordering::Relaxed) > 0 || self.open.len() > in_use
    }

    fn log_trouble(&mut self, shard: usize, error: &io::Error) {
        let text = trouble(&self.run.config.data_dir, error);
        if self.trouble.as_ref() != Some(&text) {
            tracing::warn!(shard, "{text}");
            self.trouble = Some(text);
        }
    }

    /// Makes a segment's file: locked, allocated, and with a durable name.
    fn create_segment(&mut self, shard: usize) -> io::Result<PreparedSegment> {
        let JournalSettings { segment_size: size, prefill, .. } = self.run.config.settings;
        let (directory, id) = (&self.run.shard_dirs[shard], self.next_ids[shard]);
        let preparing = layout::preparing_path(directory, id);
        // Left by a failed attempt.
        remove_if_there(&preparing)?;
        let spare = lock(&self.state.spare).take();
        let made = match spare {
            Some(spare) => std::fs::rename(&spare.path, &preparing).map(|()| spare.file),
            None => self.run.disk.create(&preparing, size, prefill),
        };
        let named = made.and_then(|file| {
            std::fs::rename(&preparing, layout::segment_path(directory, id))?;
            layout::sync_dir(directory)?;
            Ok(file)
        });
        let file = match named {
            Ok(file) => file,
            Err(error) => {
                let _ = std::fs::remove_file(&preparing);
                return Err(error);
            }
        };
        let mut uuid = SegmentUuid::default();
        OsRng.try_fill_bytes(&mut uuid.0).map_err(io::Error::other)?;
        let (handle, mut headers) = (FileHandle(file.as_raw_fd()), self.headers(size));
        // Its shard says where it starts. Until then nothing of it is published.
        headers.begin(uuid, Lsn(0));
        let view = headers.view();
        let segment = PreparedSegment { id, uuid, file: handle, size, headers };
        self.open.insert((shard, id), file);
        self.next_ids[shard] += 1;
        self.state.bytes.fetch_add(size, Ordering::Relaxed);
        self.tell_keeper(KeeperEvent::Made { shard, id, size, view });
        Ok(segment)
    }

    /// Space for the notes of a segment: that of an earlier segment, if there is one.
    fn headers(&self, segment_size: u64) -> RecordHeaders {
        lock(&self.state.spare_headers).pop().unwrap_or_else(|| {
            RecordHeaders::with_room((segment_size / RECORD_HEADERS_SHARE) as usize)
        })
    }
}
