#!/usr/bin/env python3
"""Measures the hand-over of a node's calls to an archive and to a message engine.

    cargo build --release -p exo-ingest -p exo-load
    sh tests/handover/install.sh
    python3 loadtest/handover.py all --realtime --out /var/tmp/handover      # about 14 minutes
    python3 loadtest/handover.py all --small --out DIR                       # a trial, for CI
    python3 loadtest/handover.py report DIR                                  # the report again

    cost      CPU time for each 9,600 bytes: shards, forwarder and server, for each sink in turn
    sustain   the most calls that a sink keeps up with, and what is full at the next step
    catchup   the store stands still for --outage while calls go on, and then catches up

It runs on one machine with a real SeaweedFS and NATS. The node's shards are pinned to --server-cpu.
exo-load is pinned to --generator-cpus. The forwarder, the node's other threads and the servers run
on --sink-cpus. --out keeps handover.json, handover.md, and the logs and the result.json of every
run. It needs Linux, Python's standard library, and for --realtime root or CAP_SYS_NICE.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import handover_report
import measure
import sinks
from node_sampler import NodeSampler

FRAME_SIZE = 9_600
CALL_RATE = 48_000  # bytes a second of a call of 24 kHz
MIB = 1 << 20
# A lag that grows by less than this share of what comes in is not told from one that does not.
GROWTH_SHARE = 0.05
# A lag moves up and down by a slice, so a little more than one is no growth.
GROWTH_MIN = 48 * MIB
# Share of the disk that a run must leave free.
ROOM_SHARE = 0.02


def main():
    arguments = parse()
    if arguments.command == "report":
        handover_report.write(arguments.out)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "handover.json"
    report = json.loads(path.read_text()) if path.exists() else {"version": 1}
    wanted = ["cost", "sustain", "catchup"] if arguments.command == "all" else [arguments.command]
    begin = time.monotonic()
    for name in wanted:
        measured = {"cost": cost, "sustain": sustain, "catchup": catchup}[name](arguments)
        report[name] = {"machine": machine(arguments), "command": shown_command(name), **measured}
        path.write_text(json.dumps(report, indent=1) + "\n")
    handover_report.write(arguments.out)
    print(f"{time.monotonic() - begin:.0f} s; the report is in handover.md")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("command", choices=["cost", "sustain", "catchup", "all", "report"])
    add("directory", type=Path, nargs="?", help="for report: the directory of the run")
    add("--small", action="store_true", help="few calls for seconds: is the report complete?")
    add("--cost-calls", type=int, help="calls of cost (300; small: 40)")
    add("--cost-sinks", type=lambda text: text.split(","), help="of " + ", ".join(sinks.SINKS))
    add("--rounds", type=int, help="rounds of cost (3; small: 1)")
    add("--duration", type=float, help="seconds of each run of cost (10; small: 3)")
    add("--sink", choices=list(sinks.SINKS)[1:], help="of sustain and catchup (seaweedfs)")
    add("--steps", type=numbers, help="calls of sustain (500,1000,2000,4000; small: 40)")
    add("--step", type=float, help="seconds of each step (18; small: 3)")
    add("--refine", type=int, help="halvings between the last two steps (2; small: 0)")
    late = "sustain: how late exo-load may send (p99.9). The store is on its core, and what is asked"
    late += " here is whether the sink keeps up (20ms; elsewhere exo-load's own limit of 5ms)"
    add("--sustain-sendlag-max", default="20ms", help=late)
    add("--calls", type=int, help="calls of catchup (500; small: 40)")
    add("--before", type=float, help="seconds before the outage (10; small: 2)")
    add("--outage", type=float, help="seconds for which the store stands still (120; small: 1)")
    add("--recovery", type=float, help="seconds of calls after the outage (110; small: 4)")
    slo = "what exo-load must find, repeatable (sustain and catchup: ack.p99<200ms)"
    add("--slo", action="append", help=slo)
    offline = "cost: hand over by `exo-ingest ship` after the calls, not by the node"
    add("--offline", action="store_true", help=offline)
    add("--server-cpu", default="0", help="CPUs of the node's shards")
    add("--generator-cpus", default="1", help="CPUs of exo-load")
    add("--sink-cpus", default="1", help="CPUs of servers, forwarder, other threads of the node")
    add("--realtime", action="store_true", help="exo-load at real-time priority")
    add("--retain-bytes", default="1GiB", help="the node's journal, beside what the sink lacks")
    add("--set", action="append", default=[], help="a setting of the node, key=value")
    add("--binaries", type=Path, default=Path("target/release"))
    programs = Path("target/handover/python/bin")
    add("--programs", type=Path, default=programs, help="where SeaweedFS and NATS are installed")
    add("--out", type=Path, default=Path("measured-handover"))
    arguments = parser.parse_args()
    if arguments.command == "report":
        arguments.out = arguments.directory or arguments.out
        return arguments
    small_sinks = ["none", "seaweedfs", "nats-r1"]
    presets = {
        "cost_calls": (300, 40), "cost_sinks": (list(sinks.SINKS), small_sinks),
        "rounds": (3, 1), "duration": (10.0, 3.0), "sink": ("seaweedfs", "directory"),
        "steps": ([500, 1000, 2000, 4000], [40]), "step": (18.0, 3.0), "refine": (2, 0),
        "calls": (500, 40), "before": (10.0, 2.0), "outage": (120.0, 1.0),
        "recovery": (110.0, 4.0), "slo": (["ack.p99<200ms"], []),
    }
    given_sink = arguments.sink
    for name, (full, small) in presets.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, small if arguments.small else full)
    # A directory cannot stand still.
    arguments.catchup_sink = given_sink or "seaweedfs"
    unknown = set(arguments.cost_sinks) - set(sinks.SINKS)
    if unknown:
        parser.error(f"--cost-sinks: {', '.join(unknown)} is not one of {', '.join(sinks.SINKS)}")
    if arguments.catchup_sink == "directory" and arguments.command in ("all", "catchup"):
        parser.error("--sink: a directory has no server that could stand still")
    return arguments


def numbers(text):
    return [int(number) for number in text.split(",")]


def cpu_set(text):
    """The CPUs of a list such as 2-9,12."""
    parts = [part.split("-") for part in text.split(",")]
    return {cpu for part in parts for cpu in range(int(part[0]), int(part[-1]) + 1)}


def machine(arguments):
    """CPU, kernel, commit, disk and places, without a path of the machine."""
    disk = measure_disk(arguments.out)
    return (
        f"{measure.host(arguments)}, servers and forwarder on {arguments.sink_cpus}; {disk}"
    )


def measure_disk(path):
    """Filesystem and device that hold `path`; the journal and the stores share them."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    kinds = [mount[mount.index("-") + 1] for mount in mounts if mount[2] == number]
    name = Path(f"/sys/dev/block/{number}").resolve().name
    return f"{kinds[0] if kinds else 'unknown'} on {name}, shared by journal and store"


