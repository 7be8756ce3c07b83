#!/usr/bin/env python3
"""Measures a node under real-time calls: every ACK level in turn, round after round, with medians.

    cargo build --release --workspace
    python3 loadtest/measure.py --calls 4000 --levels received,written,durable --rounds 3 \\
        --out /var/tmp/measured

It runs on one machine: the node's reactor is pinned to --server-cpu, exo-load to --generator-cpus.
It needs Linux and Python's standard library. --out keeps the result.json, latency logs, metrics and
server log of every run, and the table is made from them. A run is invalid if exo-load says so (its
own send lag p99.9 over 5 ms, or its cores over 85 %). Invalid runs are marked, not left out.
"""

import argparse
import itertools
import json
import mmap
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

LEVELS = ("received", "written", "durable")
MIB = 1 << 20


def main():
    arguments = parse()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    keys = out / "keys"
    if not keys.exists():
        keygen = [binary(arguments, "exo-ingest"), "keygen", "--out", keys]
        subprocess.run(keygen, check=True, capture_output=True)
    print(host(arguments), flush=True)
    runs = []
    for number in range(arguments.rounds):
        raw = None
        if arguments.raw_size:
            raw = disk_rate(out / "raw", arguments.raw_size * MIB)
        for calls in arguments.calls:
            for level, frame_ms in itertools.product(arguments.levels, arguments.frame_ms):
                run = play(arguments, keys, calls, level, frame_ms, number)
                runs.append({**run, "raw": raw})
                print(line(runs[-1]), flush=True)
    (out / "runs.json").write_text(json.dumps(runs, indent=1) + "\n")
    print("\n" + table(runs))


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--calls", type=numbers, default=[1000], help="numbers of calls, with commas between them")
    add("--levels", type=levels, default=list(LEVELS), help="ACK levels: " + ",".join(LEVELS))
    frame_ms = "lengths of an audio frame, milliseconds, such as 20,60,100,200"
    add("--frame-ms", type=numbers, default=[200], help=frame_ms)
    add("--rounds", type=int, default=3)
    add("--duration", default="15s", help="length of the steady part")
    add("--ramp", default="6s")
    add("--retain-bytes", default="16GiB", help="the node's limit on the size of its journal")
    add("--server-cpu", default="0")
    add("--generator-cpus", default="1", help="for several generators with / between them: 1/2")
    realtime = "exo-load at real-time priority; needs root or CAP_SYS_NICE"
    add("--realtime", action="store_true", help=realtime)
    verify = "after each run, look for every promised byte in the journal"
    add("--verify", action="store_true", help=verify)
    raw = "MiB written to the bare disk each round; 0 for none"
    add("--raw-size", type=int, default=2048, help=raw)
    add("--out", type=Path, default=Path("measured"))
    add("--binaries", type=Path, default=Path("target/release"))
    add("--set", action="append", default=[], help="a setting of the node, key=value")
    return parser.parse_args()


def numbers(text):
    return [int(number) for number in text.split(",")]


def levels(text):
    wanted = text.split(",")
    if set(wanted) - set(LEVELS):
        raise argparse.ArgumentTypeError("levels are " + ", ".join(LEVELS))
    return wanted


def binary(arguments, name):
    path = arguments.binaries / name
    if not path.exists():
        sys.exit(f"there is no {path}: cargo build --release --workspace")
    return path.resolve()


def host(arguments):
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True).stdout.strip()
    return (
        f"{model.group(1) if model else 'unknown CPU'}, {os.cpu_count()} CPUs, "
        f"Linux {os.uname().release}, commit {commit}; "
        f"node on CPU {arguments.server_cpu}, generator on {arguments.generator_cpus}"
        + (" at real-time priority" if arguments.realtime else "")
    )


def play(arguments, keys, calls, level, frame_ms, number):
    """Plays one run of one level and one length of frame on a new data directory."""
    place = arguments.out / f"{calls}-{level}-{frame_ms}ms-{number}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    data = arguments.out / "data"
    shutil.rmtree(data, ignore_errors=True)
    node, address, admin = start(arguments, keys, level, data, place)
    try:
        before = sectors(arguments.out)
        what = (calls, level, frame_ms)
        verdicts = load(arguments, keys, what, data, place, node.pid, address)
        written = (sectors(arguments.out) - before) * 512
        for name in ("metrics", "debug/latency.hlog", "debug/latency.hgrm"):
            (place / f"server.{name.rsplit('/')[-1]}").write_bytes(fetch(admin, name))
        status = Path(f"/proc/{node.pid}/status").read_text()
        memory = int(re.search(r"VmHWM:\s*(\d+)", status).group(1)) * 1024
    finally:
        node.send_signal(signal.SIGTERM)
        node.wait()
    shutil.rmtree(data, ignore_errors=True)
    return summary(place, what, number, verdicts, written, memory)


