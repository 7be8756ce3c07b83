//! The fast choice in Rust: fastwebsockets on tokio's epoll, one task a connection, one thread.
//! All settings are the library's defaults.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use exo_ingest_peers::{Call, Event, Ring};
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket, WebSocketError};
use tokio::net::{TcpListener, TcpStream};

thread_local! {
    static RING: RefCell<Ring> = RefCell::default();
}

fn main() -> std::io::Result<()> {
    RING.with(|ring| drop(ring.borrow()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = exo_ingest_peers::listen()?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            // An error of a client ends only its own connection.
            tokio::spawn(async move { drop(serve(stream).await) });
        }
    })
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