def shown_command(name):
    """The command line for one part, without directories."""
    words, hidden = [], {"--out", "--binaries", "--programs"}
    given = iter(sys.argv[2:])
    for word in given:
        if word in hidden:
            next(given, None)
        elif word.split("=")[0] not in hidden:
            words.append(f"'{word}'" if set(word) & set(" <>*") else word)
    return " ".join(["python3 loadtest/handover.py", name, *words])


# --- One run ------------------------------------------------------------------------------------


class Site:
    """A sink, a node that hands over to it, and the calls on that node. One run has one."""

    def __init__(self, arguments, name, sink_name, with_node=True):
        self.arguments = arguments
        self.place = arguments.out / name
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        self.node, self.generator, self.sink = None, None, None
        cpus = cpu_set(arguments.sink_cpus)
        try:
            self.sink = sinks.open_sink(sink_name, arguments.programs, self.place / "sink", cpus)
            self.start_node(with_node, cpus)
        except BaseException:
            self.close()
            raise

    def start_node(self, hands_over, cpus):
        arguments = self.arguments
        keys = arguments.out / "keys"
        if not keys.exists():
            keygen = [measure.binary(arguments, "exo-ingest"), "keygen", "--out", keys]
            subprocess.run(keygen, check=True, capture_output=True)
        settings = ["drain_grace=0s", "journal.reserve=256MiB"]
        settings += [f"forward.cpus={arguments.sink_cpus}", "forward.node=n1"]
        if arguments.small:
            # Slices end with their segment, so that a few calls make some. CI's limit on locked
            # memory may be small.
            settings += ["journal.segment_size=4MiB", "limits.ring_size=16MiB"]
            settings += ["allow_unregistered=true"]
        settings += self.sink.settings() if hands_over else []
        node = argparse.Namespace(**vars(arguments))
        node.set = settings + arguments.set
        data = self.place / "data"
        os.environ.update(self.sink.environment())
        self.node, self.address, admin = measure.start(node, keys, "durable", data, self.place)
        self.sampler = NodeSampler(self.node.pid, admin, self.sink, arguments.out)
        self.sampler.move_other_threads(cpus)

    def start_load(self, calls, ramp, duration, slos, wait=1.0, sendlag_max=None):
        """Starts the calls. Returns when they begin: on the clock of time.time(). That is after
        `wait` seconds at the earliest, and when the tokens are signed."""
        arguments = self.arguments
        begin = int(time.time() + wait + 1 + calls / 800)
        command = [measure.binary(arguments, "exo-load"), "run", "--quiet"]
        command += ["--url", f"ws://{self.address}/v1/ingest", "--ack-level", "durable"]
        command += ["--key", arguments.out / "keys/private.pem", "--calls", str(calls)]
        command += ["--ramp", f"{ramp}s", "--duration", f"{duration}s", "--start-at", str(begin)]
        command += ["--cpus", arguments.generator_cpus, "--server-pid", str(self.node.pid)]
        command += ["--out", self.place / "load"]
        command += ["--realtime"] if arguments.realtime else []
        command += [word for slo in slos for word in ("--slo", slo)]
        if arguments.small:
            # Whether the machine is in time is no question of a trial.
            command += ["--sendlag-max", "60s", "--cpu-max", "10000", "--ack-timeout", "60s"]
            command += ["--setup-timeout", "60s", "--stop-timeout", "60s"]
        elif sendlag_max:
            command += ["--sendlag-max", sendlag_max]
        with sinks.on_cpus(cpu_set(arguments.generator_cpus)):
            with (self.place / "load.txt").open("w") as text:
                self.generator = subprocess.Popen(command, stdout=text, stderr=subprocess.STDOUT)
        return begin

    def watch(self, until, every=0.5):
        """Samples up to a moment of time.time(). Fails if the node or exo-load has ended."""
        samples = []
        while True:
            samples.append(self.sampler.sample())
            if self.node.poll() is not None:
                sys.exit(f"the node has ended: {(self.place / 'server.log').read_text()[-2000:]}")
            if time.time() >= until:
                return samples
            if self.generator and self.generator.poll() is not None:
                sys.exit(f"exo-load has ended: {(self.place / 'load.txt').read_text()}")
            time.sleep(min(every, max(0.0, until - time.time())))

    def finish_load(self):
        """Waits for the end of the calls, and returns what exo-load has found."""
        self.generator.wait()
        path = self.place / "load" / "result.json"
        if not path.exists():
            sys.exit(f"exo-load has no result: {(self.place / 'load.txt').read_text()}")
        result = json.loads(path.read_text())
        generator, ack = result["generator"], result["latency_ns"]["ack"]
        return {
            "verdict": result["verdict"],
            "why": generator["ills"]
            + [f"{slo['slo']} did not hold" for slo in result["slos"] if not slo["held"]]
            + [f"{name}: {tally['count']} times" for name, tally in result["failures"].items()],
            "failed": result["counts"]["calls_failed"],
            "frames": result["counts"]["frames"],
            "acks": result["counts"]["acks"],
            "ack_ms": [ack[name] / 1e6 for name in ("p50", "p99", "p99.9", "max")],
            "generator_percent": generator["cpu_percent"],
            "sendlag_p999_ms": generator["sendlag_p999_ns"] / 1e6,
        }

    def settle(self):
        """Waits until the sink has everything. Of an archive's slices, the last is not complete:
        there it waits until nothing is taken for a while."""
        begin = time.monotonic()
        last, since = self.sampler.sample(), begin
        while time.monotonic() - begin < 120:
            time.sleep(0.1)
            sample = self.sampler.sample()
            if sample["acknowledged"] != last["acknowledged"] or sample["failing"]:
                last, since = sample, time.monotonic()
            is_complete = sample["acknowledged"] > 0 and sample["lag_bytes"] == 0
            is_quiet = last["acknowledged"] > 0 and time.monotonic() - since > 1.5
            if is_complete or (is_quiet and not self.sink.is_engine):
                return sample
        sys.exit(f"the sink does not take what was recorded: see {self.place.name}/server.log")

    def stop_node(self):
        if self.node and self.node.poll() is None:
            self.node.send_signal(signal.SIGTERM)
            try:
                self.node.wait(60)
            except subprocess.TimeoutExpired:
                self.node.kill()
                self.node.wait()

    def close(self):
        """Ends everything, and removes the audio. Logs and results stay."""
        if self.generator and self.generator.poll() is None:
            self.generator.kill()
            self.generator.wait()
        # It waits for servers that stand still, and they are not needed any more.
        if self.sink:
            self.sink.resume()
        self.stop_node()
        if self.sink:
            self.sink.close()
        for log in (self.place / "sink").glob("log*"):
            shutil.copy(log, self.place / f"sink-{log.name}")
        shutil.rmtree(self.place / "sink", ignore_errors=True)
        shutil.rmtree(self.place / "data", ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def check_room(arguments, calls, seconds):
    """Whether the disk has room for so many calls, in the journal and in the store. Returns a
    sentence if it has not."""
    disk = os.statvfs(arguments.out)
    free = disk.f_bavail * disk.f_frsize - ROOM_SHARE * disk.f_blocks * disk.f_frsize
    needed = 2.1 * calls * CALL_RATE * seconds
    if needed <= free:
        return None
    return (
        f"the disk has no room for {calls:,} calls: they need {needed / 1e9:.1f} GB, "
        f"and {free / 1e9:.1f} GB may be used"
    )


# --- Cost ---------------------------------------------------------------------------------------


def cost(arguments):
    """Every sink in turn, round after round, so that a slow minute hits all of them."""
    calls = arguments.cost_calls
    told = check_room(arguments, calls, arguments.duration + 4)
    if told:
        sys.exit(told)
    runs = []
    for number in range(arguments.rounds):
        # Each second round goes backwards: then a drift does not always hit the same sinks.
        names = arguments.cost_sinks[:: -1 if number % 2 else 1]
        for name in names:
            run = one_cost(arguments, name, calls, number)
            runs.append(run)
            print(handover_report.cost_line(run), flush=True)
    return {"calls": calls, "offline": arguments.offline, "runs": runs}


def one_cost(arguments, name, calls, number):
    ramp, duration = (1.0 if arguments.small else 2.0), arguments.duration
    with Site(arguments, f"cost-{name}-{number}", name, not arguments.offline) as site:
        begin = site.start_load(calls, ramp, duration, [], wait=2.5)
        before = site.watch(begin - 2.2)[-1]
        idle = site.watch(begin - 0.2)[-1]
        first = site.watch(begin + ramp + 0.5)[-1]
        last = site.watch(begin + ramp + duration - 0.3)[-1]
        load = site.finish_load()
        end = site.sampler.sample()
        if name != "none":
            end = end | offline(arguments, site) if arguments.offline else site.settle()
        frames = handed_over(end)
        each = lambda group: (end[group] - idle[group]) * 1e6 / frames if frames else None
        written = (end["server_written"] or 0) - (idle["server_written"] or 0)
        return {
            "sink": name,
            "round": number,
            "load": load,
            # The rate of the steady part: start and calls' set-up are not in it.
            "shard_us": (last["shards"] - first["shards"]) * 1e6
            / (last["frames"] - first["frames"]),
            "frames_handed_over": frames,
            "forwarder_us": each("forwarder") if name != "none" else None,
            "server_us": each("server") if name not in ("none", "directory") else None,
            "server_idle_percent": 100 * (idle["server"] - before["server"])
            / (idle["at"] - before["at"]),
            "written_per_byte": written / (frames * FRAME_SIZE) if written and frames else None,
            "other_threads_us": (end["others"] - idle["others"]) * 1e6 / end["frames"],
        }


def handed_over(sample):
    """Frames that the sink has: all, but for the share of the journal that it lacks."""
    if not sample["acknowledged"]:
        return 0
    return sample["frames"] * max(0.0, 1 - sample["lag_bytes"] / sample["journal"])


def offline(arguments, site):
    """Ends the node, and ships its journal. The CPU time of the program is the forwarder's."""
    site.stop_node()
    ship = [measure.binary(arguments, "exo-ingest"), "ship", "--data-dir", site.place / "data"]
    ship += site.sink.ship_flags() + ["--node", "n1", "--json"]
    with sinks.on_cpus(cpu_set(arguments.sink_cpus)), (site.place / "ship.txt").open("w") as text:
        child = subprocess.Popen(ship, stdout=subprocess.DEVNULL, stderr=text)
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"ship failed: {(site.place / 'ship.txt').read_text()}")
    return {
        "forwarder": site.sampler.forwarder + used.ru_utime + used.ru_stime,
        "server": site.sink.cpu_seconds(),
        "server_written": site.sink.written_bytes(),
        "acknowledged": 1,
        "lag_bytes": 0,
    }


