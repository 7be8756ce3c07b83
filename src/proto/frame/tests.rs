use super::*;

const LIMITS: FrameLimits =
    FrameLimits { message_size_max: 1000, text_size_max: 300, fragments_max: 4 };
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame of a client, with its length in the shortest form.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 10];
    let size = write_header(Opcode::Text, payload.len(), &mut bytes);
    bytes.truncate(size);
    bytes[0] = first;
    bytes[1] |= 0x80;
    bytes.extend_from_slice(&KEY);
    bytes.extend_from_slice(payload);
    MaskKey(KEY).apply(&mut bytes[size + 4..]);
    bytes
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(0x88, &[&code.to_be_bytes(), reason].concat())
}

/// All output: pieces with their flags, unmasked, and control frames as text.
fn decode_all(decoder: &mut Decoder, input: &[u8]) -> Result<Vec<String>, Violation> {
    let mut input = input.to_vec();
    let mut seen = Vec::new();
    let mut at = 0;
    while at < input.len() {
        let (taken, event) = decoder.decode(&mut input[at..], &LIMITS)?;
        assert!(taken > 0, "no progress");
        at += taken;
        match event {
            Some(WsEvent::Data(DataPiece { kind, first, last, offset, payload, key, .. })) => {
                key.apply(payload);
                let (open, shut) = (if first { "[" } else { "" }, if last { "]" } else { "" });
                seen.push(format!("{kind:?} {offset} {open}{}{shut}", payload.escape_ascii()));
            }
            Some(WsEvent::Control(control)) => seen.push(format!("{control:?}")),
            None => assert_eq!(at, input.len()),
        }
    }
    Ok(seen)
}

fn decode(input: &[u8]) -> Result<Vec<String>, Violation> {
    decode_all(&mut Decoder::default(), input)
}

#[test]
fn a_decoder_is_small() {
    assert!(size_of::<Decoder>() < 200, "{}", size_of::<Decoder>());
}

#[test]
fn messages_come_as_pieces_whatever_their_fragments() {
    let input = [
        frame(0x82, b"whole"),
        frame(0x02, b"ab"),
        frame(0x89, b"!"),
        frame(0x00, b""),
        frame(0x00, b"cd"),
        frame(0x8a, b""),
        frame(0x80, b"e"),
        frame(0x81, b""),
        frame(0x01, b""),
        frame(0x80, b""),
        frame(0x01, b"x"),
        frame(0x80, b""),
    ]
    .concat();
    let expected = [
        "Binary 0 [whole]",
        "Binary 0 [ab",
        "Ping([33])",
        "Binary 2 cd",
        "Pong([])",
        "Binary 4 e]",
        "Text 0 []",
        "Text 0 []",
        "Text 0 [x",
        "Text 1 ]",
    ];
    assert_eq!(decode(&input).unwrap(), expected);
}

#[test]
fn pieces_follow_the_reads_and_the_key_follows_the_pieces() {
    let input = frame(0x82, b"abcdefg");
    let mut decoder = Decoder::default();
    assert_eq!(decode_all(&mut decoder, &input[..9]).unwrap(), ["Binary 0 [abc"]);
    assert_eq!(decode_all(&mut decoder, &input[9..9]).unwrap(), [""; 0]);
    assert!(decoder.is_mid_message());
    assert_eq!(decode_all(&mut decoder, &input[9..11]).unwrap(), ["Binary 3 de"]);
    assert_eq!(decode_all(&mut decoder, &input[11..]).unwrap(), ["Binary 5 fg]"]);
    assert!(!decoder.is_mid_message());
}

#[test]
fn the_decoder_knows_whether_it_is_mid_message() {
    let mut decoder = Decoder::default();
    for (input, is_mid_message) in [
        (&frame(0x01, b"")[..], true),
        (&frame(0x89, b"abc"), true),
        (&frame(0x80, b""), false),
        (&frame(0x89, b"abc")[..3], true),
        (&frame(0x89, b"abc")[3..], false),
        (&frame(0x82, b"abc")[..1], true),
    ] {
        decode_all(&mut decoder, input).unwrap();
        assert_eq!(decoder.is_mid_message(), is_mid_message, "{input:02x?}");
    }
}

