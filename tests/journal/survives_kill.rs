//! A node that is killed leaves every acked frame on disk. A node that drains leaves nothing but
//! audio.

use crate::EXO_INGEST;
use exo_ingest::archive::layout;
use exo_ingest::constants::BLOCK_SIZE;
use exo_ingest::format::batch::BatchReader;
use exo_ingest::format::{CallRecord, Lsn, RecordKind, SegmentHeader};
use exo_ingest_harness::PATIENCE;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

/// A received frame: its epoch (boot and microseconds) and number.
type FrameId = (u32, u64, u64);

struct Node {
    child: Child,
    address: String,
    directory: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    fn start(directory: &Path, args: &[&str]) -> Node {
        let mut command = Command::new(EXO_INGEST);
        command.env_clear().args([
            "serve",
            "--allow-unregistered",
            "--listen",
            "127.0.0.1:0",
            "--shards",
            "1",
            "--admin",
            "off",
        ]);
        command.args([
            "--set",
            "limits.ring_size=16MiB",
            "--set",
            "journal.segment_size=4MiB",
            "--set",
            "journal.reserve=1MiB",
        ]);
        command
            .args(["--claim-match", "tenant", "--max-ahead", "off", "--jwt-key"])
            .arg(directory.join("public.pem"));
        command.arg("--data-dir").arg(directory.join("data")).args(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address =
            line.trim().strip_prefix("listening on ").expect("the node serves").to_owned();
        Node { child, address, directory: directory.to_owned() }
    }

    fn call(&self, token: &str, interaction: &str) -> WebSocket<TcpStream> {
        let socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = format!("ws://{}/v1/ingest", self.address).into_client_request().unwrap();
        request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().unwrap());
        let (mut call, _) = tungstenite::client(request, socket).unwrap();
        let fields = r#""tenant_id":"dev","sample_rate":24000,"encoding":"pcm16""#;
        let start = format!(r#"{{"event":"start","interaction_id":"{interaction}",{fields}}}"#);
        call.send(Message::text(start)).unwrap();
        assert!(call.read().unwrap().into_text().unwrap().contains("started"));
        call
    }

    fn kill(mut self) -> PathBuf {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.directory.clone()
    }

    /// SIGTERM; the exit code.
    fn drain(mut self) -> Option<i32> {
        let status = Command::new("kill")
            .args(["-s", "TERM", &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
        self.child.wait().unwrap().code()
    }
}

fn ack(seq: u64) -> String {
    format!(r#"{{"event":"ack","seq":{seq}}}"#)
}

fn keys() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let made = Command::new(EXO_INGEST)
        .arg("keygen")
        .arg("--out")
        .arg(directory.path())
        .env_clear()
        .output()
        .unwrap();
    assert!(made.status.success());
    let args = ["token", "mint", "--tenant", "dev", "--interaction", "x", "--key"];
    let minted = Command::new(EXO_INGEST)
        .args(args)
        .arg(directory.path().join("private.pem"))
        .env_clear()
        .output()
        .unwrap();
    (directory, String::from_utf8(minted.stdout).unwrap().trim().to_owned())
}

/// Complete frames in a data directory. Each segment is read by itself.
fn frames_in(data_dir: &Path) -> BTreeSet<FrameId> {
    let mut frames = BTreeSet::new();
    for run in layout::runs(data_dir).unwrap() {
        let directory = layout::shard_dir(&layout::run_dir(data_dir, &run), 0);
        for id in layout::segments(&directory).unwrap() {
            let bytes = std::fs::read(layout::segment_path(&directory, id)).unwrap();
            let Ok(header) = SegmentHeader::decode(bytes.first_chunk::<BLOCK_SIZE>().unwrap())
            else {
                continue;
            };
            assert_eq!((header.id, header.run), (id, run.number()));
            let (mut at, mut calls) = (BLOCK_SIZE, BTreeSet::new());
            while let Ok(batch) = BatchReader::open(&bytes[at..]) {
                if batch.header().segment != header.uuid
                    || batch.header().lsn != Lsn(header.start.0 + at as u64)
                {
                    break;
                }
                at += batch.header().size as usize;
                for record in batch {
                    let record = record.unwrap();
                    let epoch = (record.header.epoch.boot, record.header.epoch.micros);
                    match record.header.kind {
                        RecordKind::Call => {
                            assert_eq!(CallRecord::decode(record.payload).unwrap().tenant, "dev");
                            calls.insert(epoch);
                        }
                        RecordKind::Audio if record.header.last => {
                            assert!(calls.contains(&epoch), "a frame before its call's record");
                            frames.insert((epoch.0, epoch.1, record.header.seq.0));
                        }
                        RecordKind::Audio | RecordKind::End | RecordKind::Pad => {}
                    }
                }
            }
        }
    }
    frames
}

#[test]
fn acked_frames_survive_a_kill_and_the_next_run_goes_on_beside_them() {
    for level in ["durable", "written"] {
        let (directory, token) = keys();
        for round in 1..=3u64 {
            let node = Node::start(directory.path(), &["--ack", level]);
            let mut call = node.call(&token, "call-1");
            // Audio for more than two segments. The last frames are not acked.
            for seq in 1..=1_005u64 {
                call.send(Message::binary(vec![seq as u8; 9_600])).unwrap();
                if seq % 10 == 0 {
                    assert_eq!(call.read().unwrap().into_text().unwrap().as_str(), ack(seq));
                }
            }
            node.kill();
            let frames = frames_in(&directory.path().join("data"));
            let epochs: BTreeSet<(u32, u64)> =
                frames.iter().map(|frame| (frame.0, frame.1)).collect();
            assert_eq!(epochs.len() as u64, round, "one epoch for each connection of the call");
            assert!(
                epochs
                    .iter()
                    .all(|epoch| (1..=1_000).all(|seq| frames.contains(&(epoch.0, epoch.1, seq)))),
                "{level}"
            );
        }
    }
}

#[test]
fn a_node_that_drains_exits_0_and_leaves_every_frame_and_no_empty_segment() {
    let (directory, token) = keys();
    let node = Node::start(directory.path(), &["--drain", "0s"]);
    let mut calls: Vec<_> =
        (0..3).map(|number| node.call(&token, &format!("call-{number}"))).collect();
    calls[0].send(Message::binary(vec![1; 9_600])).unwrap();
    calls[0].send(Message::text(r#"{"event":"stop"}"#)).unwrap();
    let stopped = calls[0].read().unwrap().into_text().unwrap();
    assert!(stopped.contains(r#""durable_seq":1"#), "{stopped}");
    for call in &mut calls[1..] {
        (0..7).for_each(|_| call.send(Message::binary(vec![2; 9_600])).unwrap());
    }
    // The pong shows that the node has read everything before it.
    calls[2].send(Message::Ping(Vec::new().into())).unwrap();
    calls[1].send(Message::Ping(Vec::new().into())).unwrap();
    assert!(calls[2].read().unwrap().is_pong() && calls[1].read().unwrap().is_pong());
    assert_eq!(node.drain(), Some(0));
    let data_dir = directory.path().join("data");
    assert_eq!(frames_in(&data_dir).len(), 15);
    let run = layout::run_dir(&data_dir, &layout::runs(&data_dir).unwrap()[0]);
    assert_eq!(layout::segments(&layout::shard_dir(&run, 0)).unwrap(), [1]);
}