# --- Sustained calls ----------------------------------------------------------------------------


def sustain(arguments):
    """Raises the calls by steps until something fails, and then halves the interval."""
    steps, good, bad = [], 0, None
    for calls in arguments.steps:
        told = check_room(arguments, calls, arguments.step + calls / 250)
        if told:
            return {"sink": arguments.sink, "steps": steps, "sustained": good, "ended": told}
        steps.append(one_step(arguments, calls))
        if not steps[-1]["is_sustained"]:
            bad = calls
            break
        good = calls
    for _ in range(arguments.refine if bad else 0):
        middle = (good + bad) // 200 * 100
        if middle in (good, bad):
            break
        steps.append(one_step(arguments, middle))
        good, bad = (middle, bad) if steps[-1]["is_sustained"] else (good, middle)
    if bad:
        ended = f"{bad:,} calls were too many"
    else:
        ended = f"{good:,} calls were the last step: the limit is higher"
    return {
        "sink": arguments.sink,
        "steps": steps,
        "sustained": good,
        "ended": ended,
        "sendlag_max": None if arguments.small else arguments.sustain_sendlag_max,
    }


def one_step(arguments, calls):
    ramp = max(1.0, calls / 250)
    with Site(arguments, f"sustain-{calls}", arguments.sink) as site:
        begin = site.start_load(
            calls, ramp, arguments.step, arguments.slo, sendlag_max=arguments.sustain_sendlag_max
        )
        site.watch(begin + ramp + 1)
        samples = site.watch(begin + ramp + arguments.step - 0.3)
        load = site.finish_load()
    use = site.sampler.use(samples[0], samples[-1])
    growth = slope(samples, "lag_bytes")
    seconds = samples[-1]["at"] - samples[0]["at"]
    grows = growth * seconds > max(GROWTH_MIN, GROWTH_SHARE * use["journal_rate"] * seconds)
    step = {
        "calls": calls,
        "load": load,
        "use": use,
        "lag_growth": growth,
        "lag_bytes": samples[-1]["lag_bytes"],
        "lag_seconds": samples[-1]["lag_seconds"],
        "lag_grows": grows,
        "is_sustained": load["verdict"] == "pass" and not grows and not samples[-1]["failing"],
    }
    print(handover_report.step_line(step), flush=True)
    return step


