//! What an ACK promises.

#![forbid(unsafe_code)]

/// What an acked frame survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckLevel {
    /// Power loss.
    Durable,
    /// A crash of the process.
    Written,
    /// Only a network failure.
    Received,
}

impl AckLevel {
    /// The name in settings.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            AckLevel::Durable => "durable",
            AckLevel::Written => "written",
            AckLevel::Received => "received",
        }
    }
}
