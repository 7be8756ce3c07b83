//! What tests on real sockets share. A [`TestNode`] runs in this process with a real ring; a
//! [`NodeProcess`] is a process, perhaps on a [`LoopDisk`]. A [`Peer`] sends bytes and reads frames
//! without the node's own codec.
//!
//! Every wait has the same generous limit, [`PATIENCE`]. On a busy machine a test is slow, and
//! fails only if nothing comes at all.
#![deny(unsafe_code)]

mod admin;
mod bad_disk;
pub mod certificates;
mod example;
// The ioctls that cut off and freeze a filesystem have no safe wrapper.
#[allow(unsafe_code)]
mod loop_disk;
mod machine;
mod manual;
mod many_segments;
mod nats;
mod node;
mod peer;
mod player;
mod process;
pub mod tls;
mod token;
pub mod wire;

pub use admin::{Admin, Exposition};
pub use bad_disk::BadDisk;
pub use example::build_example;
pub use loop_disk::{Cut, Frozen, LoopDisk, fill};
pub use machine::{heavy_test, in_own_process, timed_test};
pub use manual::Documented;
pub use many_segments::many_segments;
pub use nats::NatsCluster;
pub use node::{Setup, TestNode};
pub use peer::{Message, Peer, Response};
pub use player::{Audit, Played, Player, assert_sound, audio, audit};
pub use process::NodeProcess;
pub use token::{INTERACTION, Keys, TENANT, mint, now_secs, sign};

use exo_ingest::io::probe::KernelFeatures;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for anything that must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A test that expects nothing waits for this long. If it is too short, a test can miss a fault on
/// a slow machine, but cannot fail a good node.
pub const SILENCE: Duration = Duration::from_millis(150);

/// Both settings of `--kernel-features`.
pub const KERNEL_PATHS: [&str; 2] = ["newest", "6.1"];

/// Runs a test with the newest features of this kernel, then with those of Linux 6.1.
pub fn on_both_kernels(test: impl Fn(KernelFeatures)) {
    for features in [KernelFeatures::Newest, KernelFeatures::V6_1] {
        println!("kernel features: {features:?}");
        test(features);
    }
}

/// Whether a program is installed. If not, this prints that its part is left out.
pub fn is_installed(program: &str) -> bool {
    let mut find = std::process::Command::new("/bin/sh");
    let found = find.args(["-c", "command -v \"$0\"", program]).output();
    let is_there = found.is_ok_and(|output| output.status.success());
    if !is_there {
        println!("left out, {program} is not installed");
    }
    is_there
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

/// Sets a flag when it is dropped, on a panic too. The end of a scope waits for its threads. If
/// they wait for a flag that is set only after the assertions, then one that fails makes the test
/// hang.
#[derive(Debug)]
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
