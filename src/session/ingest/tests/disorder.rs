//! Any methods in any order: the peer sees everything in order, each call ends once, and every
//! session ends.

#![forbid(unsafe_code)]

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Verb {
    Text(&'static str),
    /// A text in two pieces.
    CutText(&'static str),
    /// This many frames of one size.
    Audio(u8, u8),
    /// The start of a frame; its last piece completes it only if that comes next.
    AudioPiece(bool),
    Ping,
    PeerClose(Option<u16>),
    Violation,
    Notice(Notice),
    /// Answers the oldest open question.
    Promise,
    Reading(bool),
    Output(Output),
    Disconnect(Disconnect),
    Pass(u16),
    /// Takes what is owed, in buffers of the smallest size.
    Transmit,
}

fn verbs() -> impl Strategy<Value = Vec<Verb>> {
    let texts =
        || prop::sample::select(vec![START, START, START, STOP, r#"{"event":"mark"}"#, "?"]);
    let outputs = prop::sample::select(vec![Output::Blocked, Output::Progressed, Output::Drained]);
    let notices = prop::sample::select(vec![
        Notice::Superseded,
        Notice::Draining,
        Notice::Storage,
        Notice::Engine,
    ]);
    let disconnects = prop::sample::select(vec![Disconnect::Finished, Disconnect::Reset]);
    let verb = prop_oneof![
        4 => texts().prop_map(Verb::Text),
        2 => texts().prop_map(Verb::CutText),
        12 => (0..30u8, 0..5u8).prop_map(|(count, size)| Verb::Audio(count, size)),
        4 => any::<bool>().prop_map(Verb::AudioPiece),
        2 => Just(Verb::Ping),
        1 => prop::sample::select(vec![None, Some(1000), Some(4000)]).prop_map(Verb::PeerClose),
        1 => Just(Verb::Violation),
        1 => notices.prop_map(Verb::Notice),
        12 => Just(Verb::Promise),
        3 => any::<bool>().prop_map(Verb::Reading),
        3 => outputs.prop_map(Verb::Output),
        1 => disconnects.prop_map(Verb::Disconnect),
        6 => (0..1000u16).prop_map(Verb::Pass),
        12 => Just(Verb::Transmit),
    ];
    // Most calls start; otherwise most steps would reach a closed session.
    (any::<bool>(), prop::collection::vec(verb, 1..60)).prop_map(|(starts, mut verbs)| {
        if starts {
            verbs.insert(0, Verb::Text(START));
        }
        verbs
    })
}

/// A session under such steps. The shard keeps its part of the contract, and the peer does not.
struct Disorder {
    call: Harness,
    answered: usize,
    /// Inside a message of several pieces: bytes so far.
    mid_frame: Option<usize>,
    sent: Vec<u8>,
}

impl Disorder {
    fn apply(&mut self, verb: &Verb) {
        match *verb {
            Verb::Text(text) => self.data(MessageKind::Text, true, true, 0, text.as_bytes()),
            Verb::CutText(text) => {
                let (head, rest) = text.as_bytes().split_at(text.len() / 2);
                self.data(MessageKind::Text, true, false, 0, head);
                self.data(MessageKind::Text, false, true, head.len(), rest);
            }
            Verb::Audio(count, size) => {
                (0..count).for_each(|_| {
                    self.data(MessageKind::Binary, true, true, 0, &vec![1; usize::from(size)])
                });
            }
            Verb::AudioPiece(last) => {
                let offset = self.mid_frame.unwrap_or(0);
                let first = self.mid_frame.is_none();
                self.data(MessageKind::Binary, first, last, offset, &[1, 2, 3]);
                self.mid_frame = (!last).then_some(offset + 3);
            }
            Verb::Ping => self.call.step_without_output(|session, now, context| {
                session.handle_control(now, Control::Ping(b"ping"), context);
            }),
            Verb::PeerClose(code) => self.call.step_without_output(|session, now, context| {
                session.handle_control(now, Control::Close { code, reason: "" }, context);
            }),
            Verb::Violation => self.call.step_without_output(|session, now, context| {
                session.handle_violation(now, Violation::Protocol("bad opcode"), context);
            }),
            Verb::Notice(notice) => {
                self.call.step_without_output(|session, now, context| {
                    session.handle_notice(now, notice, context)
                });
            }
            Verb::Promise => self.promise(),
            Verb::Reading(reading) => self.call.reading(reading),
            Verb::Output(output) => self.call.output(output),
            Verb::Disconnect(disconnect) => {
                self.call.step_without_output(|session, now, context| {
                    session.handle_disconnect(now, disconnect, context)
                });
            }
            Verb::Pass(count) => {
                let sent = self.call.pass(millis(count.into()));
                self.sent.extend(sent);
            }
            Verb::Transmit => {
                let sent = self.call.transmit();
                self.sent.extend(sent);
            }
        }
    }

    fn data(&mut self, kind: MessageKind, first: bool, last: bool, offset: usize, bytes: &[u8]) {
        // A decoder never returns a message within another.
        if self.mid_frame.is_some() && (first || kind == MessageKind::Text) {
            return;
        }
        let mut payload = bytes.to_vec();
        let key = KEY.advanced(offset);
        key.apply(&mut payload);
        self.call.step_without_output(|session, now, context| {
            session.handle_data(
                now,
                DataPiece { kind, first, last, offset, fragments: 1, payload: &mut payload, key },
                context,
            );
        });
    }

    fn promise(&mut self) {
        if let Some(&seq) = self.call.questions.get(self.answered) {
            self.answered += 1;
            self.call.step_without_output(|session, now, context| {
                session.handle_promise(now, Seq(seq), AckLevel::Received, context);
            });
        }
    }

    /// What the peer saw: whole frames, `started` first, acks in order, nothing after a Close.
    fn check_sent(&self) {
        let (mut rest, mut acked, mut started, mut closed) = (&self.sent[..], 0, false, false);
        while let [first, second, after @ ..] = rest {
            assert!(!closed, "nothing is sent after a Close");
            let (size, after) = match (*second, after) {
                (126, [high, low, after @ ..]) => {
                    (usize::from(u16::from_be_bytes([*high, *low])), after)
                }
                (size, after) => (usize::from(size), after),
            };
            let (payload, next) = after.split_at(size);
            match first {
                0x81 if payload.starts_with(b"{\"event\":\"ack\"") => {
                    acked += 10;
                    assert_eq!(payload, format!(r#"{{"event":"ack","seq":{acked}}}"#).as_bytes());
                    assert!(started, "no ack before started");
                }
                0x81 if payload == STARTED.as_bytes() => started = true,
                0x81 => {
                    assert!(
                        payload.starts_with(b"{\"event\":\"error\"")
                            || payload.starts_with(b"{\"event\":\"stopped\"")
                    )
                }
                0x88 => closed = true,
                0x89 | 0x8A => {}
                other => panic!("opcode {other:#x}"),
            }
            rest = next;
        }
        assert!(rest.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn order_comes_out_of_disorder(verbs in verbs()) {
        let mut call = Harness::new();
        call.promises_at_once = false;
        call.out_size = 256;
        let mut disorder = Disorder { call, answered: 0, mid_frame: None, sent: Vec::new() };
        for verb in &verbs {
            disorder.apply(verb);
        }
        // If the peer stays silent and reads, every session ends: by its timers, or by the answers
        // that it waits for.
        disorder.apply(&Verb::Reading(true));
        disorder.apply(&Verb::Pass(10_000));
        while disorder.answered < disorder.call.questions.len() {
            disorder.apply(&Verb::Promise);
        }
        disorder.apply(&Verb::Transmit);
        disorder.check_sent();
        let call = &mut disorder.call;
        call.assert_finished();
        let ended = call.counters.calls_started.read();
        prop_assert_eq!(call.counters.calls_ended.read(), ended);
        prop_assert_eq!(call.actions.len() as u64, 2 * ended);
        let records = call.records();
        let ends = records.iter().filter(|(header, _)| header.kind == RecordKind::End).count();
        prop_assert_eq!(ends as u64, ended);
        let complete = records
            .iter()
            .filter(|(header, _)| header.kind == RecordKind::Audio && header.last)
            .count();
        prop_assert_eq!(complete as u64, call.counters.frames.read());
    }
}
