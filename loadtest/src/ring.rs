//! The runtime of a thread that plays calls: tokio-uring, and with it one io_uring.
//!
//! tokio-uring hands its queue to the kernel when its thread is about to sleep, or when the queue
//! is full. So nothing on such a thread may spin or yield in a loop, and the queue is short: with
//! 64 entries the send lag, which is read just before a frame is queued, is true to within 64
//! sends.

use std::io;

/// Submission queue entries: see the module's head.
const SUBMISSIONS: u32 = 64;

/// Completion queue entries: a read per call may complete at once when a node acks in batches.
const COMPLETIONS: u32 = 32_768;

/// Makes the runtime.
pub fn runtime() -> io::Result<tokio_uring::Runtime> {
    let mut uring = tokio_uring::uring_builder();
    // One thread owns the ring; completions need not interrupt it while it runs.
    uring.setup_cqsize(COMPLETIONS).setup_single_issuer().setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    builder.entries(SUBMISSIONS).uring_builder(&uring);
    tokio_uring::Runtime::new(&builder)
}

/// The message for a thread whose runtime has failed.
pub fn no_ring(error: io::Error) -> String {
    format!(
        "cannot run on io_uring ({error}); check sysctl kernel.io_uring_disabled, the container's \
         seccomp profile and the locked memory limit"
    )
}
