//! One thread that plays its share of the calls: it opens each call at its time, and returns when
//! all have ended.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::pacer::Pacer;
use crate::plan::Plan;
use crate::stats::Recorder;
use crate::worker::Worker;
use crate::{call, host, ring};

/// A signal handler sets a flag for Ctrl-C. The flag is read this often.
const CUT_POLL: Duration = Duration::from_millis(100);

/// Plays every `workers`-th call, beginning with `index`, on the calling thread.
pub fn run(plan: Arc<Plan>, recorder: Arc<Recorder>, index: usize) -> io::Result<()> {
    if let Some(cpu) = plan.cpus.get(index) {
        host::pin(&[*cpu])?;
    }
    if plan.realtime {
        host::become_realtime()?;
    }
    ring::runtime()?.block_on(async move {
        let pacer = Rc::new(Pacer::new(plan.schedule.interval));
        let worker = Rc::new(Worker::new(plan, recorder));
        tokio_uring::spawn(pass_on_cut(worker.clone()));
        let pacing = tokio_uring::spawn(pacer.clone().run(worker.clone()));
        open(worker, pacer.clone(), index).await;
        pacer.finish();
        pacing.await.map_err(io::Error::other)?
    })
}

/// Opens each call at its time and waits for all of them.
async fn open(worker: Rc<Worker>, pacer: Rc<Pacer>, index: usize) {
    let plan = &worker.plan;
    let mut calls = Vec::new();
    for number in (index as u64..plan.schedule.calls_in_all()).step_by(plan.workers()) {
        let opens_at = plan.clock.instant(plan.schedule.opens_at(number));
        tokio::time::sleep_until(opens_at.into()).await;
        if plan.is_cut() {
            break;
        }
        calls.push(tokio_uring::spawn(call::play(worker.clone(), pacer.clone(), number)));
    }
    for playing in calls {
        if let Err(error) = playing.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Tells the calls when the run is cut short. It ends with the worker at the latest.
async fn pass_on_cut(worker: Rc<Worker>) {
    while !worker.plan.is_cut() {
        tokio::time::sleep(CUT_POLL).await;
    }
    worker.cut.notify_waiters();
}
