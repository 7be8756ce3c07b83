//! `handshakes`: how many TLS handshakes a second one core of a node does, in closed loop.
//!
//! Each client connects, does the handshake, sends close_notify at once, and waits until the node
//! ends the connection. By then the node has done its whole part, including the tickets.

use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::handshakes::{HandshakesArgs, Kinds};
use crate::duration::show;
use crate::failure::{Failure, Reason};
use crate::gate::Gate;
use crate::plural::{counted, grouped};
use crate::report;
use crate::socket::{Handshake, Socket};
use crate::stats::{Metric, Recorder, Stats};
use crate::target::Target;
use crate::tls::{self, Tls};
use crate::verdict::{INTERRUPTED, Verdict};
use crate::{host, ring};

/// A client waits this long after a failure, so that it does not flood a node that refuses.
const FAILURE_WAIT: Duration = Duration::from_millis(10);

/// The result of a measurement.
pub struct Measured {
    /// The result.
    pub json: Value,
    /// The exit code.
    pub exit_code: u8,
}

/// What the clients of one phase share.
struct Phase {
    address: SocketAddr,
    tls: Arc<Tls>,
    /// Handshakes with tickets.
    is_resumed: bool,
    end: Instant,
    timeout: Duration,
    cut: Arc<AtomicBool>,
}

/// Measures what the flags ask for.
pub fn measure(args: &HandshakesArgs, cut: &Arc<AtomicBool>) -> Result<Measured, Box<dyn Error>> {
    let target = Target::parse(&args.url)?;
    let cpus = host::cpus_of("--cpus", args.cpus.as_deref())?;
    host::make_room_for(args.clients)?;
    let mut offered = args.tls.clone();
    offered.tls_resume = args.kinds != Kinds::Full;
    let tls = Tls::new(&offered, &target, args.clients)?;
    let tls = tls.ok_or("handshakes: a ws:// URL has no TLS; give a wss:// URL")?;
    tls::knock(&target, Some(&tls), args.timeout)?;
    let phase = |is_resumed: bool, duration: Duration| Phase {
        address: target.address,
        tls: tls.clone(),
        is_resumed,
        end: Instant::now() + duration,
        timeout: args.timeout,
        cut: cut.clone(),
    };
    let mut phases = Vec::new();
    if args.kinds != Kinds::Resumed {
        phases.push(measure_phase(args, &cpus, phase(false, args.duration))?);
    } else {
        // Full handshakes first, to get tickets.
        run(args.clients, &cpus, &Arc::new(phase(false, Duration::from_millis(200))))?;
    }
    if args.kinds != Kinds::Full && !cut.load(Ordering::Relaxed) {
        phases.push(measure_phase(args, &cpus, phase(true, args.duration))?);
    }
    let is_right = |phase: &Value| {
        let is_of_kind =
            phase[format!("handshakes_{}", report::text_of(&phase["kind"]))].as_u64() > Some(0);
        is_of_kind && phase["failures"].as_object().is_some_and(serde_json::Map::is_empty)
    };
    let exit_code = match cut.load(Ordering::Relaxed) {
        true => INTERRUPTED,
        false if phases.iter().all(is_right) => Verdict::Pass.exit_code(),
        false => Verdict::Fail.exit_code(),
    };
    let json = json!({
        "schema": {"name": "exo-load/handshakes", "version": 1},
        "exit_code": exit_code,
        "url": args.url,
        "clients": args.clients,
        "tls": report::tls::agreed(&tls),
        "phases": phases,
    });
    Ok(Measured { json, exit_code })
}

