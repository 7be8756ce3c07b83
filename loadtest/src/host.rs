//! The machine and its processes: CPU time, memory, descriptors, affinity. All from `/proc` and a
//! few system calls.

use std::fmt;
use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;
use rustix::time::ClockId;
use thread_priority::{RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};

use crate::plural::counted;

/// Descriptors for other things than sockets of calls: ring, timer, epoll, files.
const DESCRIPTORS_SPARE: u64 = 64;

/// CPU and memory of the server's process at one moment.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct ServerSample {
    /// CPU time in user mode, all threads, nanoseconds.
    pub user_ns: u64,
    /// CPU time in the kernel, all threads and kernel workers of its rings, nanoseconds.
    pub system_ns: u64,
    /// Resident memory, bytes.
    pub rss: u64,
}

/// Why the host does not let us run.
#[derive(Debug)]
pub enum HostError {
    /// The descriptor limit is below what the calls need.
    Descriptors {
        /// Calls asked for.
        calls: u64,
        /// What the hard limit allows.
        calls_max: u64,
    },
    /// It is below what live calls and hostile peers need together.
    Peers {
        /// Live calls.
        calls: u64,
        /// Hostile peers at once.
        peers: u64,
        /// Descriptors they need.
        needed: u64,
        /// What the hard limit allows.
        limit: u64,
    },
    /// A process whose figures cannot be read.
    Process(u32, io::Error),
    /// A CPU list that cannot be used.
    Cpus(io::Error),
    /// Real-time priority is not allowed.
    Realtime(io::Error),
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptors { calls, calls_max } => write!(
                f,
                "{} need more open files than this process may have (enough for {}); \
                 raise the hard limit (ulimit -Hn) or give fewer --calls",
                counted(*calls, "call"),
                counted(*calls_max, "call")
            ),
            Self::Peers { calls, peers, needed, limit } => write!(
                f,
                "{} and {} need {needed} open files, and this process may have {limit}; raise the \
                 hard limit (ulimit -Hn {needed}, as root or in limits.conf), or give fewer \
                 --peers or --calls-live",
                counted(*calls, "live call"),
                counted(*peers, "peer"),
            ),
            Self::Process(pid, error) => {
                write!(f, "--server-pid: cannot read process {pid} ({error}); is it running?")
            }
            Self::Cpus(error) => {
                write!(f, "--cpus: cannot run there ({error}); see /sys/devices/system/cpu/online")
            }
            Self::Realtime(error) => write!(
                f,
                "--realtime: this process may not have real-time priority ({error}); run it as \
                 root or with CAP_SYS_NICE, allow it with ulimit -r 1, or leave out the flag"
            ),
        }
    }
}

impl std::error::Error for HostError {}

/// Raises the soft descriptor limit to the hard one and checks that `calls` sockets fit.
pub fn make_room_for(calls: u64) -> Result<(), HostError> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // If this fails, the check below uses the old limit.
    let _ = rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit { current: limit.maximum, maximum: limit.maximum },
    );
    let current = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let calls_max = current.saturating_sub(DESCRIPTORS_SPARE);
    if calls > calls_max { Err(HostError::Descriptors { calls, calls_max }) } else { Ok(()) }
}

/// As [`make_room_for`], for live calls and hostile peers together.
pub fn make_room_for_peers(calls: u64, peers: u64) -> Result<(), HostError> {
    let needed = calls + peers + DESCRIPTORS_SPARE;
    make_room_for(calls + peers).map_err(|error| match error {
        HostError::Descriptors { calls_max, .. } => {
            HostError::Peers { calls, peers, needed, limit: calls_max + DESCRIPTORS_SPARE }
        }
        other => other,
    })
}

/// Pins the calling thread, and those it starts later, to `cpus`.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        if *cpu >= CpuSet::MAX_CPU {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("there is no CPU {cpu}"),
            ));
        }
        set.set(*cpu);
    }
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Lowers the calling thread's priority. It collects figures (2 ms a second), and must not delay a
/// frame on a CPU that it shares with a worker. On Linux a priority belongs to a thread: threads
/// that run already keep theirs.
pub fn yield_to_workers() {
    // Without it the run is still correct; its send lag is a little worse.
    let _ = rustix::process::setpriority_process(None, 10);
}

/// Lowers the calling thread's priority to `nice`: for threads that may wait.
pub fn yield_to_others(nice: i32) {
    // Without it the run is still correct. If the send lag of the live calls gets too bad, the run
    // is INVALID.
    let _ = rustix::process::setpriority_process(None, nice);
}

