//! A client in Rust, with tungstenite: plays five seconds of a tone as a live call.
//!
//! ```text
//! export JWT_TOKEN=…
//! cargo run --release --example client -- ws://127.0.0.1:8443/v1/ingest TENANT INTERACTION
//! ```
//! It ends with 0 once the node has confirmed all audio. It does not connect again: see
//! `client.py`.

#![forbid(unsafe_code)]

use serde_json::{Value, json};
use std::error::Error;
use std::f32::consts::TAU;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

const RATE: u32 = 24_000;
const FRAME_TIME: Duration = Duration::from_millis(200);
const FRAME_SAMPLES: u32 = RATE / 5;
const FRAME_COUNT: u32 = 25;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, tenant, interaction] = args.as_slice() else {
        return Err("usage: JWT_TOKEN=… client URL TENANT INTERACTION".into());
    };
    let token = std::env::var("JWT_TOKEN").map_err(|_| "JWT_TOKEN is not set")?;
    let mut socket = connect(url, &token)?;
    let start = json!({
        "event": "start",
        "tenant_id": tenant,
        "interaction_id": interaction,
        "sample_rate": RATE,
        "encoding": "pcm16",
    });
    socket.send(Message::text(start.to_string()))?;

    // Audio need not wait for `started`.
    let mut due = Instant::now();
    for number in 0..FRAME_COUNT {
        socket.send(Message::binary(make_frame(number)))?;
        due += FRAME_TIME;
        while let Some(event) = next_event(&mut socket, due)? {
            handle(&event)?;
        }
    }
    socket.send(Message::text(r#"{"event":"stop"}"#))?;
    loop {
        let event = next_event(&mut socket, Instant::now() + Duration::from_secs(60))?
            .ok_or("no answer to stop")?;
        handle(&event)?;
        if event["event"] == "stopped" {
            socket.close(None)?;
            return Ok(());
        }
    }
}

/// The TCP connection and the WebSocket handshake.
fn connect(url: &str, token: &str) -> Result<WebSocket<TcpStream>, Box<dyn Error>> {
    let mut request = url.into_client_request()?;
    let host = request.uri().host().ok_or("the URL names no host")?.to_owned();
    let port = request.uri().port_u16().unwrap_or(80);
    request.headers_mut().insert("Authorization", format!("Bearer {token}").parse()?);
    let stream = TcpStream::connect((host.as_str(), port))?;
    stream.set_nodelay(true)?;
    // A refusal before the upgrade is an error here, and says the status.
    let (socket, _) = tungstenite::client(request, stream)?;
    Ok(socket)
}

/// The next event that comes before `deadline`, if any does. Pings are answered by the library.
fn next_event(
    socket: &mut WebSocket<TcpStream>,
    deadline: Instant,
) -> Result<Option<Value>, Box<dyn Error>> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.get_ref().set_read_timeout(Some(left))?;
        match socket.read() {
            Ok(Message::Text(text)) => return Ok(Some(serde_json::from_str(&text)?)),
            Ok(Message::Close(close)) => {
                return Err(format!("the node closed the call: {close:?}").into());
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn handle(event: &Value) -> Result<(), Box<dyn Error>> {
    match event["event"].as_str() {
        Some("started") => println!("started: {}", event["interaction_id"]),
        Some("ack") => println!("ack: all frames up to {} are safe", event["seq"]),
        Some("stopped") => {
            println!("stopped: {} frames, {} ms", event["seq"], event["duration_ms"])
        }
        Some("error") => {
            return Err(format!("refused: {}: {}", event["reason"], event["message"]).into());
        }
        // Events that this client does not know are for others.
        _ => {}
    }
    Ok(())
}

/// 16-bit samples, mono, little-endian.
fn make_frame(number: u32) -> Vec<u8> {
    let samples = number * FRAME_SAMPLES..(number + 1) * FRAME_SAMPLES;
    samples
        .flat_map(|at| {
            let phase = TAU * 440.0 * (at % RATE) as f32 / RATE as f32;
            ((8_000.0 * phase.sin()) as i16).to_le_bytes()
        })
        .collect()
}
