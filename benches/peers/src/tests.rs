use super::*;

const MASK: [u8; 4] = [1, 20, 3, 250];

/// A client's frame.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let (short, long) = match payload.len() {
        size @ 0..126 => (size as u8, Vec::new()),
        size @ 126..65_536 => (126, (size as u16).to_be_bytes().to_vec()),
        size => (127, (size as u64).to_be_bytes().to_vec()),
    };
    let masked = payload.iter().zip(MASK.iter().cycle()).map(|(a, b)| a ^ b).collect();
    [vec![0x80 | opcode, 0x80 | short], long, MASK.to_vec(), masked].concat()
}

#[test]
fn the_decoder_finds_the_same_at_every_split_point() {
    let audio: Vec<Vec<u8>> = [0, 1, 7, 125, 126, 400, 66_000]
        .iter()
        .map(|size| (0..*size).map(|index: usize| (index * 7) as u8).collect())
        .collect();
    for payload in &audio {
        let mut bytes = frame(2, payload);
        bytes.extend(frame(1, b"{\"event\":\"stop\"}"));
        let splits = (0..bytes.len()).filter(|at| *at < 300 || *at + 300 > bytes.len());
        for split in splits {
            let (mut decoder, mut found, mut texts) = (Decoder::default(), Vec::new(), Vec::new());
            let mut whole = Vec::new();
            for mut part in [&bytes[..split], &bytes[split..]] {
                while let Some(piece) = decoder.poll(&mut part) {
                    match piece {
                        Piece::Audio { payload, mask, whole: size } => {
                            let masks = mask.iter().cycle();
                            found.extend(payload.iter().zip(masks).map(|(a, b)| a ^ b));
                            whole.extend(size);
                        }
                        Piece::Text(text) => texts.push(text),
                        Piece::Close => panic!("no Close was sent"),
                    }
                }
                assert!(part.is_empty());
            }
            assert!(found == *payload && whole == [payload.len() as u64], "split at {split}");
            assert_eq!(texts, [b"{\"event\":\"stop\"}"]);
        }
    }
}

#[test]
fn the_ring_wraps_and_unmasks_across_its_end() {
    let mask = [9, 8, 7, 6];
    for size in [1, 8, 13, 31] {
        let mut ring = Ring { memory: vec![0; 37], position: 0 };
        let mut expected = [0; 37];
        let mut position = 0;
        for round in 0..20_u8 {
            let plain: Vec<u8> = (0..size).map(|index| index * 3 + round).collect();
            let masked: Vec<u8> =
                plain.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
            match round % 2 {
                0 => ring.append(&plain),
                _ => ring.append_masked(&masked, mask),
            }
            for byte in plain {
                expected[position % 37] = byte;
                position += 1;
            }
            assert_eq!(ring.memory, expected, "size {size}, round {round}");
        }
    }
}

#[test]
fn a_call_is_answered_as_the_protocol_says() {
    let mut call = Call::default();
    let start = br#"{"event":"start","interaction_id":"i","tenant_id":"t","sample_rate":24000}"#;
    let Some(Event::Started(text)) = call.handle_text(start) else { panic!("not started") };
    assert_eq!(text, r#"{"event":"started","interaction_id":"i"}"#);
    let acks: Vec<_> = (0..25).filter_map(|_| call.handle_frame(9_600)).collect();
    assert_eq!(acks, [r#"{"event":"ack","seq":10}"#, r#"{"event":"ack","seq":20}"#]);
    let Some(Event::Stopped(text)) = call.handle_text(b"{\"event\":\"stop\"}") else {
        panic!("not stopped")
    };
    let stopped: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&stopped["seq"], &stopped["bytes"]), (&json!(25), &json!(240_000)));
    assert_eq!((&stopped["duration_ms"], &stopped["durable_seq"]), (&json!(5_000), &Value::Null));
    assert!(call.handle_text(b"nonsense").is_none());
}

#[test]
fn an_upgrade_is_answered_once_its_head_is_complete() {
    // The example of RFC 6455 §1.3.
    let head = b"GET /v1/ingest HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert!(answer(&head[..head.len() - 1]).is_none());
    let (size, Answer::Upgraded(text)) = answer(head).expect("complete") else { panic!("refused") };
    assert!(size == head.len() && text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
    let other = b"GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert!(matches!(answer(other), Some((_, Answer::Refused(_)))));
}

#[test]
fn our_frames_are_as_short_as_they_can_be() {
    for size in [0, 125, 126, 300] {
        let frame = text_frame(&"x".repeat(size));
        let header = if size < 126 { 2 } else { 4 };
        assert_eq!((frame[0], frame.len()), (0x81, header + size));
        let length = if size < 126 { size as u8 } else { 126 };
        assert_eq!(frame[1], length);
    }
}
