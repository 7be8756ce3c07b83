//! The journal on disk: its format, its files, and what reads them.

#![forbid(unsafe_code)]

pub mod batch;
pub mod boot;
pub mod erase;
pub mod format;
pub mod image;
pub mod index;
pub mod layout;
pub mod lock;
pub mod ranges;
pub mod reader;
pub mod recovery;
mod salvage;
pub mod scan;
pub mod source;
pub mod writer;
