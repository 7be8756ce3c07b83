//! One thread that plays its share of the calls: a tokio-uring runtime, the wheel that issues frames, and the opener.
//!
//! tokio-uring hands its queue to the kernel when its thread is about to sleep, or when the queue is full. So nothing
//! here may spin or yield in a loop, and the queue is short: with 64 entries the send lag, which is read just before
//! a frame is queued, is true to within 64 sends.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::sync::Notify;

use crate::call;
use crate::failure::Failure;
use crate::line::Line;
use crate::plan::Plan;
use crate::schedule::Wheel;
use crate::stats::Recorder;

/// Submission queue entries: see the module's head.
const SUBMISSIONS: u32 = 64;

/// Completion queue entries: a read per call may complete at once when a node acks in batches.
const COMPLETIONS: u32 = 32_768;

/// The wheel turns at most this often, so that frames due close together share a trip to the kernel: half of it is
/// what a frame waits on average when there is much to do.
const TURN: Duration = Duration::from_micros(250);

/// Sends rarely wait, so few buffers are in use at a time; more than this are not kept.
const BUFFERS_KEPT: usize = 256;

/// Ctrl-C, a flag that a signal handler sets, is looked at this often.
const CUT_LOOK: Duration = Duration::from_millis(100);

/// What the tasks of one thread share.
pub struct Worker {
    /// The run.
    pub plan: Arc<Plan>,
    /// Where this worker counts.
    pub recorder: Arc<Recorder>,
    /// Wakes the calls that wait for their time to hang up once the run is cut.
    pub cut: Notify,
    wheel: RefCell<Wheel<Rc<Line>>>,
    wheel_changed: Notify,
    buffers: RefCell<Vec<Vec<u8>>>,
    failed: RefCell<Vec<bool>>,
    finished: Cell<bool>,
}

impl Worker {
    /// Puts a line on the wheel; its first frame is due at `first`.
    pub fn join(&self, first: u64, line: Rc<Line>) {
        if self.wheel.borrow_mut().join(first, line) {
            self.wheel_changed.notify_one();
        }
    }

    /// An empty buffer for one frame.
    pub fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(self.plan.audio.payload_size() + 14))
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

/// Plays every `workers`-th call, beginning with `index`, on the calling thread. Returns when all have ended.
pub fn run(plan: Arc<Plan>, recorder: Arc<Recorder>, index: usize) -> io::Result<()> {
    if let Some(cpu) = plan.cpus.get(index) {
        crate::host::pin(&[*cpu])?;
    }
    if plan.realtime {
        crate::host::become_realtime()?;
    }
    let mut uring = tokio_uring::uring_builder();
    // One thread owns the ring; completions need not interrupt it while it runs.
    uring.setup_cqsize(COMPLETIONS).setup_single_issuer().setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    builder.entries(SUBMISSIONS).uring_builder(&uring);
    let runtime = tokio_uring::Runtime::new(&builder)?;
    runtime.block_on(async move {
        let worker = Rc::new(Worker {
            wheel: RefCell::new(Wheel::new(plan.schedule.interval)),
            wheel_changed: Notify::new(),
            buffers: RefCell::new(Vec::new()),
            failed: RefCell::new(vec![false; plan.calls.len()]),
            finished: Cell::new(false),
            cut: Notify::new(),
            plan,
            recorder,
        });
        tokio_uring::spawn(pass_on_cut(worker.clone()));
        let turning = tokio_uring::spawn(turn(worker.clone()));
        open(worker.clone(), index).await;
        worker.finished.set(true);
        worker.wheel_changed.notify_one();
        turning.await.map_err(io::Error::other)?
    })
}

/// Opens each call at its time and waits for all of them.
async fn open(worker: Rc<Worker>, index: usize) {
    let plan = &worker.plan;
    let mut calls = Vec::new();
    for number in (index as u64..plan.schedule.calls).step_by(plan.workers()) {
        let opens_at = plan.clock.instant(plan.schedule.opens_at(number));
        tokio::time::sleep_until(opens_at.into()).await;
        if plan.is_cut() {
            break;
        }
        calls.push(tokio_uring::spawn(call::play(worker.clone(), number)));
    }
    for playing in calls {
        if let Err(error) = playing.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Tells the calls when the run is cut. Ends with the worker at the latest.
async fn pass_on_cut(worker: Rc<Worker>) {
    while !worker.plan.is_cut() {
        tokio::time::sleep(CUT_LOOK).await;
    }
    worker.cut.notify_waiters();
}

/// Issues frames as they fall due, until the worker has finished.
///
/// tokio's own timers would do, to the millisecond; a timerfd is exact, and the ring reads it like a socket.
async fn turn(worker: Rc<Worker>) -> io::Result<()> {
    // Blocking on purpose: of a non-blocking one the ring would report that it is not ready, rather than wait.
    let alarm = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let file = tokio_uring::fs::File::from_std(alarm.try_clone()?.into());
    let mut fired = std::pin::pin!(file.read_at(vec![0; 8], 0));
    let clock = worker.plan.clock;
    while !worker.finished.get() {
        let now = clock.now();
        loop {
            let Some((due, line)) = worker.wheel.borrow_mut().pop_due(now) else { break };
            if line.issue(&worker, due, now) {
                worker.wheel.borrow_mut().requeue(due, line);
            }
        }
        let next = worker.wheel.borrow().next_due();
        let Some(due) = next else {
            worker.wheel_changed.notified().await;
            continue;
        };
        arm(&alarm, Duration::from_nanos(due.saturating_sub(clock.now())).max(TURN))?;
        tokio::select! {
            (done, expirations) = &mut fired => {
                done?;
                fired.set(file.read_at(expirations, 0));
            }
            () = worker.wheel_changed.notified() => {}
        }
    }
    Ok(())
}

fn arm(alarm: &OwnedFd, wait: Duration) -> io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
    let once = Itimerspec { it_interval: zero, it_value: value };
    rustix::time::timerfd_settime(alarm, TimerfdTimerFlags::empty(), &once)?;
    Ok(())
}
