"""What the kernel and a node say of the node: CPU time by kind of thread, counters, lag, disk."""

import contextlib
import os
import re
import time
from pathlib import Path

import measure

# Threads of the node that neither take calls nor hand anything over.
CONTROL = {"exo-ingest", "log", "signals", "indexer", "keeper", "store", "ending"}
GROUPS = ("shards", "forwarder", "others")
TICKS = os.sysconf("SC_CLK_TCK")
SECTOR = 512


class NodeSampler:
    """Reads /proc, /sys and the node's /metrics."""

    def __init__(self, pid, admin, sink, path):
        self.tasks = Path(f"/proc/{pid}/task")
        self.admin = admin
        self.sink = sink
        device = os.stat(path).st_dev
        self.disk = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
        # CPU seconds of each thread, with its kind. Threads that have ended are kept.
        self.threads = {}

    @property
    def forwarder(self):
        return sum(seconds for kind, seconds in self.threads.values() if kind == "forwarder")

    def sample(self):
        self.read_threads()
        metrics = measure.fetch(self.admin, "metrics").decode()
        total = lambda name: measure.metric(metrics, f"exo_ingest_{name}")
        sums = {group: 0.0 for group in GROUPS}
        for kind, seconds in self.threads.values():
            sums[kind] += seconds
        return {
            "at": time.monotonic(),
            **sums,
            "server": self.sink.cpu_seconds(),
            "server_written": self.sink.written_bytes(),
            "cpus": cpu_times(),
            "disk": disk_times(self.disk),
            "frames": int(total("frames_total")),
            "journal": int(total("journal_bytes_total")),
            "acknowledged": int(total("sink_acknowledged_bytes_total")),
            "lag_bytes": int(total("sink_lag_bytes")),
            "lag_seconds": total("sink_lag_seconds"),
            "failing": total("sink_failing") > 0,
        }

    def read_threads(self):
        names = {}
        for task in self.tasks.iterdir():
            try:
                names[int(task.name)] = (task / "comm").read_text().strip()
                nanoseconds = int((task / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                continue
            kind, _ = self.threads.get(int(task.name), (None, 0))
            self.threads[int(task.name)] = (kind, nanoseconds / 1e9)
        for tid, name in names.items():
            kind, seconds = self.threads.get(tid, (None, 0))
            self.threads[tid] = (kind or self.kind(name, names), seconds)

    def kind(self, name, names):
        # A worker of io_uring is named after the thread that owns the ring.
        worker = re.fullmatch(r"iou-\w+-(\d+)", name)
        if worker:
            name = names.get(int(worker.group(1)), "exo-ingest")
        if name.startswith("shard-"):
            return "shards"
        return "others" if name in CONTROL else "forwarder"

    def move_other_threads(self, cpus):
        """Keeps all threads but the shards on these CPUs. Threads that they start inherit it."""
        for task in self.tasks.iterdir():
            # Some threads of the start end meanwhile.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if not (task / "comm").read_text().startswith(("shard-", "iou-")):
                    os.sched_setaffinity(int(task.name), cpus)

    def use(self, first, last):
        """How full CPUs and disk were between two samples, and who used them."""
        seconds = last["at"] - first["at"]
        percent = lambda name: 100 * (last[name] - first[name]) / seconds
        busy, everything = zip(*[
            (now[0] - then[0], now[1] - then[1])
            for then, now in zip(first["cpus"], last["cpus"])
        ])
        return {
            "seconds": seconds,
            "cpu_percent": [100 * part / max(1, whole) for part, whole in zip(busy, everything)],
            "shards_percent": percent("shards"),
            "forwarder_percent": percent("forwarder"),
            "server_percent": percent("server"),
            "disk_percent": 100 * (last["disk"][0] - first["disk"][0]) / seconds,
            "disk_rate": (last["disk"][1] - first["disk"][1]) / seconds,
            "journal_rate": (last["journal"] - first["journal"]) / seconds,
            "acknowledged_rate": (last["acknowledged"] - first["acknowledged"]) / seconds,
        }


def cpu_times():
    """For each CPU: ticks in which it was busy, and all ticks."""
    times = []
    for line in Path("/proc/stat").read_text().splitlines():
        if re.match(r"cpu\d", line):
            # user, nice, system, idle, iowait, irq, softirq, steal
            ticks = [int(word) for word in line.split()[1:9]]
            times.append((sum(ticks) - ticks[3] - ticks[4], sum(ticks)))
    return times


def disk_times(stat):
    """Seconds in which the disk was busy, and bytes written to it; zeros if it is not known."""
    try:
        fields = stat.read_text().split()
    except OSError:
        return (0.0, 0)
    return (int(fields[9]) / 1000, int(fields[6]) * SECTOR)
