//! The usual choice in Rust: tungstenite on tokio's epoll, one task a connection, one thread. All
//! settings are the library's defaults.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use exo_ingest_peers::{Call, Event, Ring};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role};

thread_local! {
    static RING: RefCell<Ring> = RefCell::default();
}

fn main() -> std::io::Result<()> {
    RING.with(|ring| drop(ring.borrow()));
    exo_ingest_peers::serve_on_epoll(serve)
}

async fn serve(mut stream: TcpStream) -> Result<(), Error> {
    exo_ingest_peers::upgrade(&mut stream).await?;
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    let mut call = Call::default();
    while let Some(message) = socket.next().await {
        match message? {
            Message::Binary(audio) => {
                RING.with_borrow_mut(|ring| ring.append(&audio));
                if let Some(ack) = call.handle_frame(audio.len() as u64) {
                    socket.send(Message::text(ack)).await?;
                }
            }
            Message::Text(text) => match call.handle_text(text.as_bytes()) {
                Some(Event::Started(text)) => socket.send(Message::text(text)).await?,
                Some(Event::Stopped(text)) => {
                    socket.send(Message::text(text)).await?;
                    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                    socket.close(Some(close)).await?;
                }
                None => {}
            },
            _ => {}
        }
    }
    Ok(())
}
