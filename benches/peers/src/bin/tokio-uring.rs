//! The runtime on io_uring: tokio-uring, one task and one buffer a connection, one thread. It has
//! no WebSocket library of its own, so the decoder of this package reads the frames, and unmasks
//! into the ring in one pass.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use exo_ingest_peers::{Answer, CLOSE, Call, Decoder, Event, HEAD_SIZE_MAX, Piece, Ring};
use tokio_uring::net::{TcpListener, TcpStream};

/// Bytes of a read: a whole frame of 9,600 bytes, and more where a client is ahead.
const BUFFER_SIZE: usize = 16 << 10;

fn main() -> io::Result<()> {
    let ring = Rc::new(RefCell::new(Ring::default()));
    tokio_uring::start(async {
        let listener = TcpListener::from_std(exo_ingest_peers::listen()?);
        loop {
            let (stream, _) = listener.accept().await?;
            let ring = ring.clone();
            // An error of a client ends only its own connection.
            tokio_uring::spawn(async move { drop(serve(stream, &ring).await) });
        }
    })
}

async fn serve(stream: TcpStream, ring: &RefCell<Ring>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    upgrade(&stream).await?;
    let (mut decoder, mut call) = (Decoder::default(), Call::default());
    let mut buffer = Vec::with_capacity(BUFFER_SIZE);
    loop {
        let received;
        buffer.clear();
        (received, buffer) = stream.read(buffer).await;
        if received? == 0 {
            return Ok(());
        }
        let mut out = Vec::new();
        let mut bytes = buffer.as_slice();
        while let Some(piece) = decoder.poll(&mut bytes) {
            match piece {
                Piece::Audio { payload, mask, whole } => {
                    ring.borrow_mut().append_masked(payload, mask);
                    if let Some(ack) = whole.and_then(|size| call.handle_frame(size)) {
                        out.extend(exo_ingest_peers::text_frame(&ack));
                    }
                }
                Piece::Text(text) => match call.handle_text(&text) {
                    Some(Event::Started(text)) => out.extend(exo_ingest_peers::text_frame(&text)),
                    Some(Event::Stopped(text)) => {
                        out.extend(exo_ingest_peers::text_frame(&text));
                        out.extend(CLOSE);
                    }
                    None => {}
                },
                Piece::Close => return Ok(()),
            }
        }
        if !out.is_empty() {
            stream.write_all(out).await.0?;
        }
    }
}

async fn upgrade(stream: &TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = Vec::with_capacity(1024);
    loop {
        let received;
        buffer.clear();
        (received, buffer) = stream.read(buffer).await;
        head.extend(&buffer);
        if received? == 0 || head.len() > HEAD_SIZE_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match exo_ingest_peers::answer(&head) {
            None => {}
            Some((size, Answer::Upgraded(text))) if size == head.len() => {
                return stream.write_all(text.into_bytes()).await.0;
            }
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
