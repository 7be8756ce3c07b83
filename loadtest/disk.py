#!/usr/bin/env python3
"""Writes what a node would write, in the same rhythm, with no node and no calls.

    python3 loadtest/disk.py --calls 8000 --duration 300s --size 30GiB --directory /var/tmp
    python3 loadtest/disk.py --flat-out --duration 20s --size 4GiB --directory /var/tmp

Every --interval it writes the audio that the calls would have sent since the last one, and syncs.
It writes past the page cache, at most 4 MiB at a time, to allocated files that are written over and
over. A late cycle makes the next one wait, as in the journal. The result shows how long after it
was due each cycle was durable, and the times of writes and syncs: the part of an ACK's latency that
is the disk's. --depth sets how many writes of a cycle are under way at once.

With --flat-out there is no rhythm. It writes as fast as the disk can, with 1, 2, 4 and 8 writes of
4 MiB under way (or --depth), for --duration each. It syncs when --sync-every bytes have been
written since the last sync ended. Writes go on during a sync, as in the journal with a backlog. The
result shows the rate at each depth: the most that a node can make durable.

It needs Linux, and Python's standard library. Each write has a thread of its own.
"""

import argparse
import json
import mmap
import os
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MIB = 1 << 20
WRITE_SIZE_MAX = 4 * MIB
FILE_SIZE = 128 * MIB
FRAME_SIZE = 9_600
FRAMES_PER_SECOND = 5
# The journal adds batch and record headers, padding, and the records of calls. This is for
# thousands of calls.
JOURNAL_PER_AUDIO = 1.025
# Depths that --flat-out tries.
DEPTHS = (1, 2, 4, 8)


