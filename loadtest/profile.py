#!/usr/bin/env python3
"""Says where a running node spends its CPU, by share.

    cargo build --release --workspace
    python3 loadtest/profile.py --pid "$(pidof exo-ingest)" --seconds 10 --cpu 0

It samples with perf(1) by a clock, and sorts each sample by the functions of its stack. Workers of
the node's io_uring count. It needs root (or kernel.perf_event_paranoid=0), perf and Python's
standard library. --cpu also counts the interrupts on that CPU, which belong to no process: with a
pinned shard they are its network traffic. Shares are of the samples that are not idle.
"""

import argparse
import collections
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# A sample counts in the first row that matches a function of its stack. Kernel rows come first.
ROWS = (
    ("receive: the kernel's TCP and its copy", r"tcp_recvmsg|inet_recvmsg|io_recv\b|sock_recvmsg"),
    ("send: the kernel's TCP", r"tcp_sendmsg|inet_sendmsg|io_send|sock_sendmsg|tcp_write_xmit"),
    (
        "journal: the kernel's writes and syncs",
        r"io_write|io_fsync|vfs_fsync|ext4_|xfs_|jbd2|blkdev_|blk_|nvme|virtio_?blk|virtblk",
    ),
    ("network interrupts", r"net_rx_action|__napi_poll|process_backlog|tcp_v4_rcv"),
    (
        "io_uring: submit, complete, wake",
        r"io_uring|io_submit|__io_|io_cqring|io_run_|io_req|io_issue",
    ),
    ("other kernel work", r"entry_SYSCALL|do_syscall|asm_sysvec|ret_from_fork|kthread|schedule"),
    ("copy: unmask, checksum, store", r"proto::mask|mask::"),
    ("parse: frames and sessions", r"proto::|session::|transport::"),
    ("TLS", r"tls::|ring_core|aes|gcm|chacha"),
    ("journal: ring, batches, indexes", r"journal::|format::|store::|archive::|crc32"),
    ("shard: the loop, ACKs, timers", r"shard::|ack::|exo_ingest|metrics::|latency"),
)
IDLE = re.compile(r"cpu_idle|do_idle|intel_idle|default_idle|pv_native_safe_halt")


def main():
    arguments = parse()
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "perf.data"
        where = ["--cpu", str(arguments.cpu)] if arguments.cpu is not None else []
        # Without a CPU: the process, with all its threads.
        where = where or ["--pid", str(arguments.pid)]
        record = ["perf", "record", "--quiet", "--event", "cpu-clock", "--freq", "1999"]
        record += ["--call-graph", "fp", "--output", data, *where]
        run([*record, "--", "sleep", str(arguments.seconds)])
        fields = ["perf", "script", "--input", data, "--fields", "comm,tid,pid,sym,ip"]
        stacks = run(fields)
    counts, total = count(stacks, threads(arguments.pid), arguments.cpu is not None)
    if not total:
        sys.exit("no sample: is the node under load?")
    rows = [(name, counts[name] / total) for name in counts]
    rows.sort(key=lambda row: -row[1])
    if arguments.json:
        print(json.dumps({"samples": total, "shares": dict(rows)}, indent=1))
        return
    print(f"{total} samples that are not idle, in {arguments.seconds} s\n")
    print("| what | share |\n| --- | --- |")
    for name, share in rows:
        print(f"| {name} | {share * 100:.1f} % |")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pid", type=int, required=True, help="the node's process")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--cpu", type=int, help="the CPU of the only shard")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def run(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        sys.exit("perf is not installed (Debian: linux-perf)")
    if done.returncode:
        sys.exit(f"perf failed: {done.stderr.strip()}")
    return done.stdout


def threads(pid):
    tasks = Path(f"/proc/{pid}/task")
    if not tasks.exists():
        sys.exit(f"there is no process {pid}")
    return {int(task.name) for task in tasks.iterdir()}


def count(stacks, node, has_interrupts):
    """Samples by row. A process that is not the node counts only for its interrupts."""
    counts, total = collections.Counter(), 0
    for sample in stacks.split("\n\n"):
        lines = sample.strip().splitlines()
        head = re.match(r"(.+?)\s+(\d+)/(\d+)", lines[0].strip()) if lines else None
        if not head:
            continue
        stack = "\n".join(lines[1:])
        if not {int(head[2]), int(head[3])} & node:
            is_interrupt = has_interrupts and re.search(ROWS[3][1], stack)
            if not is_interrupt:
                continue
            row = ROWS[3][0]
        elif IDLE.search(stack):
            continue
        else:
            row = next((name for name, words in ROWS if re.search(words, stack)), "other")
        counts[row] += 1
        total += 1
    return counts, total


main()