def slope(samples, name):
    """Bytes a second by which a number grows: the line through its samples."""
    return statistics.linear_regression(
        [sample["at"] for sample in samples], [sample[name] for sample in samples]
    ).slope


# --- Catch-up -----------------------------------------------------------------------------------


def catchup(arguments):
    """Calls go on at one rate. The store stands still meanwhile, and then takes what waits."""
    calls, ramp = arguments.calls, max(1.0, arguments.calls / 250)
    # The calls go on for a little longer than what is watched.
    duration = arguments.before + arguments.outage + arguments.recovery + 1
    told = check_room(arguments, calls, ramp + duration)
    if told:
        sys.exit(told)
    with Site(arguments, "catchup", arguments.catchup_sink) as site:
        begin = site.start_load(calls, ramp, duration, arguments.slo)
        site.watch(begin + ramp)
        before = site.watch(begin + ramp + arguments.before)
        site.sink.pause()
        outage = site.watch(time.time() + arguments.outage)
        site.sink.resume()
        after = site.watch(time.time() + arguments.recovery, every=0.1)
        load = site.finish_load()
    result = recovery(before, outage, after, site.sampler)
    # Seconds of exo-load's intervals.
    since = lambda sample: sample["at"] + time.time() - time.monotonic() - begin
    caught_up = result["caught_up_after"] or arguments.recovery
    phases = {
        "before": (since(before[0]), since(before[-1])),
        "outage": (since(outage[0]), since(outage[-1])),
        "catching up": (since(after[0]), since(after[0]) + caught_up),
    }
    result |= {
        "sink": arguments.catchup_sink,
        "calls": calls,
        "outage": outage[-1]["at"] - outage[0]["at"],
        "load": load,
        "ack_ms": ack_phases(site.place / "load", phases),
    }
    print(handover_report.catchup_line(result), flush=True)
    return result