#[test]
fn closes_are_read() {
    assert_eq!(decode(&frame(0x88, b"")).unwrap(), [r#"Close { code: None, reason: "" }"#]);
    assert_eq!(decode(&close(1000, b"")).unwrap(), [r#"Close { code: Some(1000), reason: "" }"#]);
    assert_eq!(
        decode(&close(4999, "tschüß".as_bytes())).unwrap(),
        [r#"Close { code: Some(4999), reason: "tschüß" }"#]
    );
}

#[test]
fn close_codes_are_those_that_may_be_sent() {
    for code in 0..=u16::MAX {
        let allowed =
            matches!(code, 1000 | 1001 | 1002 | 1003 | 1007..=1014 | 3000..=3999 | 4000..=4999);
        assert_eq!(decode(&close(code, b"")).is_ok(), allowed, "{code}");
    }
}

/// Every way to violate RFC 6455, with the code it gets. `--nocapture` prints the table.
#[test]
fn violations_get_their_close_code() {
    let unmasked = |first: u8, second: u8| vec![first, second];
    let large = |first: u8, second: u8, length: &[u8]| [&[first, second], length].concat();
    let rows = [
        ("unmasked, empty", 1002, unmasked(0x82, 0)),
        ("unmasked", 1002, unmasked(0x81, 5)),
        ("RSV1 (deflate was declined)", 1002, frame(0xc2, b"x")),
        ("RSV2", 1002, frame(0xa2, b"x")),
        ("RSV3", 1002, frame(0x92, b"x")),
        ("RSV1 on a ping", 1002, frame(0xc9, b"x")),
        ("opcode 3", 1002, frame(0x83, b"")),
        ("opcode 7", 1002, frame(0x87, b"")),
        ("opcode 0xb", 1002, frame(0x8b, b"")),
        ("opcode 0xf", 1002, frame(0x8f, b"")),
        ("fragmented ping", 1002, frame(0x09, b"x")),
        ("fragmented close", 1002, frame(0x08, b"")),
        ("ping of 126 bytes", 1002, frame(0x89, &[0; 126])),
        ("close of 126 bytes", 1002, frame(0x88, &[0x03; 126])),
        ("continuation without a message", 1002, frame(0x80, b"x")),
        ("continuation after the end", 1002, [frame(0x82, b"x"), frame(0x80, b"y")].concat()),
        ("message within a message", 1002, [frame(0x02, b"x"), frame(0x82, b"y")].concat()),
        ("length of 2^63", 1002, large(0x82, 0xff, &[0x80, 0, 0, 0, 0, 0, 0, 0])),
        ("125 in 16 bits", 1002, large(0x82, 0xfe, &[0, 125])),
        ("65535 in 64 bits", 1002, large(0x82, 0xff, &[0, 0, 0, 0, 0, 0, 0xff, 0xff])),
        ("close of one byte", 1002, frame(0x88, b"\x03")),
        ("close with 999", 1002, close(999, b"")),
        ("close with 1005", 1002, close(1005, b"")),
        ("close with 1006", 1002, close(1006, b"")),
        ("close with 1015", 1002, close(1015, b"")),
        ("close with 2999", 1002, close(2999, b"")),
        ("close with 5000", 1002, close(5000, b"")),
        ("close reason not UTF-8", 1007, close(1000, b"\xff")),
        ("close reason cut in a character", 1007, close(1000, b"\xe2\x82")),
        ("length of 2^63 - 1", 1009, large(0x82, 0xff, &[0x7f, 255, 255, 255, 255, 255, 255, 255])),
        ("message over its limit, at its header", 1009, frame(0x82, &[0; 1001])[..4].to_vec()),
        ("text over its limit, at its header", 1009, frame(0x81, &[b'a'; 301])[..4].to_vec()),
        (
            "fragments over the limit together",
            1009,
            [frame(0x02, &[0; 600]), frame(0x80, &[0; 401])].concat(),
        ),
        (
            "text fragments over the limit together",
            1009,
            [frame(0x01, &[b'a'; 300]), frame(0x80, b"b")].concat(),
        ),
        (
            "five fragments, all empty",
            1009,
            [frame(0x02, b""), frame(0x00, b"").repeat(4)].concat(),
        ),
        (
            "a million fragments of a byte",
            1009,
            [frame(0x02, b""), frame(0x00, b"x").repeat(1_000_000)].concat(),
        ),
    ];
    println!("{:44} close code", "frame");
    for (name, code, input) in rows {
        let violation = decode(&input).expect_err(name);
        println!("{name:44} {} ({violation:?})", violation.close_code());
        assert_eq!(violation.close_code(), code, "{name}");
    }
}

#[test]
fn values_at_their_limit_pass() {
    assert!(decode(&frame(0x82, &[0; 1000])).is_ok());
    assert!(decode(&frame(0x81, &[b'a'; 300])).is_ok());
    assert!(decode(&frame(0x89, &[0; 125])).is_ok());
    let fragments =
        [frame(0x02, &[0; 999]), frame(0x00, b"").repeat(2), frame(0x80, b"x")].concat();
    assert!(decode(&fragments.repeat(2)).is_ok(), "a new message counts anew");
}

#[test]
fn after_a_violation_everything_is_refused() {
    for bad in [frame(0xc2, b"x"), close(1005, b"")] {
        let mut decoder = Decoder::default();
        let violation = decode_all(&mut decoder, &bad).unwrap_err();
        assert_eq!(decode_all(&mut decoder, &frame(0x82, b"good")).unwrap_err(), violation);
    }
}

#[test]
fn bytes_before_a_violation_are_returned() {
    let mut input = [frame(0x82, b"good"), frame(0x83, b"bad")].concat();
    let mut decoder = Decoder::default();
    let (taken, event) = decoder.decode(&mut input, &LIMITS).unwrap();
    assert!(matches!(event, Some(WsEvent::Data(_))));
    assert!(decoder.decode(&mut input[taken..], &LIMITS).is_err());
}

#[test]
fn frames_we_send_have_the_shortest_header() {
    for (size, header) in [
        (0, &[0x82, 0][..]),
        (125, &[0x82, 125]),
        (126, &[0x82, 126, 0, 126]),
        (65_535, &[0x82, 126, 0xff, 0xff]),
        (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let payload = vec![7; size];
        let mut out = vec![0; header.len() + size];
        assert_eq!(write_frame(Opcode::Binary, &payload, &mut out), Some(out.len()));
        assert_eq!((&out[..header.len()], &out[header.len()..]), (header, &payload[..]));
        out.pop();
        assert_eq!(write_frame(Opcode::Binary, &payload, &mut out), None);
    }
    for (opcode, first) in [
        (Opcode::Text, 0x81),
        (Opcode::Binary, 0x82),
        (Opcode::Close, 0x88),
        (Opcode::Ping, 0x89),
        (Opcode::Pong, 0x8a),
    ] {
        let mut out = [0; 3];
        assert_eq!(write_frame(opcode, b"x", &mut out), Some(3));
        assert_eq!(out, [first, 1, b'x']);
    }
}
