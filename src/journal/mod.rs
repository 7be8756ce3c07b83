//! The journal on disk: its format, its files, and what reads them.

pub mod batch;
pub mod boot;
pub mod format;
pub mod image;
pub mod layout;
pub mod lock;
mod salvage;
pub mod scan;
pub mod source;
