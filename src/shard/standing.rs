//! Whether a connection may have to give way: a part of its state. [`places`](super::places)
//! decides which one does.
#![forbid(unsafe_code)]

/// Whether a connection may have to give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its request is not complete.
    Incomplete,
    /// It was answered, and has not ended its side.
    Lingering,
    /// It does not: its request is complete, or its answer on its way out.
    Settled,
    /// It gives way: nothing is waited for once its answer has gone out.
    Leaving,
}
