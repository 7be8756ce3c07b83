//! A node closes every descriptor that it opened: after many connections, and after its end.
//!
//! The test counts the descriptors of its process, so it runs in a process of its own.

use exo_ingest::io::probe::KernelFeatures;
use exo_ingest_harness::{
    Peer, TENANT, TestNode, eventually, in_own_process, on_both_kernels, wire,
};
use std::time::Duration;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("a Linux").count()
}

#[test]
fn none_is_left_after_churn_and_after_a_drain() {
    let path = concat!(module_path!(), "::none_is_left_after_churn_and_after_a_drain");
    in_own_process(path, || on_both_kernels(check));
}

fn check(features: KernelFeatures) {
    let before = open_files();
    let node = TestNode::start(features, |setup| {
        setup.shards = 2;
        setup.limits.close_timeout = Duration::from_millis(200);
    });
    let serving = open_files();
    for number in 0..60 {
        let mut peer = node.call_as(TENANT, &number.to_string());
        match number % 4 {
            0 => peer.send(&wire::text(r#"{"event":"stop"}"#)),
            1 => peer.send(&wire::text("not JSON")),
            2 => peer.reset(),
            _ => drop(node.connect().try_send(b"GET /health HTTP/1.1\r\n\r\n")),
        }
    }
    node.await_no_connections();
    eventually("the sockets of churn are closed", || open_files() == serving);
    // Connections in each state, open when the node ends.
    let mut refused = node.upgrade_as(TENANT, "refused");
    refused.send(&wire::text("not JSON"));
    let peers: Vec<Peer> =
        (0..20).map(|number| node.call_as(TENANT, &number.to_string())).collect();
    let connections = [node.connect(), node.upgrade_as(TENANT, "no start"), refused];
    node.finish(Duration::from_millis(50)).expect("a clean end");
    drop((peers, connections));
    eventually("everything is closed", || open_files() <= before);
}
