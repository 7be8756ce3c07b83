//! Two commands that erase calls of the same slices at the same time.

use crate::erase::delete;
use crate::journal::{CALLS, Journal, archive, run, slices};
use crate::object_store::{URL, read, ship, with};
use crate::proxy::{Mode, Proxy};
use crate::seaweed::Seaweed;
use exo_ingest_harness::eventually;
use std::process::Stdio;

/// Each reads a slice and replaces it by one without its own call. Without a condition the later
/// one would bring the audio of the other one's call back.
#[test]
fn two_that_erase_at_once_do_not_bring_each_others_calls_back() {
    let Some(server) = Seaweed::start() else { return };
    let journal = Journal::new(2);
    run(&mut ship(&server, &journal, &[]), 0);
    let proxy = Proxy::start(server.port(), Mode::HoldPuts);
    let mut slow = archive(URL, &["delete", CALLS[0], "--json"]);
    let slow = with(proxy.port(), &mut slow).stdout(Stdio::piped()).spawn().unwrap();
    eventually("a slice is about to be replaced", || proxy.hits() > 0);
    run(&mut read(&server, &["delete", CALLS[1]]), 0);
    proxy.set(Mode::Pass);
    assert!(slow.wait_with_output().unwrap().status.success());
    for call in &CALLS[..2] {
        run(&mut delete(&journal.data(), call), 0);
    }
    let (expected, cursor) = (journal.beside("expected"), journal.beside("expected.cursor"));
    let url = format!("file://{}", expected.display());
    run(&mut journal.ship(&url, &["--cursor", cursor.to_str().unwrap()]), 0);
    assert!(!slices(&expected).is_empty());
    for path in slices(&expected) {
        let name = path.strip_prefix(&expected).unwrap().to_str().unwrap();
        let there = server.file(&format!("/buckets/recordings/exo/{name}"));
        assert!(there.ends_with(&std::fs::read(&path).unwrap()), "{name}");
    }
    let left = run(&mut read(&server, &["export", CALLS[2], "-o", "-"]), 0).stdout;
    assert!(left == journal.wav(CALLS[2]));
}
