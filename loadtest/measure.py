#!/usr/bin/env python3
"""Measures a node under real-time calls, side by side: every level in turn, round after round, medians at the end.

    cargo build --release --workspace
    python3 loadtest/measure.py --calls 4000 --levels received,written,durable --rounds 3 --out /var/tmp/measured

One machine: the node's reactor is pinned to --server-cpu, exo-load to --generator-cpus. It needs Linux and Python's standard
library. Every run's result.json, latency logs, metrics and server log stay in --out; the table is made from them and nothing
else. Runs that exo-load calls invalid (its own send lag p99.9 over 5 ms, or its cores over 85 %) are marked, not left out.
"""

import argparse
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
        subprocess.run([binary(arguments, "exo-ingest"), "keygen", "--out", keys], check=True, capture_output=True)
    print(host(arguments), flush=True)
    runs = []
    for number in range(arguments.rounds):
        raw = disk_rate(out / "raw", arguments.raw_size * MIB) if arguments.raw_size else None
        for calls in arguments.calls:
            for level in arguments.levels:
                run = play(arguments, keys, calls, level, number)
                runs.append({**run, "raw": raw})
                print(line(runs[-1]), flush=True)
    (out / "runs.json").write_text(json.dumps(runs, indent=1) + "\n")
    print("\n" + table(runs))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=numbers, default=[1000], help="numbers of calls, with commas between them")
    parser.add_argument("--levels", type=levels, default=list(LEVELS), help="of " + ",".join(LEVELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", default="15s", help="of the steady part")
    parser.add_argument("--ramp", default="6s")
    parser.add_argument("--retain-bytes", default="16GiB", help="journal beyond which the oldest audio makes room")
    parser.add_argument("--server-cpu", default="0")
    parser.add_argument("--generator-cpus", default="1", help="with / between those of several generators: 1/2")
    parser.add_argument("--realtime", action="store_true", help="exo-load at real-time priority; wants root or CAP_SYS_NICE")
    parser.add_argument("--verify", action="store_true", help="hold the journal against every promised byte afterwards")
    parser.add_argument("--raw-size", type=int, default=2048, help="MiB written to the bare disk each round; 0 for none")
    parser.add_argument("--out", type=Path, default=Path("measured"))
    parser.add_argument("--binaries", type=Path, default=Path("target/release"))
    parser.add_argument("--set", action="append", default=[], help="a setting of the node, key=value")
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
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    return (
        f"{model.group(1) if model else 'unknown CPU'}, {os.cpu_count()} CPUs, Linux {os.uname().release}, commit {commit}; "
        f"node on CPU {arguments.server_cpu}, generator on {arguments.generator_cpus}"
        + (" at real-time priority" if arguments.realtime else "")
    )


def play(arguments, keys, calls, level, number):
    """One run of one level on a fresh data directory."""
    place = arguments.out / f"{calls}-{level}-{number}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    data = arguments.out / "data"
    shutil.rmtree(data, ignore_errors=True)
    node, address, admin = start(arguments, keys, level, data, place)
    try:
        before = sectors(arguments.out)
        verdicts = load(arguments, keys, calls, level, data, place, node.pid, address)
        written = (sectors(arguments.out) - before) * 512
        for name in ("metrics", "debug/latency.hlog", "debug/latency.hgrm"):
            (place / f"server.{name.rsplit('/')[-1]}").write_bytes(fetch(admin, name))
        memory = int(re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{node.pid}/status").read_text()).group(1)) * 1024
    finally:
        node.send_signal(signal.SIGTERM)
        node.wait()
    shutil.rmtree(data, ignore_errors=True)
    return summary(place, calls, level, number, verdicts, written, memory)


def start(arguments, keys, level, data, place):
    command = [binary(arguments, "exo-ingest"), "serve", "--jwt-key", keys / "public.pem", "--cpus", arguments.server_cpu]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "2s"]
    command += [word for setting in arguments.set for word in ("--set", setting)]
    if level == "received":
        command += ["--no-journal"]
    else:
        command += ["--data-dir", data, "--ack", level, "--retain-bytes", arguments.retain_bytes]
    node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=(place / "server.log").open("w"), text=True)
    listening = re.fullmatch(r"listening on (\S+)\n", node.stdout.readline())
    log = (place / "server.log").read_text()
    while listening and not (admin := re.search(r"\badmin=(\S+)", log)) and node.poll() is None:
        time.sleep(0.01)
        log = (place / "server.log").read_text()
    if not listening or node.poll() is not None:
        sys.exit(f"the node did not start: {log}")
    return node, listening.group(1), admin.group(1)


def load(arguments, keys, calls, level, data, place, pid, address):
    """Plays the calls from as many generators as were asked for; returns how each ended."""
    cpus = arguments.generator_cpus.split("/")
    share = calls // len(cpus)
    begin = str(int(time.time()) + 5 + calls // 1000 * len(cpus))
    generators = []
    for index, cpu in enumerate(cpus):
        command = [binary(arguments, "exo-load"), "run", "--url", f"ws://{address}/v1/ingest", "--key", keys / "private.pem"]
        command += ["--calls", str(share), "--first-call", str(index * share), "--cpus", cpu, "--server-pid", str(pid)]
        command += ["--duration", arguments.duration, "--ramp", arguments.ramp, "--ack-level", level]
        command += ["--out", place / str(index), "--note", host(arguments)]
        command += ["--realtime"] if arguments.realtime else []
        command += ["--start-at", begin] if len(cpus) > 1 else []
        command += ["--verify", data] if arguments.verify and level != "received" else []
        generators.append(subprocess.Popen(command, stdout=(place / f"{index}.txt").open("w"), stderr=subprocess.STDOUT))
    ends = [generator.wait() for generator in generators]
    if len(cpus) > 1:
        merge = [binary(arguments, "exo-load"), "merge", *(place / str(index) for index in range(len(cpus)))]
        subprocess.run([*merge, "--out", place / "both"], stdout=(place / "both.txt").open("w"), stderr=subprocess.STDOUT)
    return ends


def fetch(admin, name):
    with urllib.request.urlopen(f"http://{admin}/{name}", timeout=30) as answer:
        return answer.read()


def sectors(path):
    """Sectors of 512 bytes written so far to the device that holds `path`."""
    device = os.stat(path).st_dev
    try:
        return int(Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()[6])
    except OSError:
        return 0


def metric(text, name):
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.M))


