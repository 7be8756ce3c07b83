#!/usr/bin/env python3
"""Measures the CPU time of a request for /status.json, of a node that calls keep busy.

    cargo build --release -p exo-ingest -p exo-load
    python3 tests/scale/status_cost.py --calls 500

Rounds without requests and rounds with them take turns. The CPU time of each thread comes from the
scheduler (/proc/PID/task/TID/schedstat, nanoseconds), so a busy machine changes it little. A
request costs what a round with requests took more, divided by their number.

By default they come every 60 ms. Then each has its own collection of the shards' histograms, and
eight of them share a look at the calls. With --interval 0.5 none shares anything, and the figure
takes many more rounds. Only Python's standard library is needed.
"""

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main():
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as scratch:
        return measure(arguments, Path(scratch))


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--calls", type=int, default=500)
    add("--rounds", type=int, default=10, help="of each kind (default: 10)")
    add("--requests", type=int, default=100, help="in a round (default: 100)")
    add("--interval", type=float, default=0.06, help="seconds between them (default: 0.06)")
    add("--directory", help="on the disk to use (default: the system's for temporary files)")
    add("--binaries", type=Path, default=Path("target/release"))
    return parser.parse_args()


def measure(arguments, scratch):
    keys = scratch / "keys"
    node_binary = arguments.binaries / "exo-ingest"
    subprocess.run([node_binary, "keygen", "--out", keys], check=True, capture_output=True)
    serve = [node_binary, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    serve += ["--jwt-key", keys / "public.pem", "--data-dir", scratch / "data", "--shards", "1"]
    serve += ["--claim-match", "tenant", "--max-calls", "2000", "--retain-bytes", "2GiB"]
    serve += ["--drain", "1s", "--drain-grace", "0s", "--log", "text"]
    log = scratch / "log"
    node = subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=log.open("w"), text=True)
    player = None
    try:
        address = node.stdout.readline().strip().removeprefix("listening on ")
        admin = None
        for _ in range(100):
            # The log has a thread of its own, and may come after the line above.
            admin = re.search(r" admin=(\S+)", log.read_text())
            if admin or node.poll() is not None:
                break
            time.sleep(0.05)
        if not admin:
            sys.exit(f"the node does not start: {log.read_text()}")
        seconds = arguments.rounds * 2 * arguments.requests * arguments.interval + 10
        play = [arguments.binaries / "exo-load", "run", "--url", f"ws://{address}/v1/ingest"]
        play += ["--key", keys / "private.pem", "--tenant", "acme", "--sendlag-max", "1h"]
        play += ["--calls", str(arguments.calls), "--ramp", "3s", "--duration", f"{seconds}s"]
        player = subprocess.Popen(play, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(6)
        rounds = [one_round(node.pid, admin[1], arguments, bool(number % 2))
                  for number in range(2 * arguments.rounds)]
        report(arguments, rounds)
        return 0
    finally:
        for process in (player, node):
            if process:
                process.terminate()
                process.wait()


def cpu_ns(pid):
    """CPU time of the control thread, which answers, and of the shards, nanoseconds."""
    found = {"control thread": 0, "shard": 0}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
            used = int((task / "schedstat").read_text().split()[0])
        except FileNotFoundError:
            continue  # It has ended.
        if name.startswith("shard-"):
            found["shard"] += used
        elif task.name == str(pid):
            found["control thread"] += used
    return found


def one_round(pid, admin, arguments, with_requests):
    connection = http.client.HTTPConnection(admin)
    before, begin, size, calls = cpu_ns(pid), time.monotonic(), 0, None
    for number in range(arguments.requests):
        if with_requests:
            connection.request("GET", "/status.json")
            body = connection.getresponse().read()
            size, calls = len(body), json.loads(body)["node"]["calls"]
        time.sleep(max(0.0, begin + (number + 1) * arguments.interval - time.monotonic()))
    after = cpu_ns(pid)
    if with_requests and calls != arguments.calls:
        sys.exit(f"{calls} calls are live, and not {arguments.calls}: the machine is too busy")
    used = {name: after[name] - before[name] for name in before}
    return {"requests": with_requests, "size": size, **used}


def report(arguments, rounds):
    size = max(one["size"] for one in rounds)
    print(f"{arguments.calls} calls, {arguments.rounds} rounds of {arguments.requests} requests, "
          f"a document of {size} bytes")
    for name in ("control thread", "shard"):
        pairs = zip(rounds[::2], rounds[1::2])
        costs = [(busy[name] - idle[name]) / arguments.requests / 1e3 for idle, busy in pairs]
        used = sum(one[name] for one in rounds if not one["requests"])
        share = used / (arguments.rounds * arguments.requests * arguments.interval * 1e9)
        low, middle, high = statistics.quantiles(costs, n=4)
        print(f"{name:15} {middle:8.0f} µs a request (half of the rounds: {low:.0f} to "
              f"{high:.0f}), and {share:.2%} of a CPU without requests")


if __name__ == "__main__":
    sys.exit(main())
