//! `exo-ingest top`: as text, as JSON, and live in a terminal, beside a real node.

use crate::EXO_INGEST;
use exo_ingest_harness::{NodeProcess, PATIENCE, Peer, eventually};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const WIDTH: usize = 100;
const HEIGHT: usize = 30;

fn top(args: &[&str]) -> Output {
    Command::new(EXO_INGEST).arg("top").args(args).env_clear().output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn call(node: &NodeProcess, interaction: &str) -> Peer {
    let mut peer = node.call(interaction);
    peer.send_frames(10, 9_600);
    peer.expect_ack(10);
    peer
}

#[test]
fn once_prints_tables_or_json() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &[]);
    let _peer = call(&node, "call/1");
    let admin = node.admin().address().to_string();
    let output = top(&["--admin", &admin, "--once", "--interval", "100ms"]);
    let table = text(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    for part in [&*format!("  {admin}  up "), "READY\n", "calls 1 of ", "acme/call%2F1", "refusals"]
    {
        assert!(table.contains(part), "{part} in {table}");
    }
    assert!(!table.contains('\u{1b}'), "no colours in a pipe");
    let url = format!("http://{admin}/");
    let output = top(&["--admin", &url, "--once", "--json", "--interval", "100ms"]);
    assert!(output.status.success(), "{output:?}");
    let json = text(&output.stdout);
    assert_eq!(json.lines().count(), 1);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["format"], &json["calls"][0]["interaction"]), (&1.into(), &"call/1".into()));
    assert_eq!(json["rates"]["node"]["frames_per_second"], 0.0);
    assert!(json["rates"]["seconds"].as_f64() >= Some(0.1), "{json}");
}

#[test]
fn what_goes_wrong_is_one_sentence_that_says_what_to_do() {
    // A port that nothing listens on: it was given to us and is free again.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (args, code, part) in [
        (&["--admin", &free.to_string(), "--once"][..], 1, "connection refused"),
        (&["--admin", &free.to_string(), "--json"], 1, "--admin"),
        (&["--admin", &free.to_string()], 2, "--once"),
        (&["--admin", "off"], 2, "HOST:PORT"),
        (&["--interval", "1ms"], 2, "100ms"),
    ] {
        let output = top(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains(part), "{args:?}: {said}");
        assert!(output.stdout.is_empty());
    }
}

/// `top` in a terminal, which the test holds the other side of.
fn in_terminal(admin: &str) -> (Child, File) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let (ws_row, ws_col) = (HEIGHT as u16, WIDTH as u16);
    tcsetwinsize(&terminal, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let open = || OpenOptions::new().read(true).write(true).open(&name).unwrap();
    let child = Command::new(EXO_INGEST)
        .args(["top", "--admin", admin, "--interval", "200ms"])
        .env_clear()
        .env("TERM", "xterm-256color")
        .stdin(open())
        .stdout(open())
        .stderr(open())
        .spawn()
        .unwrap();
    let terminal = File::from(terminal);
    (child, terminal)
}

/// `top` in a terminal of its own.
struct Session {
    child: Child,
    terminal: File,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Session {
    fn start(admin: &str) -> Session {
        let (child, terminal) = in_terminal(admin);
        let output = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, sink) = (terminal.try_clone().unwrap(), Arc::clone(&output));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The terminal of a program that has ended gives an error.
            while let Ok(size @ 1..) = reader.read(&mut bytes) {
                sink.lock().unwrap().extend_from_slice(&bytes[..size]);
            }
        });
        Session { child, terminal, output }
    }

    fn press(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).unwrap();
    }

    /// What the terminal shows now.
    fn screen(&self) -> String {
        shown(&text(&self.output.lock().unwrap().clone()))
    }

    #[track_caller]
    fn await_text(&self, part: &str) {
        let begin = Instant::now();
        while !self.screen().contains(part) {
            assert!(begin.elapsed() < PATIENCE, "{part} is not in\n{}", self.screen());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The screen after this output: text, and the few sequences that the view writes.
fn shown(output: &str) -> String {
    let mut cells = vec![[' '; WIDTH]; HEIGHT];
    let (mut row, mut column) = (0, 0);
    let mut rest = output.chars();
    while let Some(letter) = rest.next() {
        if letter != '\u{1b}' {
            if row < HEIGHT && column < WIDTH {
                cells[row][column] = letter;
            }
            column += 1;
            continue;
        }
        assert_eq!(rest.next(), Some('['), "a sequence that this test does not know");
        let (mut arguments, mut end) = (String::new(), ' ');
        for letter in rest.by_ref() {
            end = letter;
            if letter.is_ascii_alphabetic() {
                break;
            }
            arguments.push(letter);
        }
        match end {
            'H' => {
                let mut numbers = arguments.split(';').map(|number| number.parse().unwrap_or(1));
                row = numbers.next().unwrap_or(1) - 1;
                column = numbers.next().unwrap_or(1) - 1;
            }
            'J' => cells.fill([' '; WIDTH]),
            _ => {}
        }
    }
    cells.iter().map(|row| row.iter().collect::<String>() + "\n").collect()
}

#[test]
fn the_live_view_takes_keys_and_waits_for_a_node_that_is_gone() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &[]);
    let admin = node.admin().address().to_string();
    let peer = call(&node, "call-1");
    let mut session = Session::start(&admin);
    session.await_text("acme/call-1");
    session.await_text("READY");
    assert!(session.screen().starts_with("exo-ingest "), "{}", session.screen());
    session.press("ss");
    session.await_text("worst calls   by silent");
    session.press("p");
    session.await_text("PAUSED");
    session.press("p");
    session.await_text(" READY");
    drop((peer, node));
    session.await_text("NO ANSWER");
    session.await_text("connection refused");
    assert!(session.screen().contains("acme/call-1"), "what was known stays");
    let node = NodeProcess::start_with(EXO_INGEST, data_dir.path(), &admin, &[]);
    session.await_text(" READY");
    session.await_text("no live calls");
    let _peer = call(&node, "call-2");
    session.await_text("acme/call-2");
    session.press("q");
    eventually("it ends", || session.child.try_wait().unwrap().is_some());
    assert!(session.child.try_wait().unwrap().unwrap().success());
    let output = text(&session.output.lock().unwrap().clone());
    assert!(output.contains("\u{1b}[?1049l"), "the terminal is as it was");
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    let mut session = Session::start("127.0.0.1:1");
    session.await_text("waiting for the node at 127.0.0.1:1");
    let pid = rustix::process::Pid::from_child(&session.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    eventually("it ends", || session.child.try_wait().unwrap().is_some());
    let output = text(&session.output.lock().unwrap().clone());
    assert!(output.contains("\u{1b}[?1049l"), "{output:?}");
}

#[test]
fn it_ends_when_its_terminal_is_gone() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &[]);
    let (mut child, mut terminal) = in_terminal(&node.admin().address().to_string());
    // It shows something: so it reads keys, too.
    assert!(terminal.read(&mut [0; 16]).unwrap() > 0);
    drop(terminal);
    eventually("it ends", || child.try_wait().unwrap().is_some());
}
