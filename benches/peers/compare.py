#!/usr/bin/env python3
"""Plays the node and other servers in turn, and writes what a frame costs each of them.

    python3 benches/peers/compare.py --calls 1000,4000,8000 --rounds 3 --out peers-result
    python3 benches/peers/compare.py --stall 3 --calls 6000 --binary old=OLD/exo-ingest \\
        --binary new=NEW/exo-ingest --out stall-result

The first builds what is missing, plays every server at every number of calls and in a flood, round
after round, and writes table.md, results.json and chart.svg. The second freezes the journal's disk
under live calls and writes stall.md and stall.json; it needs root. README.md beside this file says
what is measured, and how. It needs Linux 6.12, Python's standard library, cargo, and for one peer
Node.js.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

# No compiled copies of the scripts among the sources.
sys.dont_write_bytecode = True
sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "loadtest"))

import measure
import plays
import report
import servers
import stall


def main():
    arguments = parse()
    for number in servers.STOP_SIGNALS:
        signal.signal(number, stop)
    arguments.out.mkdir(parents=True, exist_ok=True)
    servers.build(arguments)
    keys = arguments.out / "keys"
    if not keys.exists():
        node = next(iter(arguments.binaries.values()))
        subprocess.run([node, "keygen", "--out", keys], check=True, capture_output=True)
    if any(name.endswith("-wss") for name in arguments.servers):
        servers.make_certificate(keys)
    facts = {
        "host": measure.host(arguments),
        "command": shlex.join(["python3", *sys.argv]),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "builds": {name: str(path) for name, path in arguments.binaries.items()},
    }
    print(facts["host"], flush=True)
    (play_stall if arguments.stall else play_all)(arguments, keys, facts)


def stop(*_):
    """Ends what was started, and thaws the disk. Once, even if more signals follow."""
    for number in servers.STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit("stopped by a signal; what was played until then is in no table")


def play_stall(arguments, keys, facts):
    rows = stall.play(arguments, keys)
    text = stall.table(rows, arguments.stall)
    write(arguments.out, "stall", facts, rows, text)


def play_all(arguments, keys, facts):
    rows = []
    for number in range(arguments.rounds):
        for calls in arguments.calls:
            for competitor in servers.competitors(arguments):
                rows.append(plays.realtime(arguments, keys, competitor, calls, number))
                print(report.row_line(rows[-1]), flush=True)
        flooded = servers.competitors(arguments) if arguments.flood else []
        # The flood program speaks no TLS.
        for competitor in (one for one in flooded if not one.is_tls):
            rows.append(plays.flood(arguments, keys, competitor, number))
            print(report.row_line(rows[-1]), flush=True)
    report.add_ratios(rows)
    write(arguments.out, "results", facts, rows, report.table(rows))
    chart = report.chart(rows, facts["host"])
    (arguments.out / "chart.svg").write_text(chart)
    if arguments.smoke and (void := [row for row in rows if row["void"]]):
        sys.exit(f"void: {void}")


def write(out, name, facts, rows, text):
    (out / f"{name}.json").write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")
    text = f"{facts['host']}; {facts['date']}\n\n    {facts['command']}\n\n{text}"
    file = "table.md" if name == "results" else f"{name}.md"
    (out / file).write_text(text)
    print("\n" + text)


def parse():
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--calls", type=measure.numbers, help="numbers of calls, with commas between them")
    add("--rounds", type=int, default=3)
    add("--out", type=Path, default=Path("peers-result"), help="on the disk for the journal, too")
    add("--servers", type=listed, help="of " + ",".join(servers.SERVERS))
    add("--duration", type=float, default=15.0, help="of the steady part, seconds")
    add("--ramp", type=float, help="seconds in which the calls open [default: 500 calls a second]")
    add("--flood", type=int, default=12, help="seconds of a flood; 0: none")
    add("--connections", type=int, default=256, help="of a flood")
    add("--binary", action="append", default=[], help="a build of the node, PATH or NAME=PATH")
    add("--load", type=Path, help="a build of exo-load")
    add("--set", action="append", default=[], help="a setting of the node, key=value")
    add("--flood-set", action="append", default=[], help="a setting of the node, in a flood alone")
    add("--retain-bytes", default="8GiB", help="journal beyond which the oldest audio makes room")
    add("--server-cpu", type=int, default=0)
    add("--generator-cpus", default="1", help="one CPU, or for calls a list")
    add("--no-realtime", dest="realtime", action="store_false", help="exo-load without priority")
    add("--stall", type=float, default=0, help="freeze the journal's disk for so many seconds")
    add("--disk-size", default="16GiB", help="of the disk that is frozen")
    add("--smoke", action="store_true", help="debug builds, 10 calls, 2 s: numbers do not count")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.duration, arguments.ramp, arguments.flood = 1, 2.0, 1.0, 2
        arguments.calls = arguments.calls or [10]
        # Few, so that a debug build soon handles what a flood has left in the sockets.
        arguments.connections, arguments.realtime = 2, False
        # For a machine of any size, without pinning: a smoke run only shows that all works.
        arguments.server_cpu = arguments.generator_cpus = None
        # Others would need their dependencies built.
        arguments.servers = arguments.servers or ("floor", *servers.NODES)
    arguments.servers = arguments.servers or servers.SERVERS
    arguments.calls = arguments.calls or ([6000] if arguments.stall else [1000, 4000, 8000])
    arguments.load = arguments.load or servers.own_binary(arguments.smoke, "exo-load")
    arguments.binaries = builds(arguments)
    return arguments


def listed(text):
    names = tuple(text.split(","))
    if unknown := set(names) - set(servers.SERVERS):
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}")
    return names


def builds(arguments):
    """The builds of the node by name: that of this checkout, unless others are given."""
    if not arguments.binary:
        return {"node": servers.own_binary(arguments.smoke, "exo-ingest")}
    found = {}
    for number, text in enumerate(arguments.binary, 1):
        name, separator, path = text.partition("=")
        found[name if separator else f"node {number}"] = Path(path if separator else text).resolve()
    return found


if __name__ == "__main__":
    main()