def start(arguments, keys, level, data, place):
    command = [binary(arguments, "exo-ingest"), "serve", "--jwt-key", keys / "public.pem"]
    command += ["--cpus", arguments.server_cpu, "--drain", "2s"]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    command += [word for setting in arguments.set for word in ("--set", setting)]
    if level == "received":
        command += ["--no-journal"]
    else:
        command += ["--data-dir", data, "--ack", level, "--retain-bytes", arguments.retain_bytes]
    stderr = (place / "server.log").open("w")
    node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    listening = re.fullmatch(r"listening on (\S+)\n", node.stdout.readline())
    log = (place / "server.log").read_text()
    while listening and not (admin := re.search(r"\badmin=(\S+)", log)) and node.poll() is None:
        time.sleep(0.01)
        log = (place / "server.log").read_text()
    if not listening or node.poll() is not None:
        sys.exit(f"the node did not start: {log}")
    return node, listening.group(1), admin.group(1)


def load(arguments, keys, what, data, place, pid, address):
    """Plays the calls, with one or several generators. Returns their exit codes."""
    calls, level, frame_ms = what
    cpus = arguments.generator_cpus.split("/")
    share = calls // len(cpus)
    begin = str(int(time.time()) + 5 + calls // 1000 * len(cpus))
    generators = []
    for index, cpu in enumerate(cpus):
        command = [binary(arguments, "exo-load"), "run", "--url", f"ws://{address}/v1/ingest"]
        command += ["--key", keys / "private.pem", "--calls", str(share)]
        command += ["--first-call", str(index * share), "--cpus", cpu, "--server-pid", str(pid)]
        command += ["--duration", arguments.duration, "--ramp", arguments.ramp]
        command += ["--ack-level", level, "--frame-ms", str(frame_ms)]
        command += ["--out", place / str(index), "--note", host(arguments)]
        command += ["--realtime"] if arguments.realtime else []
        command += ["--start-at", begin] if len(cpus) > 1 else []
        command += ["--verify", data] if arguments.verify and level != "received" else []
        output = (place / f"{index}.txt").open("w")
        generators.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))
    ends = [generator.wait() for generator in generators]
    if len(cpus) > 1:
        merge = [binary(arguments, "exo-load"), "merge"]
        merge += [place / str(index) for index in range(len(cpus))]
        output = (place / "both.txt").open("w")
        merge += ["--out", place / "both"]
        subprocess.run(merge, stdout=output, stderr=subprocess.STDOUT)
    return ends


def fetch(admin, name):
    with urllib.request.urlopen(f"http://{admin}/{name}", timeout=30) as answer:
        return answer.read()


def sectors(path):
    """Sectors of 512 bytes written so far to the device that holds `path`."""
    device = os.stat(path).st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    try:
        return int(stat.read_text().split()[6])
    except OSError:
        return 0


def metric(text, name):
    values = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.M)
    return sum(float(value) for value in values)


def summary(place, what, number, ends, written, memory):
    calls, level, frame_ms = what
    source = place / "both" if (place / "both").exists() else place / "0"
    if not (source / "result.json").exists():
        sys.exit(f"no result: {(place / '0.txt').read_text()}")
    result = json.loads((source / "result.json").read_text())
    metrics = (place / "server.metrics").read_text()
    frames = metric(metrics, "exo_ingest_frames_total")
    audio = metric(metrics, "exo_ingest_audio_bytes_total")
    server, ack = result.get("server") or {}, result["latency_ns"]["ack"]
    return {
        "calls": calls,
        "level": level,
        "frame_ms": frame_ms,
        "round": number,
        "verdict": result["verdict"],
        "exits": ends,
        "completed": result["counts"]["calls_completed"],
        "failed": result["counts"]["calls_failed"],
        "frames": result["counts"]["frames"],
        "acks": result["counts"]["acks"],
        "server_ns_per_frame": server.get("cpu_ns_per_frame"),
        "server_percent": server.get("cpu_percent"),
        "generator_ns_per_frame": result["generator"]["cpu_ns_per_frame"],
        "generator_percent": result["generator"]["cpu_percent"],
        "sendlag_p999_ms": result["generator"]["sendlag_p999_ns"] / 1e6,
        "ack_ms": [ack[name] / 1e6 for name in ("p50", "p99", "p99.9")],
        "memory_bytes": memory,
        "system_calls_per_frame": metric(metrics, "exo_ingest_system_calls_total") / frames,
        "turns_per_frame": metric(metrics, "exo_ingest_turns_total") / frames,
        "journal_per_audio": metric(metrics, "exo_ingest_journal_bytes_total") / audio,
        "disk_per_audio": written / audio,
        "verify": result.get("verify"),
    }


