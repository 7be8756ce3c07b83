//! The journal on disk: its format, and the reader of one batch. Neither performs IO.

pub mod batch;
pub mod format;
