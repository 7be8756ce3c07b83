//! The web page of the admin listener: its headers, and the page itself in headless Chromium, where
//! that is installed. `tests/clients/node/page.mjs` looks at it.

use crate::EXO_INGEST;
use exo_ingest_harness::{NodeProcess, Peer, TENANT, mint, wire};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// An id that would be code if the page took it for HTML.
const CODE: &str = "<img src=x onerror=alert(1)>";

#[test]
fn a_browser_may_run_this_script_and_ask_this_node_only() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &[]);
    let page = node.admin().request("GET", "/");
    assert_eq!((page.status, page.field("x-content-type-options")), (200, Some("nosniff")));
    assert_eq!(page.field("referrer-policy"), Some("no-referrer"));
    let policy = page.field("content-security-policy").expect("a policy");
    for part in ["default-src 'none'", "script-src 'sha256-", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(page.body.starts_with("<!doctype html>"), "{}", &page.body[..100]);
}

/// Where Chromium is, by the names that it has.
fn chromium() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    })
}

#[test]
fn the_page_shows_what_the_node_says_in_a_browser() {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/node");
    let chromium = chromium().filter(|_| clients.join("node_modules/ws").exists());
    let Some(chromium) = chromium else {
        let words = "Chromium or the ws package is not installed: see tests/clients/install.sh";
        assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "{words}");
        return println!("skipped: {words}");
    };
    let (data_dir, shots) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = ["--set", "limits.calls_per_tenant_max=4"];
    let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &options);
    let mut peers: Vec<_> = (0..3).map(|number| node.call(&format!("call-{number}"))).collect();
    let _silent = node.call(CODE);
    let mut refused = Peer::connect(node.address());
    refused.send(wire::upgrade_request(&mint(TENANT, "one too many")).as_bytes());
    assert_eq!(refused.response().status, 429);
    let url = format!("http://{}/", node.admin().address());
    let is_done = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            for seq in (10..).step_by(10).take_while(|_| !is_done.load(Ordering::Relaxed)) {
                for peer in &mut peers {
                    peer.send_frames(10, 9_600);
                    peer.expect_ack(seq);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let mut command = Command::new("node");
        command.arg(clients.join("page.mjs")).args([chromium, &url]).arg(shots.path());
        let output = command.arg(format!("{TENANT}/{CODE}")).output();
        is_done.store(true, Ordering::Relaxed);
        output.expect("node is installed where its packages are")
    });
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.lines().count() == 5, "{said}{errors}");
    assert_eq!(std::fs::read_dir(shots.path()).unwrap().count(), 6);
}
