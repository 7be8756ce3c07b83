//! From files to calls: where the journal's files are, how they are locked, and what they hold. It
//! writes indexes and erases calls on demand. It never writes audio.

#![forbid(unsafe_code)]

pub mod boot;
pub mod call_table;
pub mod erase;
pub(crate) mod external_sort;
pub(crate) mod first_block;
#[cfg(any(test, feature = "test-doubles"))]
pub mod image;
pub mod index;
pub mod layout;
pub mod lock;
pub mod marks;
pub(crate) mod medium;
pub mod pins;
pub(crate) mod ranges;
pub mod reader;
mod record_search;
pub mod recovery;
pub mod scan;
pub mod seal;
pub mod source;