def recovery(before, outage, after, sampler):
    """When the lag was again what it had been, give or take a second, and how fast that went."""
    incoming = sampler.use(before[0], before[-1])["journal_rate"]
    # In normal times an archive lacks a slice that is not complete yet.
    normal = max(sample["lag_bytes"] for sample in before)
    acknowledged = outage[-1]["acknowledged"]
    done = next(
        (
            s for s in after
            if s["acknowledged"] > acknowledged
            and s["lag_bytes"] <= normal + incoming
            and not s["failing"]
        ),
        None,
    )
    # It begins with the last sample before the first acknowledgement.
    waited = [s for s in after if s["acknowledged"] == acknowledged] or outage[-1:]
    end = done or after[-1]
    took = end["at"] - waited[-1]["at"]
    taken = end["acknowledged"] - acknowledged
    return {
        "incoming": incoming,
        "normal_lag_bytes": normal,
        "waiting": outage[-1]["journal"] - acknowledged,
        "first_after": waited[-1]["at"] - outage[-1]["at"] if taken else None,
        "caught_up_after": done["at"] - outage[-1]["at"] if done else None,
        "rate": taken / took if taken else None,
        "use": sampler.use(waited[-1], end) if taken else None,
        "lag_seconds_max": max(sample["lag_seconds"] for sample in outage + after),
        "samples": [
            [round(s["at"] - outage[0]["at"], 2), s["lag_bytes"], s["acknowledged"]]
            for s in before + outage + after
        ],
    }


def ack_phases(load, phases):
    """For each phase of a run: the median and the worst of the p99 of its seconds, and the
    slowest ACK, in milliseconds."""
    with (load / "intervals.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["ack_p99_us"]]
    found = {}
    for name, (begin, end) in phases.items():
        inside = [row for row in rows if begin < float(row["seconds"]) <= end + 1]
        p99s = [int(row["ack_p99_us"]) / 1000 for row in inside]
        slowest = max((int(row["ack_max_us"]) / 1000 for row in inside), default=None)
        found[name] = [statistics.median(p99s), max(p99s), slowest] if p99s else None
    return found


if __name__ == "__main__":
    main()
