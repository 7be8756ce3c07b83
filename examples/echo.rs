//! Echoes every WebSocket message: the node's reactor and codec, with a session that knows nothing
//! of calls and asks for no token. Public conformance suites are run against it.
//!
//! ```text
//! cargo run --release --example echo -- --listen 127.0.0.1:9001
//! ```
//! With `--tls-cert` and `--tls-key` it speaks `wss://`. Prints `listening on ADDRESS` once it
//! serves; SIGTERM ends it. Limits are raised as far as such
//! suites go: 16 MiB a message, 2^20 fragments, 32 MiB of echoes waiting for a peer that does not
//! read.

use bytes::{Buf, BytesMut};
use clap::Parser;
use exo_ingest::ack_level::AckLevel;
use exo_ingest::auth::{ClientName, Verifier};
use exo_ingest::call::Seq;
use exo_ingest::clock::{Moment, Now};
use exo_ingest::control::signals;
use exo_ingest::io::probe::KernelFeatures;
use exo_ingest::limits::Limits;
use exo_ingest::metrics::Counters;
use exo_ingest::node::{Node, NodeConfig};
use exo_ingest::proto::frame::{Opcode, write_header};
use exo_ingest::proto::handshake::{Answer, Refusal, Situation, judge_upgrade};
use exo_ingest::proto::http::Head;
use exo_ingest::proto::text::TextBuffer;
use exo_ingest::proto::{Control, DataPiece, MessageKind, Violation};
use exo_ingest::session::ingest::IngestSettings;
use exo_ingest::session::{
    Action, Admission, Context, Disconnect, Notice, Output, Service, Session,
};
use exo_ingest::tls::ServerConfig;
use exo_ingest::tls::load::{TlsLoader, TlsSettings, TlsTexts};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The node's: what is measured of the echo holds for it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MESSAGE_SIZE_MAX: usize = 16 * 1024 * 1024;
const OUTPUT_SIZE_MAX: usize = 32 * 1024 * 1024;

/// Largest header of a frame we send.
const HEADER_SIZE_MAX: usize = 10;