def summary(place, calls, level, number, ends, written, memory):
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
    verified = run["verify"]
    return (
        f"{run['calls']} {run['level']} #{run['round']}: {run['verdict']}, {run['completed']} calls, {run['failed']} failed, "
        f"{run['frames']} frames, node {(run['server_ns_per_frame'] or 0) / 1000:.1f} µs a frame "
        f"({run['server_percent'] or 0:.0f} %), generator {(run['generator_ns_per_frame'] or 0) / 1000:.1f} "
        f"({run['generator_percent'] or 0:.0f} %), "
        f"ack p50 {run['ack_ms'][0]:.1f} p99 {run['ack_ms'][1]:.1f} p99.9 {run['ack_ms'][2]:.1f} ms, "
        f"send lag p99.9 {run['sendlag_p999_ms']:.1f} ms, to disk {run['disk_per_audio']:.3f}"
        + (f", verified {verified['frames_equal']} of {verified['frames_promised']}" if verified else "")
    )


def table(runs):
    rows = ["| calls | level | runs (valid) | node's CPU a frame | of a core | ACK p50 | p99 | p99.9 | send lag p99.9 | "
            "generator | system calls a frame | bytes to disk per byte of audio |",
            "|" + " --- |" * 12]
    keys = list(dict.fromkeys((run["calls"], run["level"]) for run in runs))
    for calls, level in keys:
        group = [run for run in runs if (run["calls"], run["level"]) == (calls, level)]
        middle = lambda value: statistics.median(value(run) or 0 for run in group)
        valid = sum(run["verdict"] == "pass" for run in group)
        rows.append(
            f"| {calls:,} | {level} | {len(group)} ({valid}) | {middle(lambda r: r['server_ns_per_frame']) / 1000:.1f} µs | "
            f"{middle(lambda r: r['server_percent']):.0f} % | "
            + " | ".join(f"{middle(lambda r: r['ack_ms'][i]):.3g} ms" for i in range(3))
            + f" | {middle(lambda r: r['sendlag_p999_ms']):.1f} ms | {middle(lambda r: r['generator_percent']):.0f} % | "
            f"{middle(lambda r: r['system_calls_per_frame']):.2f} | "
            + (f"{middle(lambda r: r['disk_per_audio']):.3f} |" if level != "received" else "|")
        )
    raws = [run["raw"] for run in runs if run["raw"]]
    if raws:
        rows.append("")
        rows.append("bare disk, O_DIRECT writes of 1 MiB to an allocated file, GB/s: "
                    f"{statistics.median(raw['stream'] for raw in raws):.2f} in one stream, "
                    f"{statistics.median(raw['synced'] for raw in raws):.2f} with fdatasync after every 8 MiB")
    return "\n".join(rows)


def disk_rate(path, size):
    """What the disk takes with nothing else to do: GB/s in one stream, and in the rhythm of a journal."""
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
