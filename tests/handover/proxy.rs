//! A proxy that makes a server slow, silent, forgetful of a header, or wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the proxy does with what comes from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It passes everything on.
    Pass,
    /// It passes so many bytes a second on to the server, of all connections together.
    Slow(u64),
    /// It takes requests and never answers.
    Silent,
    /// It answers each HTTP request with this status line and this code in XML.
    Answer(&'static str, &'static str),
    /// It passes HTTP requests on without the header that asks for create-only.
    DropCreateOnly,
    /// It keeps each PUT until it has another mode, and passes it on then.
    HoldPuts,
}

/// See the module. Its threads end with the test's process.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    upstream: u16,
    mode: Mutex<Mode>,
    /// Times that the mode did something.
    hits: AtomicU64,
    /// Held by a connection while it spends its part of a slow line.
    line: Mutex<()>,
}

impl Proxy {
    /// A proxy before the server at this port.
    pub(crate) fn start(upstream: u16, mode: Mode) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State {
            upstream,
            mode: Mutex::new(mode),
            hits: AtomicU64::new(0),
            line: Mutex::new(()),
        };
        let state = Arc::new(state);
        let of_thread = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&of_thread);
                // An error is the end of a connection: the peer sees it.
                std::thread::spawn(move || drop(serve(&client, &state)));
            }
        });
        Proxy { port, state }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Connections that are open change with the next request, or with the next piece of one.
    pub(crate) fn set(&self, mode: Mode) {
        *self.state.mode.lock().unwrap() = mode;
        self.state.hits.store(0, Ordering::Relaxed);
    }

    /// Times that the mode did something since it was set.
    pub(crate) fn hits(&self) -> u64 {
        self.state.hits.load(Ordering::Relaxed)
    }
}

impl State {
    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap()
    }

    fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }
}

fn serve(client: &TcpStream, state: &Arc<State>) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", state.upstream))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let done = requests(client, &server, state);
    let _ = server.shutdown(Shutdown::Both);
    done
}

/// Passes requests on, one after the other. What does not begin like HTTP is passed on in pieces.
fn requests(client: &TcpStream, mut server: &TcpStream, state: &State) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    loop {
        let begins_like_http = {
            let bytes = reader.fill_buf()?;
            if bytes.is_empty() {
                return Ok(());
            }
            let methods: [&[u8]; 5] = [b"GET /", b"PUT /", b"POST /", b"HEAD /", b"DELETE /"];
            methods.iter().any(|method| bytes.starts_with(method))
        };
        if !begins_like_http {
            let piece = reader.fill_buf()?.to_vec();
            reader.consume(piece.len());
            pass(&piece, server, state)?;
            continue;
        }
        let (head, size) = head(&mut reader)?;
        match state.mode() {
            Mode::Answer(status, code) => {
                std::io::copy(&mut (&mut reader).take(size), &mut std::io::sink())?;
                state.hit();
                let body = format!("<Error><Code>{code}</Code></Error>");
                let size = body.len();
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {size}\r\n\r\n{body}");
                (&*client).write_all(answer.as_bytes())?;
                continue;
            }
            Mode::DropCreateOnly => {
                let is_other =
                    |line: &&str| !line.to_ascii_lowercase().starts_with("if-none-match:");
                let kept: Vec<&str> = head.split_inclusive("\r\n").filter(is_other).collect();
                let kept = kept.concat();
                (kept.len() < head.len()).then(|| state.hit());
                server.write_all(kept.as_bytes())?;
            }
            Mode::HoldPuts if head.starts_with("PUT ") => {
                state.hit();
                while state.mode() == Mode::HoldPuts {
                    std::thread::sleep(Duration::from_millis(20));
                }
                server.write_all(head.as_bytes())?;
            }
            _ => pass(head.as_bytes(), server, state)?,
        }
        let mut left = size;
        while left > 0 {
            let mut piece = vec![0; left.min(16 << 10) as usize];
            reader.read_exact(&mut piece)?;
            left -= piece.len() as u64;
            pass(&piece, server, state)?;
        }
    }
}

/// The head of a request, and the size of its body.
fn head(reader: &mut impl BufRead) -> std::io::Result<(String, u64)> {
    let (mut head, mut size) = (String::new(), 0);
    loop {
        let at = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = head[at..].to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            size = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            return Ok((head, size));
        }
    }
}

/// Passes some bytes on, as slowly as the mode wants.
fn pass(bytes: &[u8], mut server: &TcpStream, state: &State) -> std::io::Result<()> {
    match state.mode() {
        Mode::Slow(rate) => {
            state.hit();
            let _turn = state.line.lock().unwrap();
            std::thread::sleep(Duration::from_secs_f64(bytes.len() as f64 / rate as f64));
        }
        Mode::Silent => {
            state.hit();
            // What came is gone: such a connection never gets an answer.
            while state.mode() == Mode::Silent {
                std::thread::sleep(Duration::from_millis(20));
            }
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        _ => {}
    }
    server.write_all(bytes)
}
