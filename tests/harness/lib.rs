//! What the tests on real sockets share: a [`TestNode`] with a real ring in this process, or a [`NodeProcess`] on a
//! [`LoopDisk`], tokens for it, and a [`Peer`] that
//! sends bytes and reads frames, with nothing of the node's own codec in it.
//!
//! Every wait here has the same generous bound, [`PATIENCE`]: a test that is slow on a busy machine is slow, and fails only
//! where nothing comes at all.
#![deny(unsafe_code)]

mod admin;
// The ioctls that cut a filesystem off and freeze it have no safe wrapper anywhere.
#[allow(unsafe_code)]
mod loop_disk;
mod node;
mod peer;
mod player;
mod process;
mod token;
pub mod wire;

pub use admin::{Admin, Exposition};
pub use loop_disk::{Cut, Frozen, LoopDisk, fill};
pub use node::{Setup, TestNode};
pub use peer::{Message, Peer, Response};
pub use player::{Audit, Played, Player, assert_sound, audio, audit};
pub use process::NodeProcess;
pub use token::{INTERACTION, Keys, TENANT, mint, now_secs, sign};

use exo_ingest::io::probe::KernelFeatures;
use std::time::{Duration, Instant};

/// Longest wait for anything that has to come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long nothing has to come for a test to believe that nothing will. Too short a time can only let a fault pass on a
/// slow machine, never fail a good node.
pub const SILENCE: Duration = Duration::from_millis(150);

/// Runs a test on the newest paths of this kernel, then on those of Linux 6.1.
pub fn on_both_kernels(test: impl Fn(KernelFeatures)) {
    for features in [KernelFeatures::Newest, KernelFeatures::V6_1] {
        println!("kernel features: {features:?}");
        test(features);
    }
}

/// Waits until `holds`; panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "it did not happen: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
