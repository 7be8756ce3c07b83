//! Issues the frames of all connections of one thread as they fall due.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::sync::Notify;

use crate::connection::Connection;
use crate::schedule::Wheel;
use crate::worker::Worker;

/// The wheel turns at most this often, so that frames due close together share a trip to the
/// kernel. Under load a frame waits half of it on average.
const TURN: Duration = Duration::from_micros(250);

/// The connections in the order in which their next frames are due.
pub struct Pacer {
    wheel: RefCell<Wheel<Rc<Connection>>>,
    wheel_changed: Notify,
    finished: Cell<bool>,
}

impl Pacer {
    /// A pacer without connections. `interval` is the time between two frames of a call.
    pub fn new(interval: u64) -> Self {
        Self {
            wheel: RefCell::new(Wheel::new(interval)),
            wheel_changed: Notify::new(),
            finished: Cell::new(false),
        }
    }

    /// Adds a connection; its first frame is due at `first`.
    pub fn join(&self, first: u64, connection: Rc<Connection>) {
        if self.wheel.borrow_mut().join(first, connection) {
            self.wheel_changed.notify_one();
        }
    }

    /// All calls have ended: [`Pacer::run`] returns.
    pub fn finish(&self) {
        self.finished.set(true);
        self.wheel_changed.notify_one();
    }

    /// Issues frames until [`Pacer::finish`].
    ///
    /// tokio's own timers would do, to the millisecond. A timerfd is exact, and the ring reads it
    /// like a socket.
    pub async fn run(self: Rc<Self>, worker: Rc<Worker>) -> io::Result<()> {
        // Blocking on purpose: the ring waits for a blocking descriptor. For a non-blocking one it
        // would only report that it is not ready.
        let alarm = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let file = tokio_uring::fs::File::from_std(alarm.try_clone()?.into());
        let mut fired = std::pin::pin!(file.read_at(vec![0; 8], 0));
        let clock = worker.plan.clock;
        while !self.finished.get() {
            let now = clock.now();
            loop {
                let Some((due, connection)) = self.wheel.borrow_mut().pop_due(now) else { break };
                if connection.issue(&worker, due, now) {
                    self.wheel.borrow_mut().requeue(due, connection);
                }
            }
            let next = self.wheel.borrow().next_due();
            let Some(due) = next else {
                self.wheel_changed.notified().await;
                continue;
            };
            arm(&alarm, Duration::from_nanos(due.saturating_sub(clock.now())).max(TURN))?;
            tokio::select! {
                (done, expirations) = &mut fired => {
                    done?;
                    fired.set(file.read_at(expirations, 0));
                }
                () = self.wheel_changed.notified() => {}
            }
        }
        Ok(())
    }
}

fn arm(alarm: &OwnedFd, wait: Duration) -> io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
    let once = Itimerspec { it_interval: zero, it_value: value };
    rustix::time::timerfd_settime(alarm, TimerfdTimerFlags::empty(), &once)?;
    Ok(())
}
