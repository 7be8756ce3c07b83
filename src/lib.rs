//! exo-ingest: telephony audio ingest over WebSocket.

pub mod ack;
pub mod auth;
pub mod call;
pub mod cli;
pub mod clock;
pub mod config;
pub mod constants;
pub mod control;
pub mod frame_ring;
pub mod io;
pub mod journal;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod proto;
pub mod session;
pub mod shard;
pub mod tenants;
pub mod transport;
