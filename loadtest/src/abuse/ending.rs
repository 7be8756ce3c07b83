//! How the connection of a hostile peer ended.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// An HTTP answer other than 101.
    Status(u16),
    /// The node's Close, with its code.
    Close(u16),
    /// A TLS alert.
    Alert(u8),
    /// The node ended the stream without a message.
    Fin,
    /// The node reset the connection, or refused what was sent.
    Reset,
    /// It was still open long after its time.
    NotClosed,
    /// TCP did not connect, for a reason of the node or the network.
    NotConnected,
    /// This machine had no port or descriptor for it.
    NoRoom,
    /// The peer reset it, as planned.
    OwnReset,
    /// Something else, in words.
    Odd(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status_{status}"),
            Self::Close(code) => write!(f, "close_{code}"),
            Self::Alert(alert) => write!(f, "alert_{alert}"),
            Self::Fin => f.write_str("fin"),
            Self::Reset => f.write_str("reset"),
            Self::NotClosed => f.write_str("not_closed"),
            Self::NotConnected => f.write_str("not_connected"),
            Self::NoRoom => f.write_str("no_room_here"),
            Self::OwnReset => f.write_str("own_reset"),
            Self::Odd(_) => f.write_str("odd"),
        }
    }
}

impl Ending {
    /// The ending that a failed operation on a connected socket means.
    pub fn of_io(error: &io::Error) -> Self {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof,
        };
        let tls = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = tls {
            return Self::Alert(u8::from(*alert));
        }
        match error.kind() {
            ConnectionReset | BrokenPipe | ConnectionAborted | NotConnected => Self::Reset,
            UnexpectedEof => Self::Fin,
            _ => Self::Odd(error.to_string()),
        }
    }

    /// The ending that a failed connect means.
    pub fn of_connect(error: &io::Error) -> Self {
        use rustix::io::Errno;
        let ours = [Errno::ADDRNOTAVAIL, Errno::MFILE, Errno::NFILE, Errno::NOBUFS];
        let is_ours = error
            .raw_os_error()
            .is_some_and(|code| ours.iter().any(|errno| errno.raw_os_error() == code));
        if is_ours { Self::NoRoom } else { Self::NotConnected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_inside_tls_is_told_by_its_number() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::UnexpectedMessage);
        assert_eq!(Ending::of_io(&io::Error::other(alert)), Ending::Alert(10));
        assert_eq!(Ending::of_io(&io::ErrorKind::BrokenPipe.into()), Ending::Reset);
        assert!(matches!(Ending::of_io(&io::Error::other("x")), Ending::Odd(_)));
    }

    #[test]
    fn want_of_ports_is_no_fault_of_the_node() {
        let of = |errno: rustix::io::Errno| {
            Ending::of_connect(&io::Error::from_raw_os_error(errno.raw_os_error()))
        };
        assert_eq!(of(rustix::io::Errno::ADDRNOTAVAIL), Ending::NoRoom);
        assert_eq!(of(rustix::io::Errno::MFILE), Ending::NoRoom);
        assert_eq!(of(rustix::io::Errno::CONNREFUSED), Ending::NotConnected);
    }
}