def line(run):
    verified = run["verify"] or ""
    if verified:
        verified = f", verified {verified['frames_equal']} of {verified['frames_promised']}"
    return (
        f"{run['calls']} {run['level']} {run['frame_ms']} ms #{run['round']}: {run['verdict']}, "
        f"{run['completed']} calls, {run['failed']} failed, {run['frames']} frames, "
        f"node {(run['server_ns_per_frame'] or 0) / 1000:.1f} µs a frame "
        f"({run['server_percent'] or 0:.0f} %), "
        f"generator {(run['generator_ns_per_frame'] or 0) / 1000:.1f} "
        f"({run['generator_percent'] or 0:.0f} %), ack p50 {run['ack_ms'][0]:.1f} "
        f"p99 {run['ack_ms'][1]:.1f} p99.9 {run['ack_ms'][2]:.1f} ms, "
        f"send lag p99.9 {run['sendlag_p999_ms']:.1f} ms, to disk {run['disk_per_audio']:.3f}"
        + verified
    )


def table(runs):
    rows = [
        "| calls | level | frame | runs (valid) | node's CPU a frame | a second of audio | "
        "of a core | ACK p50 | p99 | p99.9 | send lag p99.9 | generator | system calls a frame | "
        "bytes to disk per byte of audio |",
        "|" + " --- |" * 14,
    ]
    kind = lambda run: (run["calls"], run["level"], run["frame_ms"])
    for calls, level, frame_ms in dict.fromkeys(map(kind, runs)):
        group = [run for run in runs if kind(run) == (calls, level, frame_ms)]
        middle = lambda value: statistics.median(value(run) or 0 for run in group)
        valid = sum(run["verdict"] == "pass" for run in group)
        rows.append(
            f"| {calls:,} | {level} | {frame_ms} ms | {len(group)} ({valid}) | "
            f"{middle(lambda r: r['server_ns_per_frame']) / 1000:.1f} µs | "
            f"{middle(lambda r: r['server_ns_per_frame']) / frame_ms:.1f} µs | "
            f"{middle(lambda r: r['server_percent']):.0f} % | "
            + " | ".join(f"{middle(lambda r: r['ack_ms'][i]):.3g} ms" for i in range(3))
            + f" | {middle(lambda r: r['sendlag_p999_ms']):.1f} ms | "
            f"{middle(lambda r: r['generator_percent']):.0f} % | "
            f"{middle(lambda r: r['system_calls_per_frame']):.2f} | "
            + (f"{middle(lambda r: r['disk_per_audio']):.3f} |" if level != "received" else "|")
        )
    raws = [run["raw"] for run in runs if run["raw"]]
    if raws:
        rows.append("")
        stream, synced = (
            statistics.median(raw[name] for raw in raws) for name in ("stream", "synced")
        )
        rows.append(
            "bare disk, O_DIRECT writes of 1 MiB to an allocated file, GB/s: "
            f"{stream:.2f} in one stream, {synced:.2f} with fdatasync after every 8 MiB"
        )
    return "\n".join(rows)


def disk_rate(path, size):
    """What an idle disk takes: GB/s in one stream, and in the rhythm of a journal."""
    block = mmap.mmap(-1, MIB)
    block.write(os.urandom(MIB))
    rates = {}
    for name, between in (("stream", size), ("synced", 8 * MIB)):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o600)
        try:
            os.posix_fallocate(file, 0, size)
            os.fsync(file)
            begin = time.monotonic()
            for offset in range(0, size, MIB):
                os.pwrite(file, block, offset)
                if (offset + MIB) % between == 0:
                    os.fdatasync(file)
            rates[name] = size / (time.monotonic() - begin) / 1e9
        finally:
            os.close(file)
            os.unlink(path)
    return rates


if __name__ == "__main__":
    main()