def main():
    arguments = parse()
    room = os.statvfs(arguments.directory)
    if arguments.size > (room.f_bavail - room.f_blocks // 20) * room.f_frsize:
        free = room.f_bavail * room.f_frsize // MIB
        sys.exit(
            f"--size would leave less than 5 % of the disk free: there are {free} MiB in "
            f"{arguments.directory}"
        )
    place = arguments.directory / f"disk-alone-{os.getpid()}"
    place.mkdir()
    try:
        files = allocate(place, max(1, arguments.size // FILE_SIZE))
        if arguments.flat_out:
            result = flat_out(arguments, files)
        else:
            result = summary(arguments, play(arguments, files))
    finally:
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    words = flat_out_text if arguments.flat_out else text
    print(json.dumps(result, indent=1) if arguments.json else words(arguments, result))


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--calls", type=int, default=1000)
    add("--duration", type=seconds, default=60.0, help="such as 300s")
    interval = "time between two syncs, such as 20ms (journal.sync_interval)"
    add("--interval", type=seconds, default=0.02, help=interval)
    bytes_help = "bytes that are written over and over, such as 30GiB"
    add("--size", type=size, default=2048 * MIB, help=bytes_help)
    add("--directory", type=Path, default=Path("."), help="a directory on the disk to measure")
    depth_help = "writes under way at once; 1, or with --flat-out each of 1, 2, 4, 8"
    add("--depth", type=depth, help=depth_help)
    flat_out = "write as fast as the disk can, without calls and rhythm"
    add("--flat-out", action="store_true", help=flat_out)
    sync_every = "with --flat-out: bytes from one sync to the next, such as 32MiB"
    add("--sync-every", type=size, default=32 * MIB, help=sync_every)
    add("--json", action="store_true")
    return parser.parse_args()


def depth(text):
    if not text.isdigit() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError("write a number from 1 to 64")
    return int(text)


def seconds(text):
    match = re.fullmatch(r"([\d.]+)(ms|s|m)", text)
    if not match:
        raise argparse.ArgumentTypeError("write 20ms, 300s or 5m")
    return float(match[1]) * {"ms": 0.001, "s": 1, "m": 60}[match[2]]


def size(text):
    match = re.fullmatch(r"(\d+)(MiB|GiB)", text)
    if not match:
        raise argparse.ArgumentTypeError("write 512MiB or 30GiB")
    return int(match[1]) * {"MiB": MIB, "GiB": 1024 * MIB}[match[2]]


def allocate(place, count):
    files = []
    for number in range(count):
        file = os.open(place / str(number), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_DIRECT, 0o600)
        os.posix_fallocate(file, 0, FILE_SIZE)
        os.fsync(file)
        files.append(file)
    return files


def noise():
    block = mmap.mmap(-1, WRITE_SIZE_MAX)
    block.write(os.urandom(WRITE_SIZE_MAX))
    return memoryview(block)


def write(file, bytes, offset):
    """Writes all bytes. Returns how long that took, seconds."""
    before = time.monotonic()
    while bytes:
        taken = os.pwrite(file, bytes, offset)
        bytes, offset = bytes[taken:], offset + taken
    return time.monotonic() - before


def play(arguments, files):
    """For each cycle: when it was due, written, and durable, and its slowest write.

    All in seconds, the first three since the start.
    """
    view = noise()
    rate = arguments.calls * FRAMES_PER_SECOND * FRAME_SIZE * JOURNAL_PER_AUDIO
    cycles, written, index, offset = [], 0, 0, 0
    # A single write needs no other thread, and no time to wake one.
    pool = ThreadPoolExecutor(arguments.depth) if (arguments.depth or 1) > 1 else None
    start = time.monotonic()
    due = arguments.interval
    while due <= arguments.duration:
        time.sleep(max(0.0, start + due - time.monotonic()))
        begun = time.monotonic() - start
        # All audio that would have come by now: a batch of the journal.
        wanted, times = int(rate * begun) - written, [0.0]
        pending = []
        while wanted > 0:
            piece = min(WRITE_SIZE_MAX, FILE_SIZE - offset, -(-wanted // 4096) * 4096)
            if pool:
                pending.append(pool.submit(write, files[index], view[:piece], offset))
            else:
                times.append(write(files[index], view[:piece], offset))
            wanted, written, offset = wanted - piece, written + piece, offset + piece
            if offset == FILE_SIZE:
                times += [write.result() for write in pending]
                pending = []
                os.fdatasync(files[index])
                index, offset = (index + 1) % len(files), 0
        times += [write.result() for write in pending]
        stored = time.monotonic() - start
        os.fdatasync(files[index])
        cycles.append((due, stored, time.monotonic() - start, max(times)))
        passed = int((time.monotonic() - start) / arguments.interval)
        due = max(due + arguments.interval, (passed + 1) * arguments.interval)
    return cycles


class FlatOut:
    """One round at one depth: threads that write, and one that syncs."""

    def __init__(self, files, view, sync_every, position):
        self.files, self.view, self.sync_every = files, view, sync_every
        self.lock = threading.Condition()
        # Position of the next write, bytes, counted over all files and rounds.
        self.position = position
        self.written, self.unsynced, self.unsynced_files = 0, 0, set()
        self.syncs, self.slowest_write, self.slowest_sync = 0, 0.0, 0.0
        self.error = None

    def run(self, depth, duration):
        self.until = time.monotonic() + duration
        start = time.monotonic()
        threads = [threading.Thread(target=self.guard, args=(self.write,)) for _ in range(depth)]
        syncing = threading.Thread(target=self.guard, args=(self.sync,))
        for thread in [*threads, syncing]:
            thread.start()
        for thread in threads:
            thread.join()
        with self.lock:
            self.lock.notify_all()
        syncing.join()
        if self.error:
            raise self.error
        seconds = time.monotonic() - start
        return {
            "depth": depth,
            "mb_per_second": round(self.written / seconds / 1e6, 1),
            "syncs": self.syncs,
            "mb_per_sync": round(self.written / max(1, self.syncs) / 1e6, 1),
            "slowest_write_ms": round(self.slowest_write * 1000, 1),
            "slowest_sync_ms": round(self.slowest_sync * 1000, 1),
        }

    def guard(self, work):
        try:
            work()
        except OSError as error:
            with self.lock:
                self.error, self.until = error, 0

    def write(self):
        while time.monotonic() < self.until:
            with self.lock:
                position, self.position = self.position, self.position + WRITE_SIZE_MAX
            file = self.files[position // FILE_SIZE % len(self.files)]
            took = write(file, self.view, position % FILE_SIZE)
            with self.lock:
                self.written += WRITE_SIZE_MAX
                self.unsynced += WRITE_SIZE_MAX
                self.unsynced_files.add(file)
                self.slowest_write = max(self.slowest_write, took)
                if self.unsynced >= self.sync_every:
                    self.lock.notify()

    def sync(self):
        is_over = False
        while not is_over:
            with self.lock:
                while self.unsynced < self.sync_every and time.monotonic() < self.until:
                    self.lock.wait(0.1)
                # The last writes count, so they are synced too.
                is_over = time.monotonic() >= self.until
                files, self.unsynced_files = self.unsynced_files, set()
            before = time.monotonic()
            for file in files:
                os.fdatasync(file)
            with self.lock:
                self.syncs += 1
                self.slowest_sync = max(self.slowest_sync, time.monotonic() - before)
                # Bytes written during a sync belong to the next one, in addition.
                self.unsynced = 0


def flat_out(arguments, files):
    view = noise()
    # Write everything once: the first write of a block costs the filesystem more.
    for file in files:
        for offset in range(0, FILE_SIZE, WRITE_SIZE_MAX):
            write(file, view, offset)
        os.fdatasync(file)
    depths = [arguments.depth] if arguments.depth else DEPTHS
    rounds, position = [], 0
    for depth in depths:
        one = FlatOut(files, view, arguments.sync_every, position)
        rounds.append(one.run(depth, arguments.duration))
        # Go on in the next file, as with the next segment.
        position = -(-one.position // FILE_SIZE) * FILE_SIZE
    best = max(rounds, key=lambda round: round["mb_per_second"])
    return {
        "sync_every": arguments.sync_every,
        "seconds": arguments.duration,
        "depths": rounds,
        "best": best,
    }


def flat_out_text(arguments, result):
    rows = [f"the disk alone, writes of 4 MiB, {result['seconds']:g} s at each depth, "
            f"a sync each {result['sync_every'] // MIB} MiB and what is written during one:"]
    for round in result["depths"]:
        rows.append(
            f"  {round['depth']} under way: {round['mb_per_second']:8.1f} MB/s, "
            f"{round['syncs']} syncs, {round['mb_per_sync']} MB each; "
            f"slowest write {round['slowest_write_ms']} ms, sync {round['slowest_sync_ms']} ms"
        )
    best = result["best"]
    rows.append(f"  best: {best['mb_per_second']} MB/s, with {best['depth']} under way")
    return "\n".join(rows)


def quantiles(values):
    values = sorted(values)
    at = lambda share: round(values[min(len(values) - 1, int(len(values) * share))] * 1000, 3)
    return {"p50": at(0.5), "p99": at(0.99), "p99.9": at(0.999), "max": round(values[-1] * 1000, 3)}


def summary(arguments, cycles):
    worst = {}
    for due, _, durable, _ in cycles:
        worst[int(due)] = max(worst.get(int(due), 0), durable - due)
    slow = [second for second, latency in worst.items() if latency > 0.1]
    return {
        "calls": arguments.calls,
        "seconds": arguments.duration,
        "cycles": len(cycles),
        "due_to_durable_ms": quantiles([durable - due for due, _, durable, _ in cycles]),
        "slowest_write_of_a_cycle_ms": quantiles([slowest for *_, slowest in cycles]),
        "sync_ms": quantiles([durable - stored for _, stored, durable, _ in cycles]),
        "seconds_over_100_ms": len(slow),
        "first_second_over_100_ms": min(slow, default=None),
    }


def text(arguments, result):
    rate = result["calls"] * FRAMES_PER_SECOND * FRAME_SIZE * JOURNAL_PER_AUDIO / 1e6
    rows = [
        f"{result['calls']} calls' bytes ({rate:.0f} MB/s), {result['cycles']} cycles of "
        f"{arguments.interval * 1000:.0f} ms, the disk alone; milliseconds:"
    ]
    for name in ("due_to_durable_ms", "slowest_write_of_a_cycle_ms", "sync_ms"):
        numbers = result[name]
        figures = "  ".join(f"{key} {value}" for key, value in numbers.items())
        rows.append(f"  {name.removesuffix('_ms').replace('_', ' '):24} {figures}")
    slow = result["seconds_over_100_ms"]
    first = f", the first is second {result['first_second_over_100_ms']}" if slow else ""
    rows.append(f"  seconds with a cycle over 100 ms: {slow} of {result['seconds']:.0f}{first}")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
