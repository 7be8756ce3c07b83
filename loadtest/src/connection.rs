//! One connection of a call, its sending half: frames in order as they fall due, and the few
//! control bytes between them.
//!
//! Three tasks of one thread share it. The pacer counts the frames that are due, the writer sends
//! them, and the reader queues pongs and the end.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};

use tokio::sync::Notify;

use crate::acks::Acks;
use crate::socket::Socket;
use crate::stats::Metric;
use crate::storm::How;
use crate::wire;
use crate::worker::Worker;

/// One connection of one call.
pub struct Connection {
    /// The socket. The reader and the writer own it: the pacer may keep this for an interval more,
    /// and must not keep a socket open that is to be reset.
    socket: Weak<Socket>,
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
    /// Frames that this connection sends in all.
    total: Cell<u64>,
    /// Send lag is recorded up to this frame.
    lag_recorded: Cell<u64>,
    /// A write of a frame is under way.
    writing: Cell<bool>,
    /// Bytes that go out before the next frame.
    control: RefCell<Vec<u8>>,
    /// Bytes that go out after the last frame, when it is time to hang up. They are sent once.
    finale: RefCell<Option<Vec<u8>>>,
    finale_sent: Cell<bool>,
    /// The call leaves this connection before its time, and comes back on another.
    leaving: Cell<bool>,
    ended: Cell<bool>,
    wake: Notify,
}

impl Connection {
    /// A connection that will send `total` frames and then `finale`.
    pub fn new(
        socket: &Rc<Socket>,
        number: u64,
        frames_before: u64,
        acks: Acks,
        total: u64,
        finale: Vec<u8>,
    ) -> Self {
        Self {
            socket: Rc::downgrade(socket),
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
            leaving: Cell::new(false),
            ended: Cell::new(false),
            wake: Notify::new(),
        }
    }

    /// Issues the next frame, which was due at `due`, at the time `now`. False if it was the last.
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
            // TCP still holds the previous frame. The node is slow here, so this frame's lag is not
            // the generator's.
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

    /// Wakes the writer: TLS has bytes of its own to send.
    pub fn wake_writer(&self) {
        self.wake.notify_one();
    }

    /// Gives the connection up: at once, or by a Close after the frames that are due.
    pub fn leave(&self, how: How) {
        self.leaving.set(true);
        self.total.set(self.due.get());
        match how {
            How::Rst => {
                self.ended.set(true);
                if let Some(socket) = self.socket.upgrade() {
                    socket.reset(self.writing.get());
                }
            }
            How::Close => *self.finale.borrow_mut() = Some(wire::close_frame()),
        }
        self.wake.notify_one();
    }

    /// Whether the call has given the connection up.
    pub fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// Frames submitted so far.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Frames due so far.
    pub fn due_count(&self) -> u64 {
        self.due.get()
    }

    /// Whether the last frame and the end of the call have been sent.
    pub fn is_finale_sent(&self) -> bool {
        self.finale_sent.get()
    }

    /// Ends the connection. With `cut` it also shuts the socket down, so that pending operations
    /// return.
    pub fn end(&self, cut: bool) {
        self.ended.set(true);
        self.wake.notify_one();
        if cut && let Some(socket) = self.socket.upgrade() {
            socket.shutdown();
        }
    }

    /// Sends until the connection ends. A write error ends it: the reader finds out why.
    pub async fn write(self: Rc<Self>, socket: Rc<Socket>, worker: Rc<Worker>) {
        loop {
            let control = std::mem::take(&mut *self.control.borrow_mut());
            let done = if !control.is_empty() {
                socket.write_all(control).await
            } else if socket.wants_write() {
                socket.flush().await
            } else if self.ended.get() {
                return self.close_tls(&socket).await;
            } else if self.sent.get() < self.due.get() {
                self.write_frame(&socket, &worker).await
            } else if self.sent.get() >= self.total.get() {
                self.hang_up(&socket, &worker).await
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

    /// Ends TLS with a close_notify, unless the call has left in another way.
    async fn close_tls(&self, socket: &Socket) {
        if socket.is_secure() && !self.leaving.get() {
            socket.queue_close_notify();
            // The node may have closed the socket already.
            let _ = socket.flush().await;
        }
    }

    /// Sends the end of the call once it is time to. Until then, and after it, waits for other
    /// bytes to send.
    async fn hang_up(&self, socket: &Socket, worker: &Worker) -> io::Result<()> {
        // Subscribes before it checks the flag, so that no cut is missed between the two.
        let cut = worker.cut.notified();
        let at = worker.plan.schedule.hangs_up_at(self.number);
        let is_time = self.leaving.get() || worker.plan.is_cut() || worker.plan.clock.now() >= at;
        if is_time && let Some(finale) = self.finale.take() {
            self.finale_sent.set(true);
            return socket.write_all(finale).await;
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

    async fn write_frame(&self, socket: &Socket, worker: &Worker) -> io::Result<()> {
        let seq = self.sent.get() + 1;
        let mut buffer = worker.take_buffer();
        let voice = worker.plan.voice(self.number);
        worker.plan.audio.write_frame(voice, self.frames_before + seq, &mut buffer);
        let size = buffer.len() as u64;
        if socket.is_secure() {
            let mut sealed = worker.take_buffer();
            sealed.clear();
            socket.seal(&buffer, &mut sealed)?;
            worker.give_buffer(std::mem::replace(&mut buffer, sealed));
        }
        let now = worker.plan.clock.now();
        let due = self.acks.borrow().due(seq);
        let overdue = self.acks.borrow_mut().poll_overdue(self.sent.get(), now);
        worker.recorder.write(|stats| {
            if seq > self.lag_recorded.get() {
                stats.record(Metric::Sendlag, now.saturating_sub(due));
            }
            stats.counts.frames += 1;
            stats.counts.bytes += size;
        });
        if let Some(failure) = overdue {
            worker.fail(self.number, &failure);
        }
        self.sent.set(seq);
        self.writing.set(true);
        let (done, buffer) = socket.write_sealed(buffer).await;
        self.writing.set(false);
        worker.give_buffer(buffer);
        done
    }
}
