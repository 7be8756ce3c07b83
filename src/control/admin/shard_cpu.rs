//! CPU time of the shards' threads, as the kernel's scheduler counts it. `/proc` is memory: reading
//! it waits for no disk. (Rejected: each shard reads its own clock in each turn. That is a system
//! call a turn, and only viewers need it.)

use std::fs;
use std::path::PathBuf;

const TASKS: &str = "/proc/self/task";

/// The files of the shards' threads.
#[derive(Debug, Default)]
pub(super) struct ShardCpu {
    /// By shard. Empty until the first look, because threads name themselves.
    files: Vec<Option<PathBuf>>,
}

impl ShardCpu {
    /// Microseconds of CPU time since the start, by shard; `None` where the kernel does not tell.
    pub(super) fn read(&mut self, shard_count: usize) -> Vec<Option<u64>> {
        if self.files.len() != shard_count || self.files.iter().any(Option::is_none) {
            self.files = find(shard_count);
        }
        self.files.iter().map(|file| cpu_us(&fs::read_to_string(file.as_ref()?).ok()?)).collect()
    }
}

fn find(shard_count: usize) -> Vec<Option<PathBuf>> {
    let mut files = vec![None; shard_count];
    for task in fs::read_dir(TASKS).into_iter().flatten().flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let shard = name.trim_end().strip_prefix("shard-").and_then(|number| number.parse().ok());
        if let Some(file) = shard.and_then(|shard: usize| files.get_mut(shard)) {
            *file = Some(task.path().join("schedstat"));
        }
    }
    files
}

/// The first number of `schedstat` is the time on a CPU, in nanoseconds.
fn cpu_us(schedstat: &str) -> Option<u64> {
    let nanos: u64 = schedstat.split_whitespace().next()?.parse().ok()?;
    Some(nanos / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn the_time_of_a_thread_grows_while_it_works() {
        let (stop, stopped) = channel::<()>();
        // A number that no shard of another test has.
        let name = "shard-977".to_owned();
        let work = move || while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {};
        let thread = std::thread::Builder::new().name(name).spawn(work).unwrap();
        let mut cpu = ShardCpu::default();
        let mut last = 0;
        for _ in 0..2 {
            let mut reads = (0..100_000).map(|_| cpu.read(978)[977].unwrap_or(0));
            last = reads.find(|time| *time > last).expect("the thread works");
        }
        stop.send(()).unwrap();
        thread.join().unwrap();
    }
}
