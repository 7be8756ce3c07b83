//! The faults of a call. The report counts them by name.

use std::fmt;
use std::time::Duration;

/// The kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// TCP did not connect.
    ConnectFailed,
    /// Connect, TLS, upgrade or `started` took longer than `--setup-timeout`.
    SetupTimeout,
    /// The TLS handshake failed, or a record could not be opened.
    TlsFailed,
    /// An HTTP answer other than 101, with its status.
    Refused(u16),
    /// A 101 that is not a valid WebSocket upgrade, or no HTTP at all.
    UpgradeInvalid,
    /// The first message was not exactly this call's `started`.
    StartedWrong,
    /// A Close before the end of the call, with its code.
    Closed(u16),
    /// The connection ended without a Close.
    Dropped,
    /// A frame that RFC 6455 forbids.
    ProtocolError,
    /// A message that must not come at this point.
    UnexpectedMessage,
    /// An ack whose `seq` is no multiple of ten, or beyond what was sent.
    AckWrong,
    /// A later ack came instead of the expected one.
    AckSkipped,
    /// An ack that had come before.
    AckRepeated,
    /// An ack that came, or was still due, after `--ack-timeout`.
    AckLate,
    /// An ack that never came.
    AckMissing,
    /// `stopped` with wrong numbers, or a Close without it.
    StoppedWrong,
    /// The call's end was not confirmed in time.
    StopTimeout,
    /// The last Close had a code other than 1000.
    CloseWrong,
    /// The run ended while the call was waiting to connect again.
    NotConnected,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Refused(status) => return write!(f, "refused_{status}"),
            Self::Closed(code) => return write!(f, "closed_{code}"),
            Self::ConnectFailed => "connect_failed",
            Self::SetupTimeout => "setup_timeout",
            Self::TlsFailed => "tls_failed",
            Self::UpgradeInvalid => "upgrade_invalid",
            Self::StartedWrong => "started_wrong",
            Self::Dropped => "dropped",
            Self::ProtocolError => "protocol_error",
            Self::UnexpectedMessage => "unexpected_message",
            Self::AckWrong => "ack_wrong",
            Self::AckSkipped => "ack_skipped",
            Self::AckRepeated => "ack_repeated",
            Self::AckLate => "ack_late",
            Self::AckMissing => "ack_missing",
            Self::StoppedWrong => "stopped_wrong",
            Self::StopTimeout => "stop_timeout",
            Self::CloseWrong => "close_wrong",
            Self::NotConnected => "not_connected",
        };
        f.write_str(name)
    }
}

impl Reason {
    /// True for faults that an overloaded generator can cause by itself. They prove nothing if the
    /// generator was too slow.
    pub fn is_timing(self) -> bool {
        matches!(self, Self::SetupTimeout | Self::AckLate | Self::StopTimeout | Self::Closed(4408))
    }

    /// True if connecting again may help: after a network fault, a restart, an overload. False if
    /// the node's refusal is final.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::ConnectFailed | Self::SetupTimeout | Self::Dropped => true,
            Self::Refused(status) => matches!(status, 408 | 429 | 500..=599),
            Self::Closed(code) => matches!(code, 1001 | 1006 | 1011 | 1012 | 1013 | 1014 | 4408),
            _ => false,
        }
    }
}

/// One fault of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its kind.
    pub reason: Reason,
    /// What was expected and what came, in words.
    pub detail: String,
    /// From `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure without a `Retry-After`.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), retry_after: None }
    }
}
