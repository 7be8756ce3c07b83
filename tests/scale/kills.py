#!/usr/bin/env python3
"""Kills over all parts of the hand-over: is every acked frame found once, byte for byte?

    cargo build --release -p exo-ingest && sh tests/handover/install.sh
    python3 tests/scale/kills.py --rounds 1000 --out /var/tmp/kills      # 30 to 40 minutes
    python3 tests/scale/kills.py --small --out DIR                       # 12 rounds: for CI
    python3 tests/scale/kills.py --small --plant lose --out DIR          # must fail; also: double

A node sends its journal to SeaweedFS and hands its calls over to three NATS servers. Calls play all
the time and connect again after each loss. A round kills a part (SIGKILL) at a random moment and
starts it again: the node, SeaweedFS, one NATS server, all three, or everything at once. With
--pause a round stops the part (SIGSTOP) in place of the kill: 600 is an outage of ten minutes.

After every --check-every rounds, and at the end:

1. The node is killed. While it is down, every acked frame must be where the level of its ACKs says:
   in the journal (durable), in the journal and in the engine (replicated).
2. The node starts again, until archive and engine have all.
3. Journal, archive and engine are read. By the rule of consumers each acked frame is there once,
   byte for byte. The three have the same frames, and no others than those that were sent.

DIR gets kills.json, kills.md and the logs. Exit: 0 nothing lost, doubled or changed; 1 something
was; 2 it could not run. It needs Linux and Python's standard library.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kills_calls import FRAME_SIZE, TENANT, Audio, Call
from kills_parts import Engine, Node, Store, give_up, version_of

ROOT = Path(__file__).resolve().parents[2]
# Which part a round kills, and how often.
VICTIMS = {"node": 4, "store": 2, "engine-one": 3, "engine-all": 1, "everything": 1}
# What a check can find.
FAULTS = ("lost", "doubled", "changed", "unsent", "unequal")
SETTLE_SECONDS = 120
# How long a round waits for an ACK, and how many rounds in a row may go on without one.
ROUND_SECONDS, HELD_UP_MAX = 2, 2


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=int, help="kills (1000; small: 12)")
    add("--check-every", type=int, help="rounds between checks (50; small: 12)")
    add("--calls", type=int, help="calls at the same time (8; small: 4)")
    add("--rate", type=float, default=40, help="frames a second of each call (40)")
    add("--ack", default="durable", help="the level of ACKs: durable or replicated (durable)")
    add("--parts", default=",".join(VICTIMS), help="what is killed (all of them)")
    add("--no-engine", action="store_true", help="without a message engine")
    add("--pause", type=float, help="SIGSTOP for so many seconds in place of a kill")
    add("--seed", type=int, help="of the random numbers (of the clock)")
    add("--small", action="store_true", help="the values for CI")
    add("--plant", choices=["lose", "double"], help="plant a fault that must be found")
    add("--set", action="append", default=[], help="a setting of the node, key=value")
    add("--binaries", type=Path, help="directory of exo-ingest (target/release)")
    add("--servers", type=Path, default=ROOT / "target/handover/python/bin",
        help="directory of weed and nats-server")
    add("--out", type=Path, required=True, help="directory for kills.json, kills.md and logs")
    arguments = parser.parse_args()
    presets = {"rounds": (1000, 12), "check_every": (50, 12), "calls": (8, 4)}
    for name, (full, small) in presets.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, small if arguments.small else full)
    if arguments.seed is None:
        arguments.seed = time.time_ns() % 1_000_000
    arguments.binaries = arguments.binaries or ROOT / "target/release"
    victims = {name: VICTIMS.get(name) for name in arguments.parts.split(",")}
    if arguments.no_engine:
        victims = {name: it for name, it in victims.items() if "engine" not in name}
    if None in victims.values() or not victims:
        parser.error(f"--parts knows {', '.join(VICTIMS)}")
    return Run(arguments, victims).play()


class Run:
    def __init__(self, arguments, victims):
        self.arguments, self.victims = arguments, victims
        self.out = out = arguments.out.resolve()
        out.mkdir(parents=True, exist_ok=True)
        if (out / "store").exists():
            give_up(f"{out / 'store'} is there already: give a new directory")
        self.program = self.find(arguments.binaries / "exo-ingest", "cargo build")
        install = "sh tests/handover/install.sh"
        self.store = Store(out, self.find(arguments.servers / "weed", install))
        self.engine = None
        if not arguments.no_engine:
            self.engine = Engine(out, self.find(arguments.servers / "nats-server", install))
        self.node = Node(out, arguments, self.program, self.store, self.engine)
        self.random = random.Random(arguments.seed)
        self.audio = Audio(arguments.seed)
        self.calls = []
        self.part = 0
        self.held_up = 0
        self.done = collections.Counter()
        self.totals = collections.Counter()
        self.faults = {fault: 0 for fault in FAULTS}
        self.closes = collections.Counter()
        self.examples = []
        self.seconds = {"rounds": 0.0, "checks": 0.0}

    @staticmethod
    def find(path, how):
        if not path.exists():
            give_up(f"there is no {path}: {how}")
        return path.resolve()

    def everything(self):
        servers = self.engine.servers if self.engine else []
        return [self.node, self.store, *servers]

    def play(self):
        arguments = self.arguments
        subprocess.run([self.program, "keygen", "--out", self.out / "keys"], check=True,
                       capture_output=True)
        try:
            for part in self.everything()[1:]:
                part.start()
            self.await_servers()
            self.store.make_bucket()
            self.begin_part()
            begin = time.monotonic()
            for number in range(1, arguments.rounds + 1):
                self.round()
                progress(f"{number}/{arguments.rounds} rounds, {self.acked()} frames acked")
                if number % arguments.check_every == 0 or number == arguments.rounds:
                    self.seconds["rounds"] += time.monotonic() - begin
                    begin = time.monotonic()
                    self.check(is_last=number == arguments.rounds)
                    self.seconds["checks"] += time.monotonic() - begin
                    if number < arguments.rounds:
                        self.begin_part()
                    begin = time.monotonic()
        finally:
            for call in self.calls:
                call.abandon()
            for part in self.everything():
                part.kill()
        progress("")
        return self.conclude()

    def await_servers(self):
        self.store.await_ready()
        if self.engine:
            self.engine.await_ready()

    def begin_part(self):
        """Calls, a data directory and an archive that are new."""
        if self.node.data:
            shutil.rmtree(self.node.data)
        self.part += 1
        self.node.data = self.out / f"data-{self.part}"
        self.store.prefix = f"exo-{self.part}"
        self.node.start()
        first = self.part * 1000
        self.calls = [self.call(first + at) for at in range(self.arguments.calls)]
        for call in self.calls:
            call.start()
        self.demand_progress()

    def call(self, number):
        mint = [self.program, "token", "mint", "--key", self.out / "keys/private.pem"]
        mint += ["--tenant", TENANT, "--interaction", f"call-{number}", "--ttl", "24h"]
        token = subprocess.run(mint, check=True, capture_output=True, text=True).stdout.strip()
        doubles = self.arguments.plant == "double"
        return Call(number, token, self.node.port, self.audio, self.arguments.rate, doubles)

    def acked(self):
        return self.totals["acked"] + sum(call.acked_count() for call in self.calls)

    def await_progress(self, patience=60):
        """Waits until calls are acked again. Returns whether they are."""
        before, begin = self.acked(), time.monotonic()
        while self.acked() == before:
            if time.monotonic() - begin > patience:
                return False
            time.sleep(0.02)
        return True

    # --- A round --------------------------------------------------------------------------------

    def round(self):
        names, weights = zip(*self.victims.items())
        name = self.random.choices(names, weights)[0]
        if self.arguments.plant == "double":
            # Calls must connect again to say something twice.
            name = "node"
        servers = self.engine.servers if self.engine else []
        parts = {
            "node": [self.node], "store": [self.store], "engine-all": servers,
            "engine-one": servers and [self.random.choice(servers)],
            "everything": self.everything(),
        }[name]
        time.sleep(self.random.uniform(0.05, 0.9))
        if self.arguments.pause:
            self.stand_still(parts)
        else:
            for part in parts:
                part.kill()
            time.sleep(self.random.uniform(0, 0.4))
            # The node last, or its start would wait for nobody.
            for part in reversed(parts):
                part.start()
        self.done[name] += 1
        # An engine without its leaders may hold calls up for seconds. The next kill does not always
        # wait for it; but most of the time calls must go on.
        if self.await_progress(ROUND_SECONDS):
            self.held_up = 0
        else:
            self.held_up += 1
        if self.held_up == HELD_UP_MAX:
            self.demand_progress()
            self.held_up = 0

    def demand_progress(self):
        if not self.await_progress():
            give_up(f"no frame was acked for a minute: see the logs in {self.out}")

    def stand_still(self, parts):
        for part in parts:
            part.process.send_signal(signal.SIGSTOP)
        time.sleep(self.arguments.pause)
        for part in parts:
            part.process.send_signal(signal.SIGCONT)

    # --- A check --------------------------------------------------------------------------------

    def check(self, is_last):
        """Reads everything back. See the head of this file."""
        self.node.kill()
        for call in self.calls:
            call.abandon()
        for call in self.calls:
            call.join()
            self.closes.update(call.closes)
        self.await_servers()
        journal = self.read_all("journal")
        self.compare_all(journal, "journal, node down")
        if self.engine and self.arguments.ack == "replicated":
            self.compare_all(self.read_all("engine"), "engine, node down")
        self.node.start()
        self.settle(journal)
        if is_last and self.arguments.plant == "lose":
            path, _ = max(self.store.slices(), key=lambda found: found[1])
            self.store.lose(path)
        expected = self.compare_all(self.read_all("journal"), "journal")
        for source in ["archive"] + (["engine"] if self.engine else []):
            found = self.compare_all(self.read_all(source), source)
            for call in self.calls:
                differ = len(found[call] ^ expected[call])
                if differ:
                    where = f"{source} and journal of {call.interaction}"
                    self.fault("unequal", differ, where)
        for call in self.calls:
            self.totals["connections"] += len(call.sent)
            self.totals["acked"] += call.acked_count()
            self.totals["frames"] += len(expected[call])
            self.totals["bytes"] += len(expected[call]) * FRAME_SIZE
        self.calls = []
        self.totals["checks"] += 1
        self.node.terminate()

    def settle(self, journal):
        """Waits until archive and engine have all of the journal."""
        begin = time.monotonic()
        left = set(self.calls) if self.engine else set()
        while True:
            lacks = self.archive_lacks()
            for call in sorted(left, key=lambda call: call.number):
                if len(self.read("engine", call)) < len(journal[call]):
                    lacks = lacks or f"the engine lacks frames of {call.interaction}"
                    break
                left.remove(call)
            if not lacks:
                return
            if time.monotonic() - begin > SETTLE_SECONDS:
                # What is not there is counted as lost below, with its names.
                self.examples.append(f"after {SETTLE_SECONDS} s {lacks}")
                return
            time.sleep(0.3)

    def archive_lacks(self):
        """What the archive does not have yet, in words; nothing if it has all."""
        command = ["ship", "--data-dir", self.node.data, "--to", self.store.url(), "--dry-run"]
        command += ["--node", "edge-1", "--json", "--cursor", self.out / "no-cursor"]
        command += [word for it in self.store.options() for word in ("--sink-option", it)]
        result = self.run(command)
        if result.returncode != 0:
            return f"the archive cannot be asked: {result.stderr.decode().strip()}"
        count = json.loads(result.stdout)["slices"]
        return f"the archive lacks {count} slices" if count else ""

    def run(self, command):
        command = [self.program, *command]
        return subprocess.run(command, capture_output=True, check=False, timeout=300)

    def read_all(self, source):
        """The audio of each call."""
        with ThreadPoolExecutor(os.cpu_count()) as readers:
            return dict(zip(self.calls, readers.map(lambda it: self.read(source, it), self.calls)))

    def compare_all(self, audio, source):
        """Which frames of each call are there."""
        return {call: self.compare(call, audio[call], source) for call in self.calls}

    def read(self, source, call):
        """The audio of a call: all of its connections, one after the other."""
        name = f"{TENANT}/{call.interaction}"
        if source == "journal":
            command = ["calls", "export", name, "--epoch", "all", "--data-dir", self.node.data]
        elif source == "archive":
            command = ["archive", "export", name, "--epoch", "all", "--from", self.store.url()]
            command += [word for it in self.store.options() for word in ("--sink-option", it)]
        else:
            command = ["read", name, "--from", self.engine.url()]
        result = self.run([*command, "-o", "-"])
        if result.returncode not in (0, 3):
            self.examples.append(f"{source}: {result.stderr.decode().strip()}")
            return b""
        at = result.stdout.find(b"data")
        return result.stdout[at + 8 :] if at >= 0 else b""

    def compare(self, call, audio, source):
        """Counts what is wrong with the audio of a call. Returns which frames it has."""
        found, before = set(), (-1, 0)
        for at in range(0, len(audio), FRAME_SIZE):
            which = self.audio.read(audio[at : at + FRAME_SIZE])
            where = f"{source}: frame at byte {at} of {call.interaction}"
            if which is None or which[0] != call.number:
                self.fault("changed", 1, where)
                continue
            connection, seq = which[1:]
            if (connection, seq) in found:
                self.fault("doubled", 1, f"{where}: {seq} of connection {connection}")
            elif connection >= len(call.sent) or seq > call.sent[connection]:
                self.fault("unsent", 1, f"{where}: {seq} of connection {connection}")
            elif (connection, seq) < before:
                self.fault("changed", 1, f"{where}: {seq} of connection {connection} comes late")
            found.add((connection, seq))
            before = (connection, seq)
        for connection, acked in enumerate(call.acked):
            lost = [seq for seq in range(1, acked + 1) if (connection, seq) not in found]
            if lost:
                self.fault("lost", len(lost), f"{source}: frames {lost[0]} to {lost[-1]} of "
                           f"connection {connection} of {call.interaction}, {acked} acked")
        return found

    def fault(self, kind, count, example):
        self.faults[kind] += count
        if sum(told.startswith(kind) for told in self.examples) < 5:
            self.examples.append(f"{kind}: {example}")

    # --- The report -----------------------------------------------------------------------------

    def conclude(self):
        arguments = self.arguments
        bad = any(self.faults.values()) or self.totals["acked"] == 0
        report = {
            "version": 1,
            "commit": version_of(self.program),
            "kernel": os.uname().release,
            "settings": {
                name: getattr(arguments, name)
                for name in ("rounds", "check_every", "calls", "rate", "ack", "seed", "pause",
                             "plant")
            },
            "engine": "nats" if self.engine else None,
            "verdict": "failed" if bad else "passed",
            "rounds": dict(self.done),
            "checks": self.totals["checks"],
            "connections": self.totals["connections"],
            "frames_acked": self.totals["acked"],
            "frames_found": self.totals["frames"],
            "bytes": self.totals["bytes"],
            **self.faults,
            "closes": {str(code): count for code, count in sorted(self.closes.items())},
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "examples": self.examples,
        }
        (self.out / "kills.json").write_text(json.dumps(report, indent=1) + "\n")
        page = "\n".join(lines(report)) + "\n"
        (self.out / "kills.md").write_text(page)
        print(page)
        return 1 if bad else 0


def lines(report):
    """The report, line by line."""
    settings, total = report["settings"], sum(report["rounds"].values())
    yield f"# Kills: {report['verdict']}"
    yield ""
    what = f"SIGSTOP for {settings['pause']:g} s" if settings["pause"] else "SIGKILL"
    engine = "SeaweedFS and three NATS servers" if report["engine"] else "SeaweedFS"
    yield (
        f"{total} rounds ({what}) with {settings['calls']} calls at a time, ACKs at level "
        f"`{settings['ack']}`, {engine}. Random numbers from {settings['seed']}."
    )
    yield f"{report['commit']}, Linux {report['kernel']}."
    yield ""
    yield "| part | rounds |"
    yield "| --- | --- |"
    for name in VICTIMS:
        yield f"| {name} | {report['rounds'].get(name, 0)} |"
    yield ""
    yield "| frames | count |"
    yield "| --- | --- |"
    yield f"| acked | {report['frames_acked']:,} |"
    yield f"| found in the journal | {report['frames_found']:,} |"
    words = {
        "lost": "acked and not found, in each place", "doubled": "found twice, after the rule",
        "changed": "found with other bytes, or in another place", "unsent": "never sent",
        "unequal": "not the same in journal, archive and engine",
    }
    for fault in FAULTS:
        yield f"| {words[fault]} | {report[fault]:,} |"
    yield ""
    seconds = report["seconds"]
    yield (
        f"{report['connections']:,} connections, {report['bytes'] / 1e6:,.1f} MB of audio, "
        f"{report['checks']} checks. The rounds took {seconds['rounds']:,.0f} s, the checks "
        f"{seconds['checks']:,.0f} s."
    )
    if report["closes"]:
        closes = ", ".join(f"{code}: {count}" for code, count in report["closes"].items())
        yield f"The node closed connections with these codes: {closes}."
    if report["examples"]:
        yield ""
        yield from (f"- {example}" for example in report["examples"])


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
