//! The session, driven by its methods one step at a time. Limits are tiny, and only the test moves
//! the clock.

#![forbid(unsafe_code)]

mod audio;
mod closes;
mod disorder;
mod ends;
mod floods;
mod records;
mod refusals;
mod starts;
mod timers;

use super::*;
use crate::address::PeerAddress;
use crate::call::EpochSource;
use crate::clock::UnixMicros;
use crate::constants::CONTROL_PAYLOAD_SIZE_MAX;
use crate::format::batch::BatchReader;
use crate::format::{EndRecord, Lsn, RecordHeader, RecordKind, SegmentUuid, Unsynced};
use crate::io::memory::Region;
use crate::journal::frame_ring::{FrameRing, SealedBatch};
use crate::limits::Limits;
use crate::metrics::Counters;
use crate::proto::MaskKey;
use crate::proto::mask::Kernel;
use crate::tenants::{TenantIndex, TenantUse, Tenants};

const START: &str = concat!(
    r#"{"event":"start","interaction_id":"call-123","tenant_id":"tenant-abc","#,
    r#""sample_rate":24000,"encoding":"pcm16"}"#
);
const STARTED: &str = r#"{"event":"started","interaction_id":"call-123"}"#;
const STOP: &str = r#"{"event":"stop"}"#;
const KEY: MaskKey = MaskKey([0x11, 0x22, 0x33, 0x44]);
const EPOCH_OF_UNIX: u64 = 1_800_000_000;
const NANO: Duration = Duration::from_nanos(1);

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A frame of ours as the peer sees it.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match u16::try_from(payload.len()).expect("a test's frame is small") {
        size @ 0..=125 => frame.push(size as u8),
        size => {
            frame.push(126);
            frame.extend_from_slice(&size.to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

fn text(text: &str) -> Vec<u8> {
    frame(0x1, text.as_bytes())
}

fn ack(seq: u64) -> Vec<u8> {
    text(&format!(r#"{{"event":"ack","seq":{seq}}}"#))
}

fn stopped(seq: u64, bytes: u64, duration_ms: u64, durable_seq: &str) -> Vec<u8> {
    let numbers = format!(
        r#""seq":{seq},"bytes":{bytes},"duration_ms":{duration_ms},"durable_seq":{durable_seq},"#
    ) + r#""level":"received""#;
    text(&format!(r#"{{"event":"stopped","interaction_id":"call-123",{numbers}}}"#))
}

fn close(code: u16, reason: &str) -> Vec<u8> {
    frame(0x8, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

/// The error event and the Close of a refusal, with the text `message`.
fn refusal(code: u16, reason: &str, message: &str, retryable: bool) -> Vec<u8> {
    let event_code = if code >= 4000 { code - 4000 } else { code };
    let event = format!(
        "{{\"event\":\"error\",\"code\":{event_code},\"reason\":\"{reason}\",\
         \"message\":\"{message}\",\"retryable\":{retryable}}}"
    );
    [text(&event), close(code, reason)].concat()
}

/// Like [`refusal`], with the usual message of `closing`.
fn refusal_of(closing: Closing) -> Vec<u8> {
    refusal(closing.code(), closing.reason(), closing.message(), closing.is_retryable())
}

/// A message in one piece.
fn whole(kind: MessageKind, payload: &mut [u8]) -> DataPiece<'_> {
    DataPiece { kind, first: true, last: true, offset: 0, fragments: 1, payload, key: KEY }
}

/// A session, and everything that a shard lends it.
struct Harness {
    session: IngestSession,
    ring: FrameRing,
    epochs: EpochSource,
    counters: Counters,
    shared: Arc<IngestShared>,
    tenants: Arc<Tenants>,
    now: Now,
    peer: Option<PeerAddress>,
    actions: Vec<Action>,
    questions: Vec<u64>,
    /// Everything in the ring; nothing is released.
    batches: Vec<SealedBatch>,
    /// Size of the buffers for output.
    out_size: usize,
    /// Each question is answered at once, as at level `received`.
    promises_at_once: bool,
}

impl Harness {
    fn new() -> Self {
        Harness::with(|_| {})
    }

    /// Applies `change` to the tiny settings.
    fn with(change: impl FnOnce(&mut IngestSettings)) -> Self {
        let mut settings = IngestSettings::new(Limits::tiny());
        change(&mut settings);
        let now = Now {
            moment: Moment::from_nanos(77_000_000_000),
            unix: UnixMicros(EPOCH_OF_UNIX * 1_000_000),
        };
        let tenants = Tenants::new(settings.limits.calls_max, None);
        let identity = CallIdentity { tenant: "tenant-abc".into(), interaction: "call-123".into() };
        let claims = Claims {
            identity,
            issued_at: EPOCH_OF_UNIX - 60,
            expires_at: EPOCH_OF_UNIX + 1,
            allowed_tenants: Default::default(),
        };
        let permit = tenants.admit(&claims.identity.tenant).expect("there is no quota");
        let memory = Region::allocate(settings.limits.ring_size).expect("a test gets its memory");
        let shared = IngestShared::new(Arc::new(settings));
        Harness {
            session: IngestSession::new(now, claims, permit, Arc::clone(&shared)),
            ring: FrameRing::new(memory, Kernel::Plain),
            epochs: EpochSource::new(3, 1),
            counters: Counters::default(),
            shared,
            tenants,
            now,
            peer: PeerAddress::parse(b"[2001:db8::1]:4000"),
            actions: Vec::new(),
            questions: Vec::new(),
            batches: Vec::new(),
            out_size: 4096,
            promises_at_once: true,
        }
    }

    /// A session whose `start` was answered.
    fn live() -> Self {
        Harness::live_with(|_| {})
    }

    fn live_with(change: impl FnOnce(&mut IngestSettings)) -> Self {
        let mut harness = Harness::with(change);
        assert_eq!(harness.text(START), text(STARTED));
        harness
    }

    /// A live call that has sent `count` frames. What it asks for is not promised yet.
    fn owing(count: usize) -> Self {
        let mut harness = Harness::live();
        harness.promises_at_once = false;
        harness.frames(count, 2);
        harness
    }

    /// Calls one method, then drains everything; returns the output.
    fn step(&mut self, verb: impl FnOnce(&mut IngestSession, Now, &mut Context<'_>)) -> Vec<u8> {
        self.step_without_output(verb);
        self.transmit()
    }

    fn step_without_output(
        &mut self,
        verb: impl FnOnce(&mut IngestSession, Now, &mut Context<'_>),
    ) {
        let (ring, epochs, counters) = (&mut self.ring, &mut self.epochs, &self.counters);
        let mut context = Context { ring, epochs, counters, peer: self.peer };
        verb(&mut self.session, self.now, &mut context);
        while let Some(action) = self.session.poll_action() {
            self.actions.push(action);
        }
        while let Some(seq) = self.session.poll_promise() {
            self.questions.push(seq.0);
            if self.promises_at_once {
                let level = AckLevel::Received;
                self.session.handle_promise(self.now, seq, level, &mut context);
            }
        }
        assert!(!self.session.is_finished() || self.session.poll_timeout().is_none());
    }

    fn transmit(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut out = vec![0; self.out_size];
        loop {
            let size = self.session.poll_transmit(self.now, &mut out);
            if size == 0 {
                return all;
            }
            all.extend_from_slice(&out[..size]);
        }
    }

    fn piece(
        &mut self,
        kind: MessageKind,
        first: bool,
        last: bool,
        offset: usize,
        bytes: &[u8],
    ) -> Vec<u8> {
        self.fragment(kind, first, last, offset, 1, bytes)
    }

    /// Like [`Harness::piece`], for a message that has had `fragments` fragments so far.
    fn fragment(
        &mut self,
        kind: MessageKind,
        first: bool,
        last: bool,
        offset: usize,
        fragments: u32,
        bytes: &[u8],
    ) -> Vec<u8> {
        let mut payload = bytes.to_vec();
        let key = KEY.advanced(offset);
        key.apply(&mut payload);
        self.step(|session, now, context| {
            let payload = &mut payload[..];
            session.handle_data(
                now,
                DataPiece { kind, first, last, offset, fragments, payload, key },
                context,
            );
        })
    }

    fn text(&mut self, text: &str) -> Vec<u8> {
        self.piece(MessageKind::Text, true, true, 0, text.as_bytes())
    }

    fn audio(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.piece(MessageKind::Binary, true, true, 0, bytes)
    }

    /// `count` frames of `size` bytes, at once.
    fn frames(&mut self, count: usize, size: usize) -> Vec<u8> {
        (0..count).flat_map(|_| self.audio(&vec![7; size])).collect()
    }

    fn control(&mut self, control: Control<'_>) -> Vec<u8> {
        self.step(|session, now, context| session.handle_control(now, control, context))
    }

    fn peer_close(&mut self, code: Option<u16>) -> Vec<u8> {
        self.control(Control::Close { code, reason: "" })
    }

    fn notice(&mut self, notice: Notice) -> Vec<u8> {
        self.step(|session, now, context| session.handle_notice(now, notice, context))
    }

    fn violation(&mut self, violation: Violation) -> Vec<u8> {
        self.step(|session, now, context| session.handle_violation(now, violation, context))
    }

    /// Everything in the ring becomes durable; the session is not told.
    fn sync(&mut self) {
        self.ring.seal();
        self.batches.extend(std::iter::from_fn(|| self.ring.poll_sealed()));
        let end = self.ring.sealed();
        self.ring.set_written(end);
        self.ring.set_durable(end);
    }

    fn promise(&mut self, seq: u64) -> Vec<u8> {
        self.step(|session, now, context| {
            session.handle_promise(now, Seq(seq), AckLevel::Received, context);
        })
    }

    fn summary(&self) -> Summary<'_> {
        self.session.summary(self.ring.durable()).expect("the call has ended")
    }

    fn disconnect(&mut self, disconnect: Disconnect) -> Vec<u8> {
        self.step(|session, now, context| session.handle_disconnect(now, disconnect, context))
    }

    fn reading(&mut self, reading: bool) {
        self.session.handle_reading(self.now, reading);
    }

    fn output(&mut self, output: Output) {
        self.session.handle_output(self.now, output);
    }

    /// Lets time pass, and wakes the session as a shard would: whenever it asked for it, and at the
    /// end. Returns the output.
    fn pass(&mut self, duration: Duration) -> Vec<u8> {
        let mut all = Vec::new();
        let end = self.now.moment + duration;
        while let Some(wake_at) = self.session.poll_timeout().filter(|wake_at| *wake_at <= end) {
            self.set_time(wake_at);
            all.extend(self.step(|session, now, context| session.handle_timeout(now, context)));
            assert!(
                self.session.poll_timeout().is_none_or(|next| next > wake_at),
                "a shard would spin here"
            );
        }
        self.set_time(end);
        all
    }

    fn set_time(&mut self, moment: Moment) {
        let passed = moment.since(self.now.moment);
        self.now = Now { moment, unix: UnixMicros(self.now.unix.0 + passed.as_micros() as u64) };
    }

    fn tenant_use(&self) -> TenantUse {
        let mut found = TenantUse::default();
        self.tenants.for_each(|index, _, usage| {
            if index == TenantIndex(1) {
                found = usage;
            }
        });
        found
    }

    /// All records in the ring, with checked payloads.
    fn records(&mut self) -> Vec<(RecordHeader, Vec<u8>)> {
        self.ring.seal();
        self.batches.extend(std::iter::from_fn(|| self.ring.poll_sealed()));
        let mut records = Vec::new();
        for batch in &self.batches {
            // The header lacks only what the journal adds.
            self.ring.stamp(batch, SegmentUuid::default(), Lsn::default(), Unsynced::UNKNOWN);
            let reader = BatchReader::open(self.ring.batch_bytes(batch)).expect("a sound batch");
            for record in reader.map(|record| record.expect("a sound record")) {
                records.push((record.header, record.payload.to_vec()));
            }
        }
        records
    }

    /// Asserts that the call ended once and in this way, that its record says so, and that the node
    /// was told.
    fn assert_ended(&mut self, ending: Ending) {
        for other in Ending::ALL {
            let expected = u64::from(other == ending);
            assert_eq!(self.shared.counters.endings[other.index()].read(), expected, "{other:?}");
        }
        assert_eq!(self.counters.calls_ended.read(), 1);
        let (call, epoch) = (self.session.call, self.session.epoch);
        let level = self.session.call_level;
        let expected = [Action::Claim { call, epoch, level }, Action::Release { call, epoch }];
        assert_eq!(self.actions, expected);
        let records = self.records();
        let ends: Vec<_> =
            records.iter().filter(|(header, _)| header.kind == RecordKind::End).collect();
        assert_eq!(ends.len() as u64 + self.shared.counters.ends_unrecorded.read(), 1);
        for (header, payload) in ends {
            let end = EndRecord::decode(payload).expect("a valid end record");
            assert_eq!((header.call, header.epoch), (call.record_number(), epoch));
            assert_eq!((end.ending, end.frames), (ending.number(), self.counters.frames.read()));
        }
    }

    fn assert_finished(&self) {
        assert!(self.session.is_finished() && !self.session.is_live());
        assert_eq!(self.tenants.calls_live(), 0, "the permit of the call is returned");
    }
}

#[test]
fn a_session_is_small() {
    let size = size_of::<IngestSession>();
    println!("IngestSession: {size} bytes");
    assert!(size <= 400, "{size} bytes");
    let harness = Harness::live();
    assert!(harness.session.text.is_none(), "a text in one piece is not kept");
}

#[test]
fn the_call_of_the_quick_reference_byte_for_byte() {
    let mut call = Harness::with(|settings| settings.limits = Limits::production());
    assert_eq!(
        call.text(START),
        b"\x81\x2f{\"event\":\"started\",\"interaction_id\":\"call-123\"}"
    );
    for seq in 1..=25 {
        let out = call.audio(&[0; 9600]);
        match seq {
            10 => assert_eq!(out, b"\x81\x18{\"event\":\"ack\",\"seq\":10}"),
            20 => assert_eq!(out, b"\x81\x18{\"event\":\"ack\",\"seq\":20}"),
            _ => assert_eq!(out, b""),
        }
        assert_eq!(call.pass(millis(200)), b"");
    }
    assert_eq!(call.peer_close(Some(1000)), b"\x88\x02\x03\xe8");
    call.assert_ended(Ending::PeerClosed);
    call.assert_finished();
}
