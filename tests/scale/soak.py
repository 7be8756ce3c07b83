#!/usr/bin/env python3
"""Soak: calls that end and begin all the time, for an hour. Does the node's memory stay flat?

    cargo build --release -p exo-ingest -p exo-load
    python3 tests/scale/soak.py run --out /var/tmp/soak          # 4,000 calls, 65 minutes
    python3 tests/scale/soak.py run --small --out /var/tmp/soak  # 100 calls, 75 s: for CI
    python3 tests/scale/soak.py run --small --leak --out DIR     # must fail: calls that never end
    python3 tests/scale/soak.py report DIR [--until MINUTE]      # judge kept samples again

`run` starts a node and exo-load, and samples the node: resident memory, its own share of it (PSS),
descriptors, threads, bytes of the journal, and the p99 of ACKs between two samples. It fits a line
through each series after the warm-up. The verdict is "flat" if memory and descriptors change by at
most 1 % over that time, if exo-load found every ACK right, and if the descriptors are as before
when the calls are over. DIR gets soak.json and soak.md. It needs Linux and Python's standard
library. Exit: 0 flat, 1 not flat, 2 it could not run.
"""

import argparse
import collections
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

MIB = 1 << 20
# What is judged, and what is shown beside it.
JUDGED = {"rss": "resident memory", "fds": "descriptors"}
SHOWN = {"pss": "PSS", "threads": "threads", "journal": "journal on disk", "ack_p99_ms": "ACK p99"}
# A short run has too few calls for 1 %. So its rule is: growth up to what one chunk of the
# allocator and the records of a few segments explain; and descriptors up to those of new sockets.
SMALL_ALLOWANCE = {"rss": 4 * MIB, "fds": 8}
FULL_ALLOWANCE = {"rss": 0, "fds": 0}
FLAT_SHARE = 0.01


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="play calls, and judge the node")
    add = run.add_argument
    add("--calls", type=int, help="calls at the same time (4000; small: 100)")
    add("--duration", type=float, help="seconds after the ramp (3900; small: 75)")
    add("--warm-up", type=float, help="seconds after the ramp that do not count (300; small: 15)")
    add("--ramp", type=float, help="seconds (20; small: 3)")
    add("--churn", type=float, help="calls that end and begin each second (20; small: 5)")
    add("--every", type=float, help="seconds between samples (10; small: 1)")
    add("--retain-bytes", help="limit of the journal (16GiB; small: 64MiB)")
    add("--server-cpus", help="CPUs of the node's shards; unset: one shard")
    add("--generator-cpus", help="CPUs of exo-load; unset: one thread")
    add("--small", action="store_true", help="the values for CI, and a rule for short runs")
    add("--leak", action="store_true", help="plant a leak: calls that begin and do not end")
    add("--set", action="append", default=[], help="a setting of the node, key=value")
    add("--binaries", type=Path, default=Path("target/release"))
    add("--out", type=Path, required=True, help="directory for soak.json, soak.md and logs")
    report = commands.add_parser("report", help="judge the samples of an earlier run")
    report.add_argument("out", type=Path, help="the directory of the run")
    report.add_argument(
        "--until", type=float, metavar="MINUTE",
        help="judge the samples up to here, if something from outside ended the run's calls",
    )
    arguments = parser.parse_args()
    if arguments.command == "report":
        soak = json.loads((arguments.out / "soak.json").read_text())
        soak["until"] = arguments.until
        return conclude(soak, arguments.out)
    presets = {
        "calls": (4000, 100), "duration": (3900.0, 75.0), "warm_up": (300.0, 15.0),
        "ramp": (20.0, 3.0), "churn": (20.0, 5.0), "every": (10.0, 1.0),
        "retain_bytes": ("16GiB", "64MiB"),
    }
    for name, (full, small) in presets.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, small if arguments.small else full)
    if arguments.duration - arguments.warm_up < 4 * arguments.every:
        parser.error("--duration must be longer than --warm-up by at least four samples")
    return play(arguments)


# --- The run ------------------------------------------------------------------------------------


