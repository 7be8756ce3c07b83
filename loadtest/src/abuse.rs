//! `abuse`: hostile peers beside live calls. The live calls are those of `run`, with all its
//! checks. Peers and new calls have their own threads.
//!
//! [`kind`] lists the kinds of peers and [`plays`] what each does. [`endings`] counts how the node
//! ended them, [`phases`] sorts the figures of the live calls, and [`verdict`] judges.

#![forbid(unsafe_code)]

mod attack;
mod bytes;
mod ear;
mod ending;
pub mod endings;
pub mod kind;
mod pace;
mod peer;
mod phases;
mod plays;
mod probe;
mod report;
pub mod times;
mod verdict;
mod watch;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use self::attack::Attack;
use self::endings::Endings;
use self::kind::Kind;
use self::probe::{Probe, Probed};
use self::report::Findings;
use self::times::Times;
use self::watch::{Seen, Watch};
use crate::cli::{AbuseArgs, RunArgs};
use crate::identities::{self, CallIds};
use crate::plan::Plan;
use crate::target::Target;
use crate::{engine, files, host, results};

/// Length of the ids of peers that need long answers. The node takes 256 bytes at most.
const LONG_ID: usize = 230;

/// The command, from its flags to its exit code.
pub fn abuse(args: &AbuseArgs) -> Result<u8, Box<dyn Error>> {
    if let Some(directory) = &args.out {
        files::prepare(directory, files::Holds::Run, args.force)?;
    }
    args.play.check()?;
    if args.kind == Kind::Renegotiate && !Target::parse(&args.play.url)?.is_secure() {
        return Err("renegotiate: only TLS can change keys; give a wss:// URL".into());
    }
    host::make_room_for_peers(args.calls_live, args.peers())?;
    let live = args.live();
    let cut = engine::cut_on_interrupt()?;
    // Tokens first: the run's clock starts with the plan, and a token takes a millisecond.
    let peers = peer_ids(args, if args.kind.is_call() { args.peers() } else { 1 })?;
    let news = live.duration.as_secs() + 1;
    let news = identities::of_calls(&args.others("new-", news), Duration::ZERO, news)?;
    let plan = Arc::new(Plan::new(&live, cut)?);
    if !plan.cpus.is_empty() {
        host::pin(&plan.cpus).map_err(host::HostError::Cpus)?;
    }
    engine::knock(&plan, &live)?;
    let findings = play(args, &live, &plan, (peers, news))?;
    if let Some(directory) = &args.out {
        files::write(directory, &findings.live, &findings.outcome, args.play.note.as_deref())?;
        results::html::write(directory)?;
        files::save(&directory.join(files::OF_ABUSE), format!("{:#}\n", findings.json))?;
    }
    if args.play.json {
        println!("{:#}", findings.json);
    } else {
        print!("{}", report::table(&findings.json));
    }
    Ok(findings.exit_code())
}

fn peer_ids(args: &AbuseArgs, calls: u64) -> Result<Vec<CallIds>, Box<dyn Error>> {
    let mut prefix = format!("abuse-{}-", args.kind.name());
    if args.kind == Kind::ZeroWindow {
        prefix = format!("{prefix:x<LONG_ID$}-");
    }
    identities::of_calls(&args.others(&prefix, calls), Duration::ZERO, calls)
}

/// Plays the live calls on this thread, and everything else on others at the same time.
fn play(
    args: &AbuseArgs,
    live: &RunArgs,
    plan: &Arc<Plan>,
    (peers, news): (Vec<CallIds>, Vec<CallIds>),
) -> Result<Findings, Box<dyn Error>> {
    let times = args.times(&plan.schedule);
    let done = Arc::new(AtomicBool::new(false));
    let attacking = start_attack(args, plan, &times, peers)?;
    let probing = start_probe(plan, &times, news)?;
    let watching = start_watch(args, plan, &done)?;
    let outcome = engine::play(plan, live);
    if outcome.is_err() {
        plan.cut.store(true, Ordering::Relaxed);
    }
    let endings =
        attacking.join().map_err(|_| "the peers' thread failed; this is a fault of exo-load")?;
    let probed =
        probing.join().map_err(|_| "the new calls' thread failed; this is a fault of exo-load")?;
    done.store(true, Ordering::Relaxed);
    let seen =
        watching.join().map_err(|_| "the watching thread failed; this is a fault of exo-load")?;
    let outcome = outcome?;
    let intervals = results::parse_log(&outcome.log)?;
    let phases = phases::sort(&times, &intervals, &outcome.csv, &probed?, &seen);
    let live = engine::judge(live, plan, &outcome);
    Ok(Findings::new(args, &times, phases, &endings?, &seen, live, outcome))
}

type Joined<T> = JoinHandle<std::io::Result<T>>;

fn start_attack(
    args: &AbuseArgs,
    plan: &Plan,
    times: &Times,
    ids: Vec<CallIds>,
) -> Result<Joined<Endings>, Box<dyn Error>> {
    let own = host::cpus_of("--peer-cpus", args.peer_cpus.as_deref())?;
    let attack = Attack {
        kind: args.kind,
        target: plan.target.clone(),
        tls: plan.tls.clone(),
        ids,
        peers: args.peers(),
        rate: args.rate(),
        limit: args.limit(),
        clock: plan.clock,
        from: times.attack,
        until: times.attack + args.duration().as_nanos() as u64,
        sample_rate: plan.sample_rate,
        cpus: if own.is_empty() { plan.cpus.clone() } else { own },
        cut: plan.cut.clone(),
    };
    Ok(std::thread::Builder::new()
        .name("exo-load-peers".to_owned())
        .spawn(move || attack::run(attack))?)
}

fn start_probe(
    plan: &Plan,
    times: &Times,
    ids: Vec<CallIds>,
) -> Result<Joined<Vec<Probed>>, Box<dyn Error>> {
    let probe = Probe {
        target: plan.target.clone(),
        tls: plan.tls.clone(),
        ids,
        clock: plan.clock,
        from: times.calm.next_multiple_of(1_000_000_000),
        // The last one has time to end before the live calls do.
        until: times.end.saturating_sub(500_000_000),
        sample_rate: plan.sample_rate,
        cut: plan.cut.clone(),
    };
    Ok(std::thread::Builder::new()
        .name("exo-load-new".to_owned())
        .spawn(move || probe::run(&probe))?)
}

fn start_watch(
    args: &AbuseArgs,
    plan: &Plan,
    done: &Arc<AtomicBool>,
) -> Result<JoinHandle<Seen>, Box<dyn Error>> {
    let watch = Watch { pid: args.play.server_pid, admin: args.admin.clone(), clock: plan.clock };
    let done = done.clone();
    Ok(std::thread::Builder::new()
        .name("exo-load-watch".to_owned())
        .spawn(move || watch.run(&done))?)
}
