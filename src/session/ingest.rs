//! The session of a call: start, audio, acks, stop, every timer and refusal after the upgrade.
//!
//! SKELETON.