def play(arguments):
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if (out / "data").exists():
        give_up(f"{out / 'data'} is there already: give a new directory")
    keygen = [program(arguments, "exo-ingest"), "keygen", "--out", out / "keys"]
    if not (out / "keys").exists():
        subprocess.run(keygen, check=True, capture_output=True)
    node, address, admin = start(arguments)
    generators = []
    try:
        prelude(arguments, address)
        idle = settled(node.pid, admin, out / "data", 0)
        generators.append(load(arguments, address, node.pid))
        if arguments.leak:
            generators.append(leak(arguments, address))
        samples = watch(arguments, node, admin, generators[0])
        generators[0].wait()
        for generator in generators[1:]:
            end(generator)
        after = settled(node.pid, admin, out / "data", idle["fds"])
    finally:
        for process in generators + [node]:
            end(process)
    result = out / "load" / "result.json"
    soak = {
        "version": 1,
        "commit": text_of([program(arguments, "exo-ingest"), "--version"]),
        "kernel": os.uname().release,
        "settings": {
            name: getattr(arguments, name)
            for name in ("calls", "duration", "warm_up", "ramp", "churn", "retain_bytes",
                         "small", "leak")
        },
        "idle": idle,
        "after": after,
        "load": json.loads(result.read_text()) if result.exists() else None,
        "samples": samples,
    }
    return conclude(soak, out)


def program(arguments, name):
    path = arguments.binaries / name
    if not path.exists():
        give_up(f"there is no {path}: cargo build --release -p exo-ingest -p exo-load")
    return path.resolve()


def start(arguments):
    """A node, its address and its admin address."""
    out = arguments.out
    command = [program(arguments, "exo-ingest"), "serve", "--jwt-key", out / "keys/public.pem"]
    command += ["--data-dir", out / "data", "--retain-bytes", arguments.retain_bytes]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "2s"]
    # Room for the calls that the leak adds.
    command += ["--max-calls", str(2 * arguments.calls + 100)]
    if arguments.server_cpus:
        command += ["--cpus", arguments.server_cpus]
    else:
        command += ["--shards", "1"]
    if arguments.small:
        # CI's limit on locked memory may be small.
        command += ["--allow-unregistered", "--set", "journal.reserve=off"]
        # So that segments are made, sealed and used again within the warm-up.
        command += ["--set", "journal.segment_size=16MiB"]
    environment = dict(os.environ)
    if arguments.small:
        # With huge pages memory grows in steps of 2 MiB, and two steps are half of a short run's rule.
        environment["MIMALLOC_ALLOW_THP"] = "0"
    command += [word for setting in arguments.set for word in ("--set", setting)]
    with (out / "node.log").open("w") as log:
        node = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
    listening = re.fullmatch(r"listening on (\S+)\n", node.stdout.readline())
    if listening:
        for _ in range(1000):
            admin = re.search(r"\badmin=(\S+)", (out / "node.log").read_text())
            if admin:
                return node, listening.group(1), admin.group(1)
            time.sleep(0.01)
    node.kill()
    give_up(f"the node did not start: {(out / 'node.log').read_text()}")


def load(arguments, address, pid):
    out = arguments.out
    command = [program(arguments, "exo-load"), "run", "--url", f"ws://{address}/v1/ingest"]
    command += ["--key", out / "keys/private.pem", "--calls", str(arguments.calls)]
    command += ["--ramp", f"{arguments.ramp}s", "--duration", f"{arguments.duration}s"]
    command += ["--churn", str(arguments.churn), "--server-pid", str(pid)]
    command += ["--out", out / "load", "--force"]
    if arguments.generator_cpus:
        command += ["--cpus", arguments.generator_cpus]
    if arguments.small:
        # Whether the machine is in time is no question of a short soak.
        command += ["--sendlag-max", "60s", "--cpu-max", "10000", "--ack-timeout", "60s"]
        command += ["--setup-timeout", "60s", "--stop-timeout", "60s"]
    with (out / "load.txt").open("w") as text:
        return subprocess.Popen(command, stdout=text, stderr=subprocess.STDOUT)


