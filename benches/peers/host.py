"""The machine and its processes: CPU time, memory, system calls."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

# Kernel threads that work for a server: disk writes, syncs, loop devices, and leftover softirqs of
# its CPU. Others (memory scanning, RCU) run whatever the server does.
WORKERS = ("kworker/", "jbd2/", "loop", "ksoftirqd/")

PF_KTHREAD = 0x00200000


class Snapshot:
    """CPU times at one moment, nanoseconds."""

    def __init__(self, server, generator, server_cpu):
        self.at = time.time()
        self.process = process_cpu(server)
        self.generator = process_cpu(generator)
        self.workers = worker_cpu(server_cpu)
        self.rss = resident(server)
        self.steal, self.busy, self.total = cpu_ticks(server_cpu)

    def workers_until(self, later):
        """CPU time of kernel workers from here to a later snapshot."""
        return sum(now - self.workers.get(pid, 0) for pid, now in later.workers.items())

    def steal_percent(self, later):
        """Time of the server's CPU that the hypervisor gave to others. None without pinning."""
        total = later.total - self.total
        return 100 * (later.steal - self.steal) / total if total else None

    def others_percent(self, later):
        """Time of the server's CPU that other processes took."""
        total = later.total - self.total
        if not total:
            return None
        ours = later.process - self.process + self.workers_until(later)
        tick = 1e9 / os.sysconf("SC_CLK_TCK")
        return max(0.0, 100 * ((later.busy - self.busy) - ours / tick) / total)


def process_cpu(pid):
    """All threads of a process, those that have ended and its io_uring workers included.

    The clock that clock_getcpuclockid(3) names: nanoseconds, where /proc/PID/stat counts ticks.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return 0


def worker_cpu(server_cpu):
    """Kernel workers by process id. Of ksoftirqd, only that of the server's CPU."""
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            name, fields = Path(entry.path, "stat").read_text().split("(", 1)[1].rsplit(") ", 1)
            if not int(fields.split()[6]) & PF_KTHREAD or not name.startswith(WORKERS):
                continue
            if name.startswith("ksoftirqd/") and name != f"ksoftirqd/{server_cpu}":
                continue
            found[int(entry.name)] = int(Path(entry.path, "schedstat").read_text().split()[0])
        except (OSError, IndexError, ValueError):
            # It ended after the listing.
            continue
    return found


def resident(pid):
    """Resident memory of a process, bytes."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmRSS:\s*(\d+)", status)
    return int(match[1]) * 1024 if match else 0


def cpu_ticks(cpu):
    """Stolen, busy and all ticks of a CPU since the machine started."""
    match = re.search(rf"^cpu{cpu} (.*)$", Path("/proc/stat").read_text(), re.M)
    if cpu is None or not match:
        return 0, 0, 0
    user, nice, system, idle, wait, irq, softirq, steal = map(int, match[1].split()[:8])
    busy = user + nice + system + irq + softirq
    return steal, busy, busy + idle + wait + steal


def system_calls(pid, seconds):
    """Those that all threads of a process make in so many seconds; None without perf or root.

    The tracepoint costs something on each system call: measure nothing else meanwhile.
    """
    if not shutil.which("perf"):
        time.sleep(seconds)
        return None
    command = ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", str(pid)]
    begin = time.monotonic()
    done = subprocess.run([*command, "--", "sleep", str(seconds)], capture_output=True, text=True)
    time.sleep(max(0.0, begin + seconds - time.monotonic()))
    match = re.search(r"^(\d+),", done.stderr, re.M)
    return int(match[1]) if match else None
