//! Plays a script to our record layer and to a rustls server: both must read the same.
//!
//! ```text
//!  script ──► Plan: a stream of records, and how it is cut ──┬──► our record layer ──► Outcome
//!                                                            └──► rustls ──► Verdict
//! ```
//! The script is bytes, so a fuzzer can change it. Everything else is fixed, also the keys, so a
//! script gives the same stream each time. The fuzz target and a normal test use this module.

mod judge;
mod plan;
mod session;

use exo_ingest::tls::{Opened, Place, Records, SpillPool, TlsFailure};
use judge::{Ending, Verdict};
use plan::Plan;
use session::Session;

/// What our record layer returns for a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    data: Vec<u8>,
    is_closed: bool,
    failure: Option<TlsFailure>,
    /// Bytes of a record whose rest has not come. Records in one piece are not counted here.
    waiting: usize,
    /// What it sends then: its answers, a payload, an alert.
    sent: Vec<u8>,
}

/// Plays a script. Panics at any difference.
pub fn play(script: &[u8]) {
    let plan = Plan::read(script);
    let session = Session::of(plan.combination);
    let verdict = judge::judge(session, &plan);
    let stream = &plan.stream[..verdict.size];
    let outcome = open(session, stream, &plan.receive_sizes);
    compare(&outcome, &verdict);
    // A fault that rustls shares with us, or that a difference above allows, still shows here.
    assert_eq!(outcome, open(session, stream, &[usize::MAX]), "receive sizes change the result");
}

fn compare(outcome: &Outcome, verdict: &Verdict) {
    assert!(outcome.data == verdict.data, "payload: {outcome:?}\n{verdict:?}");
    match verdict.ending {
        Ending::Open => assert!(!outcome.is_closed && outcome.failure.is_none(), "{outcome:?}"),
        Ending::Closed => assert!(outcome.is_closed && outcome.failure.is_none(), "{outcome:?}"),
        Ending::Failed(expected) => {
            assert!(!outcome.is_closed && outcome.failure.is_some(), "{outcome:?}\n{verdict:?}");
            if expected.is_some() {
                assert_eq!(outcome.failure, expected);
            }
        }
    }
    if let Some(sent) = &verdict.sent {
        assert_eq!(&outcome.sent, sent, "what is sent: {:?}", verdict.ending);
    }
}

/// Opens a stream that comes in pieces; their sizes are used in turn.
fn open(session: &Session, stream: &[u8], sizes: &[usize]) -> Outcome {
    let (mut records, mut spills) = (Records::new(session.keys, Vec::new()), SpillPool::new(1));
    let mut outcome = Outcome::default();
    let (mut rest, mut sizes) = (stream, sizes.iter().cycle());
    while !rest.is_empty() {
        let size = sizes.next().expect("there is at least one size");
        let (piece, later) = rest.split_at(rest.len().min(*size));
        open_piece(&mut records, &mut spills, &mut piece.to_vec(), &mut outcome);
        rest = later;
    }
    assert_eq!(spills.used(), usize::from(records.waiting_size() > 0), "spill buffers");
    outcome.waiting = records.waiting_size();
    outcome.sent = send(&mut records);
    records.give_up(&mut spills);
    assert_eq!(spills.used(), 0, "spill buffers");
    outcome
}

fn open_piece(
    records: &mut Records,
    spills: &mut SpillPool,
    chunk: &mut [u8],
    outcome: &mut Outcome,
) {
    let mut at = 0;
    loop {
        let opened = records.open(chunk, &mut at, spills, true);
        let is_over = outcome.is_closed || outcome.failure.is_some();
        assert!(!is_over || opened == Ok(None), "{opened:?} after the end");
        match opened {
            Ok(None) => return,
            Ok(Some(Opened::Closed)) => outcome.is_closed = true,
            Ok(Some(Opened::Data(Place::Chunk(range)))) => {
                assert!(!range.is_empty() && range.end <= at);
                outcome.data.extend_from_slice(&chunk[range]);
            }
            Ok(Some(Opened::Data(Place::Spill(spill, range)))) => {
                assert!(!range.is_empty());
                outcome.data.extend_from_slice(&spills.bytes(&spill)[range]);
                spills.release(spill);
            }
            Err(failure) => outcome.failure = Some(failure),
        }
    }
}

/// What we send after a stream: answers that are due, a payload, `close_notify`; or an alert.
fn send(records: &mut Records) -> Vec<u8> {
    let mut sent = Vec::new();
    let mut out = [0; 128];
    let size = records.seal_own(&mut out);
    sent.extend_from_slice(&out[..size]);
    if records.takes_payload() {
        let front = records.front_size();
        out[front..][..judge::REPLY.len()].copy_from_slice(judge::REPLY);
        let size = records.seal(&mut out, judge::REPLY.len());
        sent.extend_from_slice(&out[..size]);
    }
    records.close();
    let size = records.seal_own(&mut out);
    sent.extend_from_slice(&out[..size]);
    sent
}