def prelude(arguments, address):
    """A few calls, so that the node has all that it opens once: the first segments, threads."""
    out = arguments.out
    command = [program(arguments, "exo-load"), "run", "--url", f"ws://{address}/v1/ingest"]
    command += ["--key", out / "keys/private.pem", "--calls", "10", "--duration", "3s"]
    command += ["--interaction-prefix", "first-", "--ack-timeout", "60s"]
    with (out / "prelude.txt").open("w") as text:
        subprocess.run(command, stdout=text, stderr=subprocess.STDOUT, check=False)


def leak(arguments, address):
    """Calls that begin one after another for the whole time, and do not end."""
    out = arguments.out
    command = [program(arguments, "exo-load"), "run", "--url", f"ws://{address}/v1/ingest"]
    command += ["--key", out / "keys/private.pem", "--calls", str(max(arguments.calls, 20))]
    command += ["--ramp", f"{arguments.ramp + arguments.duration}s", "--duration", "60s"]
    command += ["--interaction-prefix", "leaked-"]
    with (out / "leak.txt").open("w") as text:
        return subprocess.Popen(command, stdout=text, stderr=subprocess.STDOUT)


def watch(arguments, node, admin, generator):
    """Samples from the end of the warm-up until the calls hang up."""
    sampler = Sampler(node.pid, admin, arguments.out / "data")
    begin = time.monotonic()
    samples = []
    first = arguments.ramp + arguments.warm_up
    last = arguments.ramp + arguments.duration - arguments.every
    due = arguments.every
    while due <= last:
        time.sleep(max(0, begin + due - time.monotonic()))
        if node.poll() is not None:
            give_up(f"the node has ended: see {arguments.out / 'node.log'}")
        if generator.poll() is not None:
            give_up(f"exo-load has ended: {(arguments.out / 'load.txt').read_text()}")
        sample = sampler.sample()
        sample["at"] = round(time.monotonic() - begin, 3)
        sample["counts"] = due >= first
        samples.append(sample)
        progress(f"{due / last:4.0%}  {words(sample)}")
        due += arguments.every
    progress("")
    return samples


def settled(pid, admin, data, wanted_fds):
    """The node after calls: sampled until it has `wanted_fds` descriptors, for 10 s at most. The
    sample with the fewest is returned: a segment is sealed after its calls."""
    sampler = Sampler(pid, admin, data)
    best = None
    for _ in range(20):
        sample = sampler.sample()
        if best is None or (sample["calls"], sample["fds"]) < (best["calls"], best["fds"]):
            best = sample
        if sample["calls"] == 0 and sample["fds"] <= wanted_fds:
            break
        time.sleep(0.5)
    return best


def end(process):
    """Ends a process that this script has started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Sampler:
    """Reads what the kernel and the node say of the node."""

    def __init__(self, pid, admin, data):
        self.process = Path(f"/proc/{pid}")
        self.admin = admin
        self.data = data
        self.buckets = {}

    def sample(self):
        rollup = (self.process / "smaps_rollup").read_text()
        kib = dict(re.findall(r"^(\w+):\s+(\d+) kB$", rollup, re.M))
        metrics = fetch(self.admin, "metrics")
        kinds = self.descriptors()
        return {
            "rss": int(kib["Rss"]) * 1024,
            "pss": int(kib["Pss"]) * 1024,
            "fds": sum(kinds.values()),
            "kinds": kinds,
            "threads": len(list((self.process / "task").iterdir())),
            "journal": sum(on_disk(self.data)),
            "calls": int(total(metrics, "exo_ingest_calls_live")),
            "started": int(total(metrics, "exo_ingest_calls_started_total")),
            "ack_p99_ms": self.ack_p99(metrics),
        }

    def descriptors(self):
        """How many descriptors of each kind: sockets, and files by the end of their name."""
        kinds = collections.Counter()
        for link in (self.process / "fd").iterdir():
            try:
                target = os.readlink(link)
            except FileNotFoundError:
                continue
            if target.startswith(str(self.data.resolve())):
                kinds["journal"] += 1
            else:
                kinds[re.sub(r":.*", "", target) if ":" in target else "file"] += 1
        return dict(kinds)

    def ack_p99(self, metrics):
        """At most this many milliseconds, of ACKs since the last sample: a bucket's upper end."""
        found = {}
        pattern = r'^exo_ingest_ack_seconds_bucket\{(?:[^}]*,)?le="([^"]+)"[^}]*\} (\S+)$'
        for bound, count in re.findall(pattern, metrics, re.M):
            found[float(bound)] = found.get(float(bound), 0) + float(count)
        before, self.buckets = self.buckets, found
        new = {bound: count - before.get(bound, 0) for bound, count in sorted(found.items())}
        total_count = max(new.values(), default=0)
        for bound, count in new.items():
            if total_count and count >= 0.99 * total_count:
                return round(bound * 1000, 3) if bound != float("inf") else None
        return None


