//! The repository itself: layers, dependencies, documents.

#![forbid(unsafe_code)]

mod circles;
mod dependencies;
mod doc_examples;
mod doc_links;
mod doc_references;
mod layering;
mod package;
mod plain_english;

/// The program under test.
const EXO_INGEST: &str = env!("CARGO_BIN_EXE_exo-ingest");
