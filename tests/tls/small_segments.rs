//! Calls over TLS on a path with small segments: TCP itself cuts every flight of a handshake and
//! every record many times. All audio is in the journal afterwards, byte for byte.
//!
//! Each test runs itself again in a network namespace of its own, whose loopback device carries
//! small packets, one segment each. That needs root, `unshare` and `ip`. Without root it is
//! skipped.

use crate::EXO_INGEST;
use exo_ingest_harness::certificates::Authority;
use exo_ingest_harness::{
    Message, NodeProcess, Peer, Played, TENANT, assert_sound, audio, audit, mint, wire,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

/// Set for the run within the namespace.
const INSIDE: &str = "EXO_INGEST_IN_SMALL_SEGMENTS";

/// What the run within prints at its end.
const DONE: &str = "all calls are whole";

/// Frames of a call: six seconds of audio and some, well within `max_ahead`.
const FRAME_COUNT: u64 = 30;

/// Runs `test` in a namespace where no packet is larger than `mtu` bytes.
fn with_small_segments(name: &str, mtu: u64, test: fn(u64)) {
    if std::env::var_os(INSIDE).is_some() {
        test(mtu);
        return println!("{DONE}");
    }
    if !rustix::process::geteuid().is_root() {
        let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        assert!(!is_ci, "only root can make a network namespace");
        let words = "only root can make a network namespace; run the test as root";
        eprintln!("SKIPPED, nothing was tested: {words}");
        return println!("SKIPPED, nothing was tested: {words}");
    }
    // With segmentation left to the device, loopback would carry 64 KiB at once whatever its MTU.
    let script = format!("ip link set lo mtu {mtu} gso_max_segs 1 up && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--net", "/bin/sh", "-c", &script, "sh"]);
    command.arg(std::env::current_exe().expect("a test has a path"));
    command.args(["--exact", &format!("small_segments::{name}"), "--nocapture"]).env(INSIDE, "1");
    let output = command.output().unwrap_or_else(|error| panic!("unshare (util-linux): {error}"));
    let [said, errors] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    print!("{said}");
    assert!(
        output.status.success() && said.contains(DONE),
        "in a network namespace, made with `unshare` and `ip` (iproute2): {}\n{said}{errors}",
        output.status
    );
}

/// What this namespace has received: packets and bytes.
fn received() -> (u64, u64) {
    let value = |file: &str, group: &str, name: &str| -> u64 {
        let text = std::fs::read_to_string(file).expect("every namespace has it");
        let mut lines = text.lines().filter(|line| line.starts_with(group));
        let [names, values] = [(); 2].map(|()| lines.next().expect("two lines").split(' '));
        let (_, value) = names.zip(values).find(|(it, _)| *it == name).expect("a counter");
        value.parse().expect("a number")
    };
    (
        value("/proc/self/net/snmp", "Ip:", "InReceives"),
        value("/proc/self/net/netstat", "IpExt:", "InOctets"),
    )
}

/// A client of each version.
fn clients(ca: &Authority) -> [Arc<ClientConfig>; 2] {
    [&TLS12, &TLS13].map(|version| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    })
}

/// Plays a call as fast as it is acknowledged, to its end.
fn play(node: SocketAddr, config: &Arc<ClientConfig>, interaction: &str, seed: u64) -> Peer {
    let mut peer = Peer::connect_tls(node, config);
    peer.upgrade(&mint(TENANT, interaction));
    peer.start(TENANT, interaction);
    for seq in 1..=FRAME_COUNT {
        peer.send(&wire::binary(&audio(seed, seq)));
        if seq % 10 == 0 {
            peer.expect_ack(seq);
            let tls = peer.tls().connection();
            if tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
                tls.refresh_traffic_keys().expect("after the handshake");
            }
        }
    }
    peer.send(&wire::text(r#"{"event":"stop"}"#));
    let message = peer.receive();
    let Message::Text(text) = &message else { panic!("{message:?}") };
    let promise = format!(r#""durable_seq":{FRAME_COUNT}"#);
    assert!(text.starts_with(r#"{"event":"stopped""#) && text.contains(&promise), "{text}");
    peer.expect_close(1000, "");
    peer
}

/// Calls of both versions at the same time, then one more of each, which resumes its session.
fn calls_are_whole(mtu: u64) {
    for features in ["newest", "6.1"] {
        let directory = tempfile::tempdir().unwrap();
        let ca = Authority::new("servers");
        let [certificate, key] = ca.issue(&["localhost"]).write(directory.path(), "node");
        let data = directory.path().join("data");
        let node = NodeProcess::start(
            EXO_INGEST,
            &data,
            &[
                "--tls-cert",
                certificate.to_str().unwrap(),
                "--tls-key",
                key.to_str().unwrap(),
                "--kernel-features",
                features,
                "--max-ahead",
                "30s",
                "--set",
                "journal.reserve=0",
            ],
        );
        let (before, address) = (received(), node.address());
        let clients = clients(&ca);
        let names = ["new-1.2", "new-1.3", "again-1.2", "again-1.3"];
        std::thread::scope(|scope| {
            for (seed, (config, name)) in (0..).zip(clients.iter().zip(names)) {
                scope.spawn(move || play(address, config, name, seed));
            }
        });
        for (seed, (config, name)) in (2..).zip(clients.iter().zip(&names[2..])) {
            let mut peer = play(address, config, name, seed);
            let kind = peer.tls().connection().handshake_kind();
            assert_eq!(kind, Some(HandshakeKind::Resumed), "{name}");
        }
        let after = received();
        let (packets, bytes) = (after.0 - before.0, after.1 - before.1);

        let metrics = node.admin().metrics();
        let [spills, used, updates] = ["spills_total", "spill_buffers_used", "key_updates_total"]
            .map(|name| metrics.sum(&format!("exo_ingest_tls_{name}")) as u64);
        let frames = 4 * FRAME_COUNT;
        println!(
            "kernel features {features}: {frames} frames, {spills} records in pieces; \
             {packets} packets of {} bytes on average",
            bytes / packets
        );
        assert!(bytes / packets <= mtu, "segments are not small");
        assert!(
            bytes > frames * 9_000 && packets > bytes / mtu,
            "{packets} packets, {bytes} bytes"
        );
        assert!(spills > 0, "no record was cut");
        assert_eq!((used, updates), (0, 12), "three updates by each side of the 1.3 calls");
        assert_eq!(metrics.sum("exo_ingest_tls_failures_total"), 0.0);

        let pid = node.pid();
        assert!(node.terminate().success());
        let played: Vec<Played> = (0..)
            .zip(names)
            .map(|(seed, name)| Played {
                interaction: name.to_owned(),
                pid,
                seed,
                sent: FRAME_COUNT,
                acked: FRAME_COUNT,
                stopped: Some(FRAME_COUNT),
                close: Some(1000),
            })
            .collect();
        let audit = audit(&data, &played);
        assert_eq!((audit.calls, audit.acked, audit.beyond), (4, frames, 0));
        assert_sound(&data);
    }
}

#[test]
fn with_the_smallest_segments_that_tcp_has() {
    // 36 bytes each: IP takes 20, and TCP with its timestamps 32.
    with_small_segments("with_the_smallest_segments_that_tcp_has", 88, calls_are_whole);
}

#[test]
fn with_the_segments_of_a_path_that_is_not_known() {
    with_small_segments("with_the_segments_of_a_path_that_is_not_known", 576, calls_are_whole);
}
