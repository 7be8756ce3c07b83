//! A shard with a journal on a scripted disk, for the tests of its ACKs.

use crate::ack_level::AckLevel;
use crate::auth::{Claims, ClientName, Verifier};
use crate::call::{CallIdentity, Seq};
use crate::constants::BLOCK_SIZE;
use crate::format::batch::BatchReader;
use crate::format::{RecordKind, SegmentUuid};
use crate::io::memory::Region;
use crate::io::scripted::{Scripted, World};
use crate::io::{FileHandle, Socket};
use crate::journal::frame_ring::{RING_SIZE_MIN, RecordHeaders};
use crate::journal::settings::JournalSettings;
use crate::journal::writer::{Backlog, PreparedSegment, SegmentRequest, WriterSettings};
use crate::latency::Latencies;
use crate::proto::handshake::{Answer, Situation, judge_upgrade};
use crate::proto::http::Head;
use crate::proto::mask::Kernel;
use crate::session::Admission;
use crate::session::ingest::{IngestSession, IngestSettings, IngestShared};
use crate::shard::tests::latencies;
use crate::shard::*;
use crate::tenants::Tenants;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

pub(super) const SEGMENT_SIZE: usize = 1 << 20;

/// Ingest sessions for all peers, without tokens.
pub(super) struct OpenService {
    shared: Arc<IngestShared>,
    tenants: Arc<Tenants>,
}

impl Service for OpenService {
    type Session = IngestSession;

    fn admit(
        &mut self,
        now: Now,
        head: &Head<'_>,
        situation: Situation,
        _: Option<&ClientName>,
        _: &Counters,
    ) -> Admission<IngestSession> {
        if situation.at_capacity {
            return Admission::Answer(Answer::refused(
                crate::proto::handshake::Refusal::Capacity,
                false,
            ));
        }
        let identity = CallIdentity { tenant: "acme".into(), interaction: "call-1".into() };
        let (claims, permit) = (
            Claims {
                identity,
                issued_at: 0,
                expires_at: u64::MAX,
                allowed_tenants: Default::default(),
            },
            self.tenants.admit("acme").unwrap(),
        );
        let session = IngestSession::new(now, claims, permit, Arc::clone(&self.shared));
        Admission::Upgrade { accept: judge_upgrade(head).unwrap(), session }
    }

    fn handle_keys(&mut self, _: Arc<Verifier>) {}
}

/// A shard with a journal, and everything around it.
pub(super) struct Node {
    pub(super) world: World,
    pub(super) shard: Shard<Scripted, OpenService>,
    pub(super) mailbox: MailboxSender,
    pub(super) requests: Receiver<(usize, SegmentRequest)>,
    pub(super) files: Vec<FileHandle>,
    pub(super) has_room: bool,
    pub(super) counters: Arc<Counters>,
}

impl Node {
    pub(super) fn new(level: AckLevel) -> Node {
        Node::with(level, Limits::tiny())
    }

    pub(super) fn with(level: AckLevel, limits: Limits) -> Node {
        let world = World::new();
        let limits = Limits { max_ahead: None, ..limits };
        let settings = IngestSettings { has_journal: true, ..IngestSettings::new(limits.clone()) };
        let mut io = world.io(8, 512);
        let ring = FrameRing::new(Region::allocate(RING_SIZE_MIN).unwrap(), Kernel::detect());
        io.use_region(ring.memory());
        let (mailbox_sender, mailbox) = mailbox::mailbox().unwrap();
        let (request_sender, requests) = sync_channel(2);
        let journal =
            JournalSettings { stall_timeout: Duration::from_secs(5), ..JournalSettings::default() };
        let backlog = Backlog::production();
        let settings_of_writer = WriterSettings {
            level,
            journal,
            backlog,
            shard: 0,
            run: 1,
            clock: crate::clock::JournalClock::default(),
        };
        let counters = Arc::new(Counters::default());
        let config = ShardConfig {
            index: 0,
            boot: 4,
            service: OpenService {
                shared: IngestShared::new(Arc::new(settings)),
                tenants: Tenants::new(100, None),
            },
            ring,
            journal: Some(ShardJournalConfig {
                settings: settings_of_writer,
                requests: request_sender,
                first: None,
                replication: None,
            }),
            limits,
            counters: Arc::clone(&counters),
            mailbox,
            tls: None,
            shards: vec![mailbox_sender.clone()],
        };
        let shard = Shard::new(io, config);
        Node {
            world,
            shard,
            mailbox: mailbox_sender,
            requests,
            files: Vec::new(),
            has_room: true,
            counters,
        }
    }