#[derive(Parser)]
#[command(
    about = "Echoes every WebSocket message",
    after_help = "Example:\n  echo --listen 127.0.0.1:9001"
)]
struct Args {
    /// Address to listen on; port 0 lets the kernel choose.
    #[arg(long, default_value = "127.0.0.1:9001")]
    listen: SocketAddr,
    /// Use only kernel features that Linux 6.1 has.
    #[arg(long)]
    older_kernel: bool,
    /// Certificate for `wss://`, PEM.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

fn main() -> ExitCode {
    signals::survive_file_size_limit();
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What handshakes are made with, if anything.
fn tls(args: &Args) -> Result<Option<Arc<ServerConfig>>, Box<dyn std::error::Error>> {
    let (Some(cert), Some(key)) = (args.tls_cert.clone(), args.tls_key.clone()) else {
        return Ok(None);
    };
    let settings = TlsSettings { identities: vec![(cert, key)], ..TlsSettings::default() };
    let texts = settings.files().iter().map(std::fs::read).collect::<Result<_, _>>()?;
    let texts = TlsTexts::from_files(&settings, texts).ok_or("a file is missing")?;
    Ok(Some(TlsLoader::new(settings)?.load(&texts)?.config))
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let limits = Limits {
        message_size_max: MESSAGE_SIZE_MAX,
        text_size_max: MESSAGE_SIZE_MAX,
        fragments_max: 1 << 20,
        output_size_max: OUTPUT_SIZE_MAX,
        max_ahead: None,
        connections_max: 1024,
        calls_max: 1024,
        ring_size: 8 * 1024 * 1024,
        send_slot_size: 64 * 1024,
        send_slot_count: 64,
        ..Limits::production()
    };
    let config = NodeConfig {
        passed: None,
        listen: args.listen,
        tls: tls(args)?,
        shards: vec![None],
        ingest: IngestSettings::new(limits.clone()),
        limits,
        journal: None,
        replication: None,
        kernel_features: if args.older_kernel {
            KernelFeatures::V6_1
        } else {
            KernelFeatures::Newest
        },
        allow_unregistered: true,
    };
    let mut signals = signal_hook::iterator::Signals::new([15, 2])?;
    let node = Node::start_with(&config, |_| EchoService)?;
    println!("listening on {}", node.address());
    signals.forever().next();
    node.drain(Duration::ZERO);
    node.wait()?;
    Ok(())
}

struct EchoService;

impl Service for EchoService {
    type Session = EchoSession;

    fn admit(
        &mut self,
        _: Now,
        head: &Head<'_>,
        _: Situation,
        _: Option<&ClientName>,
        _: &Counters,
    ) -> Admission<EchoSession> {
        match judge_upgrade(head) {
            Ok(accept) => Admission::Upgrade { accept, session: EchoSession::default() },
            Err(refusal) => Admission::Answer(Answer::refused(refusal, false)),
        }
    }

    fn handle_refusal(&mut self, _: Refusal, _: &Counters) {}

    fn handle_keys(&mut self, _: Arc<Verifier>) {}
}

/// One peer's message under way, and what it has yet to get back.
#[derive(Default)]
struct EchoSession {
    text: TextBuffer,
    binary: BytesMut,
    out: BytesMut,
    closing: bool,
}

impl EchoSession {
    fn push(&mut self, opcode: Opcode, payload: &[u8]) {
        if self.closing {
            return;
        }
        if self.out.len() + payload.len() > OUTPUT_SIZE_MAX {
            return self.close(Some(1008));
        }
        let mut header = [0; HEADER_SIZE_MAX];
        let size = write_header(opcode, payload.len(), &mut header);
        self.out.extend_from_slice(&header[..size]);
        self.out.extend_from_slice(payload);
    }

    fn close(&mut self, code: Option<u16>) {
        let payload = code.map(u16::to_be_bytes);
        self.push_close(payload.as_ref().map_or(&[], |bytes| &bytes[..]));
    }

    fn push_close(&mut self, payload: &[u8]) {
        if !self.closing {
            let mut header = [0; HEADER_SIZE_MAX];
            let size = write_header(Opcode::Close, payload.len(), &mut header);
            self.out.extend_from_slice(&header[..size]);
            self.out.extend_from_slice(payload);
            self.closing = true;
        }
    }
}

impl Session for EchoSession {
    fn handle_data(&mut self, _: Now, piece: DataPiece<'_>, _: &mut Context<'_>) -> bool {
        match piece.kind {
            MessageKind::Binary => {
                let (start, last) = (self.binary.len(), piece.last);
                self.binary.extend_from_slice(piece.payload);
                piece.key.apply(&mut self.binary[start..]);
                if last {
                    let message = std::mem::take(&mut self.binary);
                    self.push(Opcode::Binary, &message);
                }
            }
            MessageKind::Text => {
                let mut text = std::mem::take(&mut self.text);
                match text.push(piece) {
                    Ok(Some(message)) => self.push(Opcode::Text, message.as_bytes()),
                    Ok(None) => {}
                    Err(violation) => self.close(Some(violation.close_code())),
                }
                self.text = text;
            }
        }
        false
    }

    fn handle_control(&mut self, _: Now, control: Control<'_>, _: &mut Context<'_>) {
        match control {
            Control::Ping(payload) => self.push(Opcode::Pong, payload),
            Control::Pong(_) => {}
            Control::Close { code, .. } => self.close(code),
        }
    }

    fn handle_violation(&mut self, _: Now, violation: Violation, _: &mut Context<'_>) {
        self.close(Some(violation.close_code()));
    }

    fn handle_notice(&mut self, _: Now, _: Notice, _: &mut Context<'_>) {
        self.close(Some(1001));
    }

    fn handle_promise(&mut self, _: Now, _: Seq, _: AckLevel, _: &mut Context<'_>) -> u64 {
        0
    }

    fn handle_reading(&mut self, _: Now, _: bool) {}

    fn is_deaf(&self) -> bool {
        false
    }

    fn handle_standstill(&mut self, _: Now, _: Duration) {}

    fn handle_output(&mut self, _: Now, _: Output) {}

    fn handle_timeout(&mut self, _: Now, _: &mut Context<'_>) {}

    fn handle_disconnect(&mut self, _: Now, _: Disconnect, _: &mut Context<'_>) {
        // The peer hears nothing any more: what is under way may still go out.
        self.closing = true;
    }

    fn poll_transmit(&mut self, _: Now, out: &mut [u8]) -> usize {
        let size = out.len().min(self.out.len());
        out[..size].copy_from_slice(&self.out[..size]);
        self.out.advance(size);
        size
    }

    fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    fn poll_timeout(&self) -> Option<Moment> {
        None
    }

    fn poll_promise(&mut self) -> Option<Seq> {
        None
    }

    fn poll_action(&mut self) -> Option<Action> {
        None
    }

    fn is_finished(&self) -> bool {
        self.closing && self.out.is_empty()
    }

    fn is_live(&self) -> bool {
        false
    }
}