/// Measures one phase, and what it cost both sides.
fn measure_phase(
    args: &HandshakesArgs,
    cpus: &[usize],
    phase: Phase,
) -> Result<Value, Box<dyn Error>> {
    let server = || args.server_pid.map(host::sample_server).transpose();
    let (begin, own_before, server_before) = (Instant::now(), host::own_cpu(), server()?);
    let is_resumed = phase.is_resumed;
    let stats = run(args.clients, cpus, &Arc::new(phase))?;
    let (elapsed, own_cpu) = (begin.elapsed(), host::own_cpu() - own_before);
    let done = stats.handshakes.full + stats.handshakes.resumed;
    let nanos = elapsed.as_nanos() as f64;
    let server = server_before.zip(server()?).map(|(before, after)| {
        let [before, after] = [before, after].map(|sample| sample.user_ns + sample.system_ns);
        let cpu = after.saturating_sub(before);
        let each = cpu.checked_div(done);
        let per_second = each.filter(|each| *each > 0).map(|each| 1_000_000_000 / each);
        json!({
            "cpu_percent": cpu as f64 * 100.0 / nanos,
            "cpu_ns_per_handshake": each,
            "per_second_of_one_core": per_second,
        })
    });
    let handshakes = &stats.handshakes;
    Ok(json!({
        "kind": if is_resumed { "resumed" } else { "full" },
        "seconds": elapsed.as_secs_f64(),
        "handshakes_full": handshakes.full,
        "handshakes_resumed": handshakes.resumed,
        "per_second": done as f64 * 1e9 / nanos,
        "latency_ns": report::figures(stats.latency(Metric::Tls)),
        "own_cpu_percent": own_cpu as f64 * 100.0 / (nanos * cpus.len().max(1) as f64),
        "own_cpu_ns_full": handshakes.full_cpu_ns.checked_div(handshakes.full),
        "own_cpu_ns_resumed": handshakes.resumed_cpu_ns.checked_div(handshakes.resumed),
        "ended_without_close_notify": handshakes.unclosed,
        "server": server,
        "failures": stats.failures,
    }))
}

/// Runs the clients on their threads until the phase is over.
fn run(clients: u64, cpus: &[usize], phase: &Arc<Phase>) -> Result<Stats, Box<dyn Error>> {
    let workers = cpus.len().max(1) as u64;
    let recorder = Arc::new(Recorder::new());
    let mut threads = Vec::new();
    for index in 0..workers {
        let (phase, recorder, cpu) =
            (phase.clone(), recorder.clone(), cpus.get(index as usize).copied());
        let clients = clients / workers + u64::from(index < clients % workers);
        let body = move || -> std::io::Result<()> {
            if let Some(cpu) = cpu {
                host::pin(&[cpu])?;
            }
            ring::runtime()?.block_on(async move {
                let gate = Rc::new(Gate::new());
                let client =
                    |_| tokio_uring::spawn(client(phase.clone(), recorder.clone(), gate.clone()));
                let clients: Vec<_> = (0..clients).map(client).collect();
                for client in clients {
                    client.await.map_err(std::io::Error::other)?;
                }
                Ok(())
            })
        };
        threads.push(std::thread::Builder::new().name(format!("exo-load-{index}")).spawn(body)?);
    }
    for thread in threads {
        thread
            .join()
            .map_err(|_| "a worker thread failed; this is a fault of exo-load")?
            .map_err(ring::no_ring)?;
    }
    let (mut spare, mut stats) = (Stats::new(), Stats::new());
    recorder.collect(&mut spare, &mut stats);
    Ok(stats)
}

async fn client(phase: Arc<Phase>, recorder: Arc<Recorder>, gate: Rc<Gate>) {
    while Instant::now() < phase.end && !phase.cut.load(Ordering::Relaxed) {
        let done = tokio::time::timeout(phase.timeout, connect(&phase, &gate)).await;
        let done = done.unwrap_or_else(|_| {
            let detail = format!("no handshake and close within {:?}", phase.timeout);
            Err(Failure::new(Reason::SetupTimeout, detail))
        });
        match done {
            Ok((handshake, latency, is_closed)) => recorder.write(|stats| {
                stats.handshakes.note(handshake);
                stats.handshakes.unclosed += u64::from(!is_closed);
                stats.record(Metric::Tls, latency);
            }),
            Err(failure) => {
                recorder.write(|stats| stats.fail("a client", &failure));
                tokio::time::sleep(FAILURE_WAIT).await;
            }
        }
    }
}

