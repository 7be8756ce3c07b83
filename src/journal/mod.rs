//! The journal on disk: its format, its files, and what reads them.

pub mod batch;
pub mod boot;
pub mod format;
pub mod layout;
pub mod lock;
