//! A gate for work that takes the CPU for longer than a frame may wait: handshakes, and thousands
//! of connections that are dropped or opened at once.
//!
//! One task at a time passes. After a slice of CPU time the gate waits for one round through the
//! ring: queued bytes are sent, and frames that are due go first. So in a storm, the frames of
//! calls that stay up are late by one slice at most.

use std::cell::Cell;

use tokio::sync::Semaphore;

use crate::host;

/// CPU time between two rounds through the ring. A full handshake takes about as much.
const SLICE_NS: u64 = 200_000;

/// A pass counts as at least this much, because its task goes on for a little after it.
const PASS_NS_MIN: u64 = 10_000;

/// The gate of one worker.
pub struct Gate {
    permit: Semaphore,
    spent_ns: Cell<u64>,
}

impl Gate {
    /// An open gate.
    pub fn new() -> Self {
        Self { permit: Semaphore::new(1), spent_ns: Cell::new(0) }
    }

    /// Does `work` when it is this task's turn. Returns the result, and the CPU time that it took.
    pub async fn pass<T>(&self, work: impl FnOnce() -> T) -> (T, u64) {
        // The semaphore is never closed.
        let _permit = self.permit.acquire().await;
        let begin = host::thread_cpu();
        let done = work();
        let cpu_ns = host::thread_cpu().saturating_sub(begin);
        let spent_ns = self.spent_ns.get() + cpu_ns.max(PASS_NS_MIN);
        if spent_ns < SLICE_NS {
            self.spent_ns.set(spent_ns);
        } else {
            self.spent_ns.set(0);
            // A yield would not do: tokio-uring hands its queue to the kernel only before its
            // thread sleeps. This operation completes after that.
            let _ = tokio_uring::no_op().await;
        }
        (done, cpu_ns)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn tasks_pass_in_order_and_others_run_between_them() {
        tokio_uring::start(async {
            let (gate, log) = (Rc::new(Gate::new()), Rc::new(RefCell::new(Vec::new())));
            let task = |name: char| {
                let (gate, log) = (gate.clone(), log.clone());
                async move {
                    for _ in 0..2 {
                        let work = || {
                            let begin = host::thread_cpu();
                            while host::thread_cpu() < begin + SLICE_NS {}
                        };
                        let ((), cpu_ns) = gate.pass(work).await;
                        assert!(cpu_ns < 1_000_000_000, "{cpu_ns}");
                        log.borrow_mut().push(name);
                    }
                }
            };
            let tasks: Vec<_> = ['a', 'b', 'c'].map(|name| tokio_uring::spawn(task(name))).into();
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(log.borrow().iter().collect::<String>(), "abcabc");
        });
    }
}
