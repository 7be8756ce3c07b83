//! From files to calls: where the journal's files are, how they are locked, and what they hold. It
//! writes indexes and erases calls on demand. It never writes audio.

#![forbid(unsafe_code)]

pub mod boot;
pub mod erase;
#[cfg(any(test, feature = "test-doubles"))]
pub mod image;
pub mod index;
pub mod layout;
pub mod lock;
pub mod marks;
pub(crate) mod ranges;
pub mod reader;
mod record_search;
pub mod recovery;
pub mod scan;
pub(crate) mod source;
