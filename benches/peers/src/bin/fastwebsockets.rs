//! The fast choice in Rust: fastwebsockets on tokio's epoll, one task a connection, one thread.
//! All settings are the library's defaults.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use exo_ingest_peers::{Call, Event, Ring};
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket, WebSocketError};
use tokio::net::TcpStream;

thread_local! {
    static RING: RefCell<Ring> = RefCell::default();
}

fn main() -> std::io::Result<()> {
    RING.with(|ring| drop(ring.borrow()));
    exo_ingest_peers::serve_on_epoll(serve)
}

async fn serve(mut stream: TcpStream) -> Result<(), WebSocketError> {
    exo_ingest_peers::upgrade(&mut stream).await?;
    let mut socket = WebSocket::after_handshake(stream, Role::Server);
    let mut call = Call::default();
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Binary => {
                RING.with_borrow_mut(|ring| ring.append(&frame.payload));
                if let Some(ack) = call.handle_frame(frame.payload.len() as u64) {
                    socket.write_frame(text(ack)).await?;
                }
            }
            OpCode::Text => match call.handle_text(&frame.payload) {
                Some(Event::Started(started)) => socket.write_frame(text(started)).await?,
                Some(Event::Stopped(stopped)) => {
                    socket.write_frame(text(stopped)).await?;
                    socket.write_frame(Frame::close(1000, b"")).await?;
                }
                None => {}
            },
            OpCode::Close => return Ok(()),
            _ => {}
        }
    }
}

fn text(text: String) -> Frame<'static> {
    Frame::text(Payload::Owned(text.into_bytes()))
}