    pub(super) fn turn(&mut self) -> Turn {
        let turn = self.shard.turn().unwrap();
        while let Ok((_, request)) = self.requests.try_recv() {
            match request {
                SegmentRequest::Prepare if self.has_room => self.give_segment(),
                SegmentRequest::Prepare => self.mailbox.try_send(Message::NoRoom).unwrap(),
                SegmentRequest::Retire { .. } | SegmentRequest::Sealed => {}
            }
        }
        turn
    }

    pub(super) fn give_segment(&mut self) {
        let file = self.world.create_file(SEGMENT_SIZE);
        self.files.push(file);
        let id = self.files.len() as u64;
        let (uuid, size) = (SegmentUuid([id as u8; 16]), SEGMENT_SIZE as u64);
        let headers = RecordHeaders::default();
        self.mailbox
            .try_send(Message::Segment(PreparedSegment { id, uuid, file, size, headers }))
            .unwrap();
    }

    pub(super) fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn();
            self.world.advance(Duration::from_millis(1));
        }
    }

    /// A connection that has been answered; what with.
    pub(super) fn connect(&mut self) -> (Socket, String) {
        let socket = self.world.connect("192.0.2.1:4000");
        let head = b"GET /v1/ingest HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer x\r\n\r\n";
        self.world.peer_sends(socket, head);
        self.turns(4);
        (socket, self.read(socket))
    }

    /// A call that has been started.
    pub(super) fn call(&mut self) -> Socket {
        let (socket, answer) = self.connect();
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        let fields = r#""tenant_id":"acme","sample_rate":8000,"encoding":"pcm16""#;
        self.send(
            socket,
            0x81,
            format!(r#"{{"event":"start","interaction_id":"call-1",{fields}}}"#).as_bytes(),
        );
        self.turns(4);
        assert!(self.read(socket).contains("started"));
        socket
    }

    /// One WebSocket frame; its mask of zeros leaves the bytes as they are.
    pub(super) fn send(&self, socket: Socket, opcode: u8, payload: &[u8]) {
        let mut frame = vec![opcode, 0x80 | 126];
        frame.extend((payload.len() as u16).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(payload);
        // The least length there is would do for the short ones; RFC 6455 §5.2 wants it.
        if payload.len() < 126 {
            frame.splice(1..4, [0x80 | payload.len() as u8]);
        }
        self.world.peer_sends(socket, &frame);
    }

    /// Everything that has been measured so far.
    pub(super) fn latencies(&mut self) -> Latencies {
        let mailbox = self.mailbox.clone();
        latencies::collect(mailbox, || assert_eq!(self.turn(), Turn::More))
    }

    pub(super) fn frames(&mut self, socket: Socket, count: usize) {
        for _ in 0..count {
            self.send(socket, 0x82, &[5; 320]);
        }
    }

    pub(super) fn read(&self, socket: Socket) -> String {
        String::from_utf8_lossy(&self.world.peer_reads(socket)).into_owned()
    }

    /// The last frame that a power loss now would leave.
    pub(super) fn durable_seq(&self) -> Option<Seq> {
        let mut last = None;
        for file in &self.files {
            let image = self.world.crash_image(*file, || false);
            let mut rest = &image[BLOCK_SIZE..];
            while let Ok(batch) = BatchReader::open(rest) {
                rest = &rest[batch.header().size as usize..];
                let audio = batch
                    .map(Result::unwrap)
                    .filter(|record| record.header.kind == RecordKind::Audio);
                last = audio.map(|record| record.header.seq).last().or(last);
            }
        }
        last
    }
}
