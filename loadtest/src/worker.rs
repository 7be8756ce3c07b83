//! What the tasks of one thread share: the plan, the recorder, buffers, and which calls failed.

use std::cell::RefCell;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::failure::Failure;
use crate::gate::Gate;
use crate::plan::Plan;
use crate::stats::Recorder;

/// Sends rarely wait, so few buffers are in use at a time; more than this are not kept.
const BUFFERS_KEPT: usize = 256;

/// Room for the header of a WebSocket frame: at most 14 bytes (RFC 6455 §5.2).
const FRAME_HEADER_SIZE_MAX: usize = 14;

/// One thread's share of a run.
pub struct Worker {
    /// The run.
    pub plan: Arc<Plan>,
    /// Where this worker counts.
    pub recorder: Arc<Recorder>,
    /// Wakes the calls that wait for their time to hang up when the run is cut short.
    pub cut: Notify,
    /// Work that takes the CPU for long passes here, one task at a time.
    pub gate: Gate,
    buffers: RefCell<Vec<Vec<u8>>>,
    failed: RefCell<Vec<bool>>,
}

impl Worker {
    /// A worker that has done nothing yet.
    pub fn new(plan: Arc<Plan>, recorder: Arc<Recorder>) -> Self {
        Self {
            buffers: RefCell::new(Vec::new()),
            failed: RefCell::new(vec![false; plan.calls.len()]),
            cut: Notify::new(),
            gate: Gate::new(),
            plan,
            recorder,
        }
    }

    /// An empty buffer for one frame.
    pub fn take_buffer(&self) -> Vec<u8> {
        let size = self.plan.audio.payload_size() + FRAME_HEADER_SIZE_MAX;
        self.buffers.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(size))
    }

    /// Gives a buffer back, for the next frame while it is still in the cache.
    pub fn give_buffer(&self, buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < BUFFERS_KEPT {
            buffers.push(buffer);
        }
    }

    /// Counts a failure of call `number`.
    pub fn fail(&self, number: u64, failure: &Failure) {
        let ids = &self.plan.calls[number as usize];
        let first = !std::mem::replace(&mut self.failed.borrow_mut()[number as usize], true);
        self.recorder.write(|stats| {
            stats.fail(&ids.interaction, failure);
            stats.counts.calls_failed += u64::from(first);
        });
    }
}
