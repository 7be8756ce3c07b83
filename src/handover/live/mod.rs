//! The live sink: a message engine gets events of all calls, and audio of chosen tenants, while
//! the calls go on.
//!
//! ```text
//! journal ──records──► chunker ──messages──► publisher ──► engine ──► reader ──► union ──► a call
//! ```
//! [`message`] has the subjects and headers, for readers in other languages.

#![forbid(unsafe_code)]

pub(crate) mod chunker;
mod credentials;
pub(crate) mod earlier;
pub(crate) mod engine;
pub(crate) mod erase;
pub(crate) mod event;
pub(crate) mod forward;
pub mod message;
mod pipeline;
pub(crate) mod publisher;
pub(crate) mod reader;
mod replicated;
pub(crate) mod safety;
pub(crate) mod shared;
pub(crate) mod ship;
mod subject;
pub mod union;