/// Gives the calling thread real-time priority: SCHED_FIFO at 1, the lowest of these priorities. It
/// then runs before every thread of ordinary priority.
///
/// The kernel's own threads, and those that an administrator has put higher, still run first. A
/// worker sleeps whenever nothing is due, so other threads on its CPU get time. If it never slept,
/// the kernel would stop it after 0.95 s of each second (`kernel.sched_rt_runtime_us`), and the run
/// would be invalid long before.
pub fn become_realtime() -> io::Result<()> {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let this = thread_priority::thread_native_id();
    thread_priority::set_thread_priority_and_policy(this, ThreadPriority::Min, policy).map_err(
        |error| match error {
            thread_priority::Error::OS(code) => io::Error::from_raw_os_error(code),
            other => io::Error::other(format!("{other:?}")),
        },
    )
}

/// Checks that threads of this process may have real-time priority, on a thread that ends at once.
pub fn check_realtime() -> Result<(), HostError> {
    let done = std::thread::spawn(become_realtime)
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    done.map_err(HostError::Realtime)
}

/// CPU time of this process, nanoseconds.
pub fn own_cpu() -> u64 {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CPU time of the calling thread, nanoseconds.
pub fn thread_cpu() -> u64 {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Resident memory of this process, bytes; 0 if it cannot be read.
pub fn own_rss() -> u64 {
    fs::read_to_string("/proc/self/status").ok().and_then(|status| rss_of(&status)).unwrap_or(0)
}

/// Reads the CPU time of all tasks of a process, and its memory.
pub fn sample_server(pid: u32) -> Result<ServerSample, HostError> {
    let failed = |error| HostError::Process(pid, error);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(failed)?;
    let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let mut sample = ServerSample { rss: rss_of(&status).unwrap_or(0), ..ServerSample::default() };
    for task in fs::read_dir(format!("/proc/{pid}/task")).map_err(failed)? {
        let path = task.map_err(failed)?.path().join("stat");
        // A thread may end after the listing. Its CPU time is then not counted.
        let Ok(stat) = fs::read_to_string(path) else { continue };
        if let Some((user, system)) = ticks_of(&stat) {
            sample.user_ns += user * tick_ns;
            sample.system_ns += system * tick_ns;
        }
    }
    Ok(sample)
}

/// The `--max-calls` of a node, if its command line or environment has it. A configuration file or
/// the node's default may set it too: then it is not known here.
pub fn calls_max_of(pid: u32) -> Option<u64> {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    calls_max_in(
        &String::from_utf8_lossy(&read("cmdline")),
        &String::from_utf8_lossy(&read("environ")),
    )
}

fn calls_max_in(command: &str, environment: &str) -> Option<u64> {
    const NAMES: [&str; 3] = ["--max-calls", "max_calls", "limits.calls_max"];
    const VARIABLES: [&str; 2] = ["EXO_INGEST_MAX_CALLS", "EXO_INGEST_LIMITS_CALLS_MAX"];
    let number = |text: &str| text.replace('_', "").parse::<u64>().ok();
    let assigned = |text: &str, names: &[&str]| {
        let (name, value) = text.strip_prefix("--set=").unwrap_or(text).split_once('=')?;
        names.contains(&name).then(|| number(value))?
    };
    let words: Vec<&str> = command.split('\0').collect();
    let flag = words.windows(2).find_map(|pair| (pair[0] == NAMES[0]).then(|| number(pair[1]))?);
    let flag = flag.or_else(|| words.iter().find_map(|word| assigned(word, &NAMES)));
    flag.or_else(|| environment.split('\0').find_map(|variable| assigned(variable, &VARIABLES)))
}

/// `utime` and `stime`, fields 14 and 15. The name in field 2 may have spaces and brackets in it.
fn ticks_of(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn rss_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Memory of this machine that is free or can be freed, percent.
pub fn memory_free_percent() -> Option<f64> {
    memory_free_in(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn memory_free_in(meminfo: &str) -> Option<f64> {
    let value = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()
    };
    Some(value("MemAvailable:")? * 100.0 / value("MemTotal:")?.max(1.0))
}

/// The machine, for `env.json`.
pub fn describe() -> serde_json::Value {
    let uname = rustix::system::uname();
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let first = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cpuinfo = read("/proc/cpuinfo");
    serde_json::json!({
        "kernel": uname.release().to_string_lossy(),
        "architecture": uname.machine().to_string_lossy(),
        "hostname": uname.nodename().to_string_lossy(),
        "cpu_model": first(&cpuinfo, "model name"),
        "cores": cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
        "memory": first(&read("/proc/meminfo"), "MemTotal"),
        "load_average": read("/proc/loadavg").trim(),
    })
}

/// What [`describe`] says, for people, but for the host's name.
pub fn words(host: &serde_json::Value) -> String {
    let text = |name: &str| host[name].as_str().unwrap_or("unknown");
    let kibibytes =
        host["memory"].as_str().and_then(|memory| memory.split_once(' ')?.0.parse::<f64>().ok());
    let memory =
        kibibytes.map_or_else(String::new, |memory| format!(", {:.1} GiB", memory / 1_048_576.0));
    format!(
        "{}, {}{memory}, Linux {} {}",
        text("cpu_model"),
        counted(host["cores"].as_u64().unwrap_or(0), "CPU"),
        text("kernel"),
        text("architecture"),
    )
}

/// The CPUs that a flag lists. None if it is not given.
pub fn cpus_of(flag: &str, list: Option<&str>) -> Result<Vec<usize>, String> {
    let cpus = list.map(parse_cpus).transpose().map_err(|error| format!("{flag}: {error}"))?;
    Ok(cpus.unwrap_or_default())
}

/// A list of CPUs as taskset writes it: `1`, `2-5`, `0,2-3`.
fn parse_cpus(text: &str) -> Result<Vec<usize>, String> {
    let wrong = || format!("'{text}' is no CPU list; write one like 1 or 2-5 or 0,2-3");
    let number = |part: &str| {
        part.trim().parse::<usize>().ok().filter(|cpu| *cpu < CpuSet::MAX_CPU).ok_or_else(wrong)
    };
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(wrong());
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_proc_files() {
        let stat =
            "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 750 0 0 20 0 4 0 100 1000 200";
        assert_eq!(ticks_of(stat), Some((250, 750)));
        assert_eq!(ticks_of("42 (x"), None);
        assert_eq!(rss_of("Name:\tx\nVmRSS:\t    1234 kB\n"), Some(1234 * 1024));
        assert_eq!(rss_of("Name:\tx\n"), None);
    }

    #[test]
    fn sees_this_process_at_work() {
        let before = own_cpu();
        let mut work = 0u64;
        while own_cpu() < before + 30_000_000 {
            work = std::hint::black_box(work.wrapping_add(1));
        }
        let sample = sample_server(std::process::id()).unwrap();
        assert!(sample.rss > 0 && own_rss() > 0);
        assert!(sample.user_ns + sample.system_ns > 0);
        assert!(sample_server(u32::MAX).unwrap_err().to_string().contains("is it running"));
    }

    #[test]
    fn reads_a_nodes_limit_where_it_was_given() {
        for (command, environment, found) in [
            ("exo-ingest\0serve\0--max-calls\x00500\0", "", Some(500)),
            ("exo-ingest\0serve\0--max-calls=1_000\0", "EXO_INGEST_MAX_CALLS=7\0", Some(1_000)),
            ("exo-ingest\0--set\0limits.calls_max=9\0", "", Some(9)),
            ("exo-ingest\0--set=max_calls=9\0", "", Some(9)),
            ("exo-ingest\0serve\0", "A=1\0EXO_INGEST_LIMITS_CALLS_MAX=8\0", Some(8)),
            ("exo-ingest\0serve\0--max-calls\0", "", None),
            ("", "", None),
        ] {
            assert_eq!(calls_max_in(command, environment), found, "{command:?}");
        }
    }

    #[test]
    fn reads_cpu_lists() {
        assert_eq!(parse_cpus("1"), Ok(vec![1]));
        assert_eq!(parse_cpus("0,2-4,3"), Ok(vec![0, 2, 3, 4]));
        for text in ["", "a", "3-1", "1-", "-1", "99999999"] {
            assert!(parse_cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn real_time_priority_is_had_or_refused_with_what_to_do() {
        // This depends on the machine. If it is allowed, the thread has the policy.
        let policy = std::thread::spawn(|| {
            become_realtime().map(|()| thread_priority::thread_schedule_policy().unwrap())
        });
        match policy.join().unwrap() {
            Ok(policy) => {
                assert_eq!(
                    policy,
                    ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo)
                );
                assert!(check_realtime().is_ok());
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::PERM.raw_os_error()));
                assert!(check_realtime().is_err());
            }
        }
        let ours = thread_priority::thread_schedule_policy().unwrap();
        assert!(
            matches!(ours, ThreadSchedulePolicy::Normal(_)),
            "the calling thread keeps its own"
        );
        let refused = HostError::Realtime(io::Error::from_raw_os_error(1)).to_string();
        for part in
            ["--realtime", "not permitted", "CAP_SYS_NICE", "ulimit -r", "leave out the flag"]
        {
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn descriptors_are_checked_before_the_first_call() {
        assert!(make_room_for(1).is_ok());
        let limit = rustix::process::getrlimit(Resource::Nofile).maximum;
        if let Some(limit) = limit {
            assert!(make_room_for(limit).unwrap_err().to_string().contains("ulimit"));
        }
    }
}