/// One connection: its handshake, how long that took, and whether the node ended it in order.
async fn connect(phase: &Phase, gate: &Gate) -> Result<(Handshake, u64, bool), Failure> {
    let mut socket = Socket::connect(phase.address).await?;
    let begin = Instant::now();
    let handshake = socket.secure(&phase.tls, phase.is_resumed, gate).await?;
    let latency = begin.elapsed().as_nanos() as u64;
    socket.queue_close_notify();
    // If the node has ended the connection, reading shows that.
    let _ = socket.flush().await;
    let mut buffer = Vec::with_capacity(1_024);
    loop {
        let read;
        (read, buffer) = socket.read(buffer).await;
        if !matches!(read, Ok(Some(_))) {
            break;
        }
    }
    let is_closed = socket.is_closed_by_peer();
    // Nothing is in flight now. A reset, because an orderly end would keep a port for a minute.
    socket.reset(false);
    Ok((handshake, latency, is_closed))
}

/// As a table.
pub fn table(json: &Value) -> String {
    let text = |value: &Value| report::text_of(value);
    let tls = &json["tls"];
    let mut out = format!(
        "{}: {}, {}, {}; the node signs with {}{}\n\n",
        text(&json["url"]),
        text(&tls["version"]),
        text(&tls["cipher_suite"]),
        text(&tls["key_exchange"]),
        text(&tls["server_key"]),
        if tls["is_verified"] == true {
            ""
        } else {
            "; its certificate was not checked (--insecure)"
        },
    );
    out += &format!(
        "{:<9}{:>10}{:>10}{:>10}{:>12}{:>12}{:>9}{:>12}{:>9}{:>12}\n",
        "", "full", "resumed", "a second", "p50", "p99", "exo-load", "node each", "node", "a core"
    );
    for phase in json["phases"].as_array().into_iter().flatten() {
        let count = |pointer: &str| phase.pointer(pointer).and_then(Value::as_u64);
        let time = |pointer: &str| count(pointer).map_or("-".to_owned(), show);
        let percent = |pointer: &str| {
            phase
                .pointer(pointer)
                .and_then(Value::as_f64)
                .map_or("-".to_owned(), |percent| format!("{percent:.0} %"))
        };
        let number = |pointer: &str| count(pointer).map_or("-".to_owned(), grouped);
        out += &format!(
            "{:<9}{:>10}{:>10}{:>10.0}{:>12}{:>12}{:>9}{:>12}{:>9}{:>12}\n",
            text(&phase["kind"]),
            number("/handshakes_full"),
            number("/handshakes_resumed"),
            phase["per_second"].as_f64().unwrap_or_default(),
            time("/latency_ns/p50"),
            time("/latency_ns/p99"),
            percent("/own_cpu_percent"),
            time("/server/cpu_ns_per_handshake"),
            percent("/server/cpu_percent"),
            number("/server/per_second_of_one_core"),
        );
    }
    for phase in json["phases"].as_array().into_iter().flatten() {
        let unclosed = phase["ended_without_close_notify"].as_u64().unwrap_or(0);
        if unclosed > 0 {
            out += &format!(
                "{}: {} ended without close_notify\n",
                text(&phase["kind"]),
                counted(unclosed, "connection")
            );
        }
        for (name, tally) in phase["failures"].as_object().into_iter().flatten() {
            out += &format!(
                "{}: {name}, {}: ",
                text(&phase["kind"]),
                counted(tally["count"].as_u64().unwrap_or(0), "time")
            );
            out += &format!("{}\n", text(&tally["examples"][0]));
        }
        if phase["kind"] == "resumed" && phase["handshakes_resumed"] == 0 {
            out += "resumed: no handshake was resumed; the node gives no tickets, or does not \
                    accept them\n";
        }
    }
    out
}
