//! The commands `completions` and `man` of `exo-ingest` and `exo-load`: scripts for shells and
//! manual pages, both made from the table of flags.

#![forbid(unsafe_code)]

mod completions;
mod pages;

pub use completions::CompletionsArgs;
pub use pages::ManArgs;
