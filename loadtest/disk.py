#!/usr/bin/env python3
"""What a disk alone does under a node's load: the same bytes a second, in the same rhythm, with no node and no calls.

    python3 loadtest/disk.py --calls 8000 --duration 300s --size 30GiB --directory /var/tmp

Every --interval it writes what so many calls would have said meanwhile, around the page cache, in writes of 4 MiB at most, to files
that are allocated beforehand and written over again and again, and syncs. A cycle that falls behind makes the next one wait, as
the journal does. Shown is how long after it was due each cycle was durable, and each write and sync: what of an ACK's latency is
the disk's. One thread; it needs Linux, and Python's standard library.
"""

import argparse
import json
import mmap
import os
import re
import sys
import time
from pathlib import Path

MIB = 1 << 20
WRITE_SIZE_MAX = 4 * MIB
FILE_SIZE = 128 * MIB
FRAME_SIZE = 9_600
FRAMES_PER_SECOND = 5
# Batch and record headers, padding, calls' records: what the journal adds to the audio at thousands of calls.
JOURNAL_PER_AUDIO = 1.025


def main():
    arguments = parse()
    room = os.statvfs(arguments.directory)
    if arguments.size > (room.f_bavail - room.f_blocks // 20) * room.f_frsize:
        sys.exit(f"--size would leave less than 5 % of the disk free: there are {room.f_bavail * room.f_frsize // MIB} MiB in {arguments.directory}")
    place = arguments.directory / f"disk-alone-{os.getpid()}"
    place.mkdir()
    try:
        files = allocate(place, max(1, arguments.size // FILE_SIZE))
        cycles = play(arguments, files)
    finally:
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    result = summary(arguments, cycles)
    print(json.dumps(result, indent=1) if arguments.json else text(arguments, result))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--duration", type=seconds, default=60.0, help="such as 300s")
    parser.add_argument("--interval", type=seconds, default=0.02, help="between two syncs, such as 20ms (journal.sync_interval)")
    parser.add_argument("--size", type=size, default=2048 * MIB, help="bytes that are written over and over, such as 30GiB")
    parser.add_argument("--directory", type=Path, default=Path("."), help="on the disk in question")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


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


def play(arguments, files):
    """Each cycle: when it was due, when its writes were done, when it was durable; and its slowest write. Seconds since the start."""
    block = mmap.mmap(-1, WRITE_SIZE_MAX)
    block.write(os.urandom(WRITE_SIZE_MAX))
    view = memoryview(block)
    rate = arguments.calls * FRAMES_PER_SECOND * FRAME_SIZE * JOURNAL_PER_AUDIO
    cycles, written, index, offset = [], 0, 0, 0
    start = time.monotonic()
    due = arguments.interval
    while due <= arguments.duration:
        time.sleep(max(0.0, start + due - time.monotonic()))
        begun = time.monotonic() - start
        # All that has come in by now, as a journal's batch would hold it.
        wanted, slowest = int(rate * begun) - written, 0.0
        while wanted > 0:
            piece = min(WRITE_SIZE_MAX, FILE_SIZE - offset, -(-wanted // 4096) * 4096)
            before = time.monotonic()
            os.pwrite(files[index], view[:piece], offset)
            slowest = max(slowest, time.monotonic() - before)
            wanted, written, offset = wanted - piece, written + piece, offset + piece
            if offset == FILE_SIZE:
                os.fdatasync(files[index])
                index, offset = (index + 1) % len(files), 0
        stored = time.monotonic() - start
        os.fdatasync(files[index])
        cycles.append((due, stored, time.monotonic() - start, slowest))
        due = max(due + arguments.interval, (int((time.monotonic() - start) / arguments.interval) + 1) * arguments.interval)
    return cycles


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
    rows = [f"{result['calls']} calls' bytes ({result['calls'] * FRAMES_PER_SECOND * FRAME_SIZE * JOURNAL_PER_AUDIO / 1e6:.0f} MB/s), "
            f"{result['cycles']} cycles of {arguments.interval * 1000:.0f} ms, the disk alone; milliseconds:"]
    for name in ("due_to_durable_ms", "slowest_write_of_a_cycle_ms", "sync_ms"):
        numbers = result[name]
        rows.append(f"  {name.removesuffix('_ms').replace('_', ' '):24} " + "  ".join(f"{key} {value}" for key, value in numbers.items()))
    rows.append(f"  seconds with a cycle over 100 ms: {result['seconds_over_100_ms']} of {result['seconds']:.0f}"
                + (f", the first is second {result['first_second_over_100_ms']}" if result["seconds_over_100_ms"] else ""))
    return "\n".join(rows)


if __name__ == "__main__":
    main()
