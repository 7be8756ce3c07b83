//! The sending half of a live call: frames as they fall due, in order, and the few control bytes between them.
//!
//! Three tasks of one thread share it: the wheel counts frames due, the writer sends them, the reader queues pongs
//! and the end.

use std::cell::{Cell, RefCell};
use std::net::Shutdown;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio_uring::net::TcpStream;

use crate::acks::Acks;
use crate::stats::Metric;
use crate::worker::Worker;

/// One connection of one call.
pub struct Line {
    /// The socket; the reader reads it too.
    pub stream: Rc<TcpStream>,
    /// Call number.
    pub number: u64,
    /// Frames of the call that came before this connection.
    pub frames_before: u64,
    /// The acks of this connection.
    pub acks: RefCell<Acks>,
    /// Frames due so far.
    due: Cell<u64>,
    /// Frames submitted so far.
    sent: Cell<u64>,
    /// Frames this connection shall send in all.
    total: Cell<u64>,
    /// Send lag is recorded up to this frame.
    lag_recorded: Cell<u64>,
    /// A frame is in the kernel's hands.
    writing: Cell<bool>,
    /// Bytes that go out before the next frame.
    control: RefCell<Vec<u8>>,
    /// Bytes that go out after the last frame, when it is time to hang up; taken once.
    finale: RefCell<Option<Vec<u8>>>,
    finale_sent: Cell<bool>,
    ended: Cell<bool>,
    wake: Notify,
}

impl Line {
    /// A line that will send `total` frames and then `finale`.
    pub fn new(stream: Rc<TcpStream>, number: u64, frames_before: u64, acks: Acks, total: u64, finale: Vec<u8>) -> Self {
        Self {
            stream,
            number,
            frames_before,
            acks: RefCell::new(acks),
            due: Cell::new(0),
            sent: Cell::new(0),
            total: Cell::new(total),
            lag_recorded: Cell::new(0),
            writing: Cell::new(false),
            control: RefCell::new(Vec::new()),
            finale: RefCell::new(Some(finale)),
            finale_sent: Cell::new(false),
            ended: Cell::new(false),
            wake: Notify::new(),
        }
    }

    /// The next frame, due at `due`, may go; it is `now`. False when there is no further one.
    pub fn issue(&self, worker: &Worker, due: u64, now: u64) -> bool {
        if self.ended.get() || self.due.get() >= self.total.get() {
            return false;
        }
        if worker.plan.is_cut() {
            self.total.set(self.due.get());
            self.wake.notify_one();
            return false;
        }
        self.due.set(self.due.get() + 1);
        if self.writing.get() {
            // TCP still holds the frame before: the node is behind, and this frame's lag would be the node's.
            self.lag_recorded.set(self.due.get());
            worker.recorder.write(|stats| {
                stats.counts.pushbacks += 1;
                stats.record(Metric::Sendlag, now.saturating_sub(due));
            });
        }
        self.wake.notify_one();
        self.due.get() < self.total.get()
    }

    /// Queues bytes that go out before the next frame.
    pub fn queue(&self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.control.borrow_mut().extend_from_slice(&bytes);
            self.wake.notify_one();
        }
    }

    /// Frames submitted so far.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Frames due so far.
    pub fn due_count(&self) -> u64 {
        self.due.get()
    }

    /// The last frame and what ends the call are out.
    pub fn is_finale_sent(&self) -> bool {
        self.finale_sent.get()
    }

    /// Ends the line; with `cut` the socket too, so that whatever waits for it returns.
    pub fn end(&self, cut: bool) {
        self.ended.set(true);
        self.wake.notify_one();
        if cut {
            // A socket that is gone already has nothing to shut down.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    /// Sends until the line ends. A write error ends it: the reader finds out why.
    pub async fn write(self: Rc<Self>, worker: Rc<Worker>) {
        loop {
            let control = std::mem::take(&mut *self.control.borrow_mut());
            let done = if !control.is_empty() {
                self.stream.write_all(control).await.0
            } else if self.ended.get() {
                return;
            } else if self.sent.get() < self.due.get() {
                self.write_frame(&worker).await
            } else if self.sent.get() >= self.total.get() {
                self.hang_up(&worker).await
            } else {
                self.wake.notified().await;
                Ok(())
            };
            if done.is_err() {
                self.ended.set(true);
                return;
            }
        }
    }

    /// Sends what ends the call, or waits: for the time to do so, and before and after it for whatever else there is to send.
    async fn hang_up(&self, worker: &Worker) -> std::io::Result<()> {
        // Listens before it looks, so that no cut falls between the two.
        let cut = worker.cut.notified();
        let at = worker.plan.schedule.hangs_up_at(self.number);
        let is_time = worker.plan.is_cut() || worker.plan.clock.now() >= at;
        if is_time && let Some(finale) = self.finale.take() {
            self.finale_sent.set(true);
            return self.stream.write_all(finale).await.0;
        }
        if is_time {
            self.wake.notified().await;
        } else {
            tokio::select! {
                () = tokio::time::sleep_until(worker.plan.clock.instant(at).into()) => {}
                () = cut => {}
                () = self.wake.notified() => {}
            }
        }
        Ok(())
    }

    async fn write_frame(&self, worker: &Worker) -> std::io::Result<()> {
        let seq = self.sent.get() + 1;
        let mut buffer = worker.take_buffer();
        let voice = worker.plan.voice(self.number);
        worker.plan.audio.write_frame(voice, self.frames_before + seq, &mut buffer);
        let now = worker.plan.clock.now();
        let due = self.acks.borrow().due(seq);
        let overdue = self.acks.borrow_mut().poll_overdue(self.sent.get(), now);
        worker.recorder.write(|stats| {
            if seq > self.lag_recorded.get() {
                stats.record(Metric::Sendlag, now.saturating_sub(due));
            }
            stats.counts.frames += 1;
            stats.counts.bytes += buffer.len() as u64;
        });
        if let Some(failure) = overdue {
            worker.fail(self.number, &failure);
        }
        self.sent.set(seq);
        self.writing.set(true);
        let (done, buffer) = self.stream.write_all(buffer).await;
        self.writing.set(false);
        worker.give_buffer(buffer);
        done
    }
}
