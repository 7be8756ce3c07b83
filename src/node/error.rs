//! Why a node does not start, or ends.
#![forbid(unsafe_code)]

use crate::io::probe::HostError;
use crate::store::StoreError;
use std::fmt;
use std::net::SocketAddr;

/// Why a node did not start.
#[derive(Debug)]
pub enum StartError {
    /// The host does not meet a requirement.
    Host(HostError),
    /// The journal cannot be stored in its directory.
    Journal(StoreError),
    /// It is not possible to listen on the address.
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the kernel.
        error: std::io::Error,
    },
    /// The CPU of a shard does not exist, or is not allowed.
    Cpu {
        /// The CPU.
        cpu: usize,
        /// The CPUs that this process may use.
        allowed: Vec<usize>,
    },
    /// The passed socket cannot be used.
    Passed(std::io::Error),
    /// A thread or a descriptor could not be created.
    System {
        /// The step that failed.
        step: &'static str,
        /// The error of the kernel.
        error: std::io::Error,
    },
}

impl From<HostError> for StartError {
    fn from(error: HostError) -> Self {
        StartError::Host(error)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Host(error) => error.fmt(f),
            StartError::Journal(error) => error.fmt(f),
            StartError::Listen { address, error } => match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    write!(
                        f,
                        "{address} is in use by another program: stop it, or choose another \
                         address with --listen"
                    )
                }
                std::io::ErrorKind::PermissionDenied => write!(
                    f,
                    "not allowed to listen on {address}: choose a port above 1023 with --listen, \
                     or grant CAP_NET_BIND_SERVICE"
                ),
                std::io::ErrorKind::AddrNotAvailable => {
                    write!(
                        f,
                        "{address} is not an address of this host: choose one of its addresses \
                         with --listen"
                    )
                }
                _ => write!(f, "cannot listen on {address}: {error}"),
            },
            StartError::Passed(error) => write!(
                f,
                "the socket that was passed cannot be used ({error}): pass one listening TCP \
                 socket (ListenStream= of the .socket unit, with Accept=no)"
            ),
            StartError::Cpu { cpu, allowed } => {
                write!(
                    f,
                    "CPU {cpu} cannot be used by this process: choose with --cpus among {allowed:?}"
                )
            }
            StartError::System { step, error } => write!(f, "{step} failed: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl StartError {
    /// Whether a retry may succeed, although no setting is changed and the same socket is passed.
    pub fn may_pass(&self) -> bool {
        !matches!(self, StartError::Passed(_))
    }
}

/// Why a node ended without a drain.
#[derive(Debug)]
pub enum NodeError {
    /// The ring of a shard became unusable.
    Shard {
        /// The shard.
        index: usize,
        /// The error of the kernel.
        error: std::io::Error,
    },
    /// A shard broke one of its invariants.
    Panicked {
        /// The shard.
        index: usize,
    },
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodeError::Shard { index, error } => write!(f, "shard {index} failed: {error}"),
            NodeError::Panicked { index } => {
                write!(f, "shard {index} broke an invariant: see its message above")
            }
        }
    }
}

impl std::error::Error for NodeError {}