def fetch(admin, name):
    with urllib.request.urlopen(f"http://{admin}/{name}", timeout=60) as answer:
        return answer.read().decode()


def total(text, name):
    return sum(map(float, re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.M)))


def on_disk(path):
    """Bytes of each file below a directory that has files removed meanwhile."""
    try:
        entries = list(os.scandir(path))
    except FileNotFoundError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from on_disk(entry.path)
            else:
                yield entry.stat(follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:
            continue


def text_of(command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def give_up(sentence):
    print(f"soak.py: {sentence}", file=sys.stderr)
    sys.exit(2)


# --- The verdict --------------------------------------------------------------------------------


def fit(samples, name):
    """Least squares through one series: its change over the whole time, and its mean."""
    points = [(it["at"], it[name]) for it in samples if it[name] is not None]
    if len(points) < 3:
        return None
    mean_at = sum(at for at, _ in points) / len(points)
    mean = sum(value for _, value in points) / len(points)
    spread = sum((at - mean_at) ** 2 for at, _ in points)
    slope = sum((at - mean_at) * (value - mean) for at, value in points) / spread
    length = points[-1][0] - points[0][0]
    values = [value for _, value in points]
    return {
        "mean": mean,
        "change": slope * length,
        "share": slope * length / mean if mean else 0.0,
        "least": min(values),
        "most": max(values),
        "seconds": length,
    }


def judge(soak):
    """The fits, and everything that speaks against a flat node, as sentences."""
    small = soak["settings"]["small"]
    counted = counted_of(soak)
    fits = {name: fit(counted, name) for name in [*JUDGED, *SHOWN]}
    against = []
    allowance = SMALL_ALLOWANCE if small else FULL_ALLOWANCE
    for name, label in JUDGED.items():
        line = fits[name]
        if line is None:
            against.append(f"there are too few samples of {label}")
            continue
        allowed = max(FLAT_SHARE * line["mean"], allowance[name])
        if abs(line["change"]) > allowed:
            against.append(
                f"{label} changed by {shown(name, line['change'])} ({line['share']:+.1%}), "
                f"and {shown(name, allowed)} is allowed"
            )
    idle, after = soak["idle"], soak["after"]
    if after["calls"]:
        against.append(f"{after['calls']} calls are live after the end")
    for kind, count in after["kinds"].items():
        # The journal keeps a used file ready for the next segment.
        before = idle["kinds"].get(kind, 0)
        if count > before and kind != "journal":
            against.append(f"{count} descriptors of kind {kind} after the end, {before} before")
    load = soak["load"]
    if load is None:
        against.append("exo-load left no result")
    elif soak.get("until"):
        # What it says is of the whole run. The report shows it.
        pass
    elif load["verdict"] not in ("pass", "invalid") or load["counts"]["calls_failed"]:
        # Invalid: the generator was late. Latencies do not count then, but memory does.
        failed = load["counts"]["calls_failed"]
        against.append(f"exo-load says {load['verdict']}, {failed} calls failed: see load.txt")
    return fits, against


def counted_of(soak):
    until = (soak.get("until") or float("inf")) * 60
    return [it for it in soak["samples"] if it["counts"] and it["at"] <= until]


def shown(name, value):
    if value is None:
        return "-"
    if name in ("rss", "pss", "journal"):
        return f"{value / MIB:,.1f} MiB"
    return f"{value:,.1f} ms" if name == "ack_p99_ms" else f"{value:,.1f}"


def words(sample):
    return (
        f"{sample['calls']} calls, {sample['rss'] / MIB:.1f} MiB, {sample['fds']} descriptors, "
        f"ACK p99 {shown('ack_p99_ms', sample['ack_p99_ms'])}"
    )


def kinds_of(sample):
    parts = [f"{count} {kind}" for kind, count in sorted(sample["kinds"].items())]
    return f"{sample['fds']} descriptors ({', '.join(parts)})"


def conclude(soak, out):
    fits, against = judge(soak)
    soak["fits"], soak["against"] = fits, against
    soak["verdict"] = "not flat" if against else "flat"
    (out / "soak.json").write_text(json.dumps(soak, indent=1) + "\n")
    page = "\n".join(lines(soak)) + "\n"
    (out / "soak.md").write_text(page)
    print(page)
    return 1 if against else 0


def lines(soak):
    """The report, line by line."""
    settings, samples = soak["settings"], soak["samples"]
    counted = counted_of(soak)
    minutes = (counted[-1]["at"] - counted[0]["at"]) / 60 if counted else 0
    yield f"# Soak: {soak['verdict']}"
    yield ""
    yield (
        f"{settings['calls']} calls for {settings['duration'] / 60:.1f} minutes, of which "
        f"{minutes:.1f} count. {settings['churn']:g} calls end and begin each second. Durable "
        f"ACKs, {settings['retain_bytes']} of journal."
    )
    yield f"{soak['commit']}, Linux {soak['kernel']}."
    yield ""
    if soak.get("until"):
        yield f"Judged up to minute {soak['until']:g}. What exo-load says below is of the whole run."
        yield ""
    for sentence in soak["against"]:
        yield f"- {sentence}"
    if soak["against"]:
        yield ""
    rule = "1 %"
    if settings["small"]:
        rule += f", or {SMALL_ALLOWANCE['rss'] // MIB} MiB and {SMALL_ALLOWANCE['fds']} descriptors"
    yield f"A line is fitted through each series after the warm-up. Allowed: {rule}."
    yield ""
    yield "| series | mean | least | most | change over the time | |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, label in [*JUDGED.items(), *SHOWN.items()]:
        line = soak["fits"][name]
        if line is None:
            continue
        values = [shown(name, line[key]) for key in ("mean", "least", "most", "change")]
        yield f"| {label} | {' | '.join(values)} | {line['share']:+.2%} |"
    yield ""
    yield "| minute | calls | started | memory | descriptors | journal | ACK p99, at most |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    step = max(1, len(samples) // 13)
    for sample in samples[::step]:
        note = "" if sample["counts"] else " (warm-up)"
        yield (
            f"| {sample['at'] / 60:.1f}{note} | {sample['calls']} | {sample['started']} | "
            f"{shown('rss', sample['rss'])} | {sample['fds']} | "
            f"{shown('journal', sample['journal'])} | "
            f"{shown('ack_p99_ms', sample['ack_p99_ms'])} |"
        )
    idle, after = soak["idle"], soak["after"]
    yield ""
    yield (
        f"Before the calls: {kinds_of(idle)}, {shown('rss', idle['rss'])}. "
        f"After them: {kinds_of(after)}, {shown('rss', after['rss'])}."
    )
    if soak["load"]:
        counts = soak["load"]["counts"]
        yield (
            f"exo-load: {soak['load']['verdict']}, {counts['calls_completed']} calls completed, "
            f"{counts['calls_failed']} failed, {counts['frames']} frames, {counts['acks']} ACKs."
        )


if __name__ == "__main__":
    sys.exit(main())
