//! From the upgrade to a live call.

#![forbid(unsafe_code)]

use super::*;

fn start(interaction: &str, tenant: &str, sample_rate: u32) -> String {
    let call = format!(r#""interaction_id":"{interaction}","tenant_id":"{tenant}""#);
    format!(r#"{{"event":"start",{call},"sample_rate":{sample_rate},"encoding":"pcm16"}}"#)
}

#[test]
fn a_start_gets_an_epoch_and_claims_the_call() {
    let mut call = Harness::new();
    let head = call.ring.head();
    assert!(!call.session.is_live());
    assert_eq!(call.text(START), text(STARTED));
    assert!(call.session.is_live());
    assert!(call.ring.head() > head, "the call record is in the ring");
    let key = CallIdentity { tenant: "tenant-abc".into(), interaction: "call-123".into() }.key();
    let epoch = Epoch { boot: 3, micros: 77_000_000, shard: 1 };
    assert_eq!(call.actions, [Action::Claim { call: key, epoch, level: AckLevel::Received }]);
    assert_eq!(call.counters.calls_started.read(), 1);
    assert_eq!(call.tenants.calls_live(), 1);
}

#[test]
fn a_start_may_come_in_pieces() {
    for cut in 1..START.len() {
        let mut call = Harness::new();
        assert_eq!(call.piece(MessageKind::Text, true, false, 0, &START.as_bytes()[..cut]), b"");
        assert!(call.session.text.is_some());
        assert_eq!(
            call.piece(MessageKind::Text, false, true, cut, &START.as_bytes()[cut..]),
            text(STARTED)
        );
        assert!(call.session.text.is_none(), "its memory is free again");
    }
}

#[test]
fn each_identical_start_is_answered_and_seq_goes_on() {
    let mut call = Harness::live();
    call.frames(9, 2);
    let head = call.ring.head();
    assert_eq!(call.text(START), text(STARTED));
    assert_eq!(call.ring.head(), head, "no second call record");
    assert_eq!(call.audio(&[1, 2]), ack(10));
    assert_eq!((call.actions.len(), call.counters.calls_started.read()), (1, 1));

    let mut payload = START.as_bytes().to_vec();
    KEY.apply(&mut payload);
    for _ in 0..3 {
        let mut payload = payload.clone();
        call.step_without_output(|session, now, context| {
            let payload = &mut payload[..];
            let piece = whole(MessageKind::Text, payload);
            session.handle_data(now, piece, context);
        });
    }
    assert_eq!(call.transmit(), text(STARTED).repeat(3));
}

#[test]
fn a_different_second_start_is_refused() {
    let others = [
        start("call-124", "tenant-abc", 24_000),
        start("call-123", "tenant-abd", 24_000),
        start("call-123", "tenant-abc", 8_000),
    ];
    for other in others {
        let mut call = Harness::live();
        assert_eq!(call.text(&other), refusal_of(Closing::AlreadyStarted));
        call.assert_ended(Ending::Refused);
        call.assert_finished();
    }
}

#[test]
fn claims_and_start_agree_as_far_as_configured() {
    use ClaimMatch::{Off, Strict, Tenant};
    let cases = [
        (Strict, "call-123", "tenant-abc", true),
        (Strict, "call-124", "tenant-abc", false),
        (Strict, "call-123", "tenant-abd", false),
        (Tenant, "call-124", "tenant-abc", true),
        (Tenant, "call-123", "tenant-abd", false),
        (Off, "call-124", "tenant-abd", true),
    ];
    for (claim_match, interaction, tenant, agrees) in cases {
        let mut call = Harness::with(|settings| settings.claim_match = claim_match);
        let head = call.ring.head();
        let out = call.text(&start(interaction, tenant, 8_000));
        if agrees {
            assert_eq!(
                out,
                text(&format!(r#"{{"event":"started","interaction_id":"{interaction}"}}"#))
            );
            let identity = CallIdentity { tenant: tenant.into(), interaction: interaction.into() };
            assert!(
                matches!(call.actions[..], [Action::Claim { call, .. }] if call == identity.key())
            );
        } else {
            assert_eq!(out, refusal_of(Closing::ClaimMismatch));
            assert!(call.actions.is_empty() && call.ring.head() == head);
            call.assert_finished();
        }
    }
}

#[test]
fn unknown_events_are_ignored_before_and_after_start() {
    let mut call = Harness::new();
    assert_eq!(call.text(r#"{"event":"mark","name":"x"}"#), b"");
    assert_eq!(call.text(START), text(STARTED));
    assert_eq!(call.text(r#"{"event":"mark"}"#), b"");
    assert_eq!(call.counters.events_unknown.read(), 2);
    assert!(call.session.is_live());
}

#[test]
fn later_connections_have_greater_epochs() {
    let mut call = Harness::live();
    let first = call.session.epoch;
    let claims_identity =
        CallIdentity { tenant: "tenant-abc".into(), interaction: "call-123".into() };
    let claims = Claims {
        identity: claims_identity,
        issued_at: 0,
        expires_at: 0,
        allowed_tenants: Default::default(),
    };
    let permit = call.tenants.admit("tenant-abc").unwrap();
    call.session = IngestSession::new(call.now, claims, permit, Arc::clone(&call.shared));
    call.text(START);
    assert!(call.session.epoch > first, "even within the same nanosecond");
}

#[test]
fn long_ids_pass_through_small_buffers() {
    let id = "\\\"".repeat(256);
    let mut call = Harness::with(|settings| {
        settings.claim_match = ClaimMatch::Off;
        settings.limits.text_size_max = 4096;
    });
    call.out_size = 256;
    let started = text(&format!(r#"{{"event":"started","interaction_id":"{id}"}}"#));
    assert!(started.len() > 512);
    assert_eq!(call.text(&start(&id, "tenant-abc", 8_000)), started);
    call.frames(10, 0);
    assert_eq!(call.text(&start(&id, "tenant-abc", 8_000)), started);
    let out = call.text(STOP);
    let expected = format!(
        "{{\"event\":\"stopped\",\"interaction_id\":\"{id}\",\"seq\":10,\"bytes\":0,\
         \"duration_ms\":0,\"durable_seq\":null,\"level\":\"received\"}}"
    );
    assert_eq!(out, [text(&expected), close(1000, "")].concat());
    call.assert_finished();
}
