//! The journal on disk: its format.
