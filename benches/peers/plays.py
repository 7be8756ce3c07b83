"""One run of one server: calls in real time by exo-load, or a flood. Each gives a row."""

import bisect
import json
import shutil
import subprocess
import time

import host
import measure
import servers

# Frames of a call: exo-load's default, 9,600 bytes each.
FRAMES_PER_SECOND = 5

# Timeouts for a smoke run or a stalled disk: lateness is then no failure.
PATIENT = ["--ack-timeout", "120s", "--setup-timeout", "120s", "--stop-timeout", "120s"]
CARELESS = [*PATIENT, "--sendlag-max", "60s", "--cpu-max", "10000"]


def generator(
    arguments, keys, address, calls, place, ramp, duration, start_at, is_tls=False
):
    """Starts exo-load: open-loop, its clock begins at `start_at` (Unix, seconds)."""
    scheme = "wss" if is_tls else "ws"
    command = [arguments.load, "run", "--url", f"{scheme}://{address}/v1/ingest"]
    command += ["--ca", keys / "tls.pem"] if is_tls else []
    command += ["--key", keys / "private.pem", "--calls", calls, "--start-at", start_at]
    command += ["--ramp", f"{round(ramp * 1000)}ms", "--duration", f"{round(duration * 1000)}ms"]
    command += ["--out", place / "load", "--note", "benches/peers/compare.py"]
    if arguments.generator_cpus is not None:
        command += ["--cpus", arguments.generator_cpus]
    command += ["--realtime"] if arguments.realtime else []
    command += CARELESS if arguments.smoke else PATIENT if arguments.stall else []
    with (place / "load.txt").open("w") as output:
        # It pins its own workers: minting tokens before the calls takes all CPUs.
        return servers.start(command, None, stdout=output, stderr=subprocess.STDOUT)


def start_moment(calls, patience):
    """When the calls may begin. A token for each takes a millisecond of CPU before that."""
    return int(time.time()) + (2 + calls // 400) * patience


def patiently(play):
    """Plays again, with more time, if a busy machine had not minted the tokens in time."""
    for patience in (1, 3, 9):
        row = play(patience)
        if "that moment has passed" not in (row["void"] or ""):
            break
    return row


def sleep_until(moment, process):
    """Sleeps. Returns early if the generator ends."""
    while (left := moment - time.time()) > 0 and process.poll() is None:
        time.sleep(min(left, 0.2))


def fresh_place(arguments, name):
    place = arguments.out / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def realtime(arguments, keys, competitor, calls, number):
    """Calls at the pace of speech, for --duration."""
    return patiently(lambda patience: play(arguments, keys, competitor, calls, number, patience))


def play(arguments, keys, competitor, calls, number, patience):
    place = fresh_place(arguments, f"{calls}-{competitor.label.replace(' ', '-')}-{number}")
    data = arguments.out / "data"
    shutil.rmtree(data, ignore_errors=True)
    duration, ramp = arguments.duration, arguments.ramp or max(1.0, calls / 500)
    counted = min(2.0, duration / 4)
    with servers.Server(competitor, keys, data, place) as server:
        idle = host.resident(server.pid)
        begin = start_moment(calls, patience)
        load = generator(
            arguments, keys, server.address, calls, place, ramp, duration, begin, competitor.is_tls
        )
        try:
            sleep_until(begin + ramp + min(1.0, duration / 4), load)
            before = host.Snapshot(server.pid, load.pid, arguments.server_cpu)
            sleep_until(begin + ramp + duration - counted - 0.5, load)
            after = host.Snapshot(server.pid, load.pid, arguments.server_cpu)
            entered = host.system_calls(server.pid, counted)
            load.wait()
            if server.admin:
                (place / "server.metrics").write_bytes(measure.fetch(server.admin, "metrics"))
        finally:
            servers.end(load)
    shutil.rmtree(data, ignore_errors=True)
    rate = calls * FRAMES_PER_SECOND
    frames = rate * (after.at - before.at)
    row = costs(competitor, number, before, after, frames)
    row |= {"mode": "realtime", "calls": calls, "memory_per_call": (after.rss - idle) / calls}
    row["system_calls_per_frame"] = entered / (rate * counted) if entered is not None else None
    return row | judge(place, calls)


def costs(competitor, number, before, after, frames):
    seconds = (after.at - before.at) * 1e9
    process, workers = after.process - before.process, before.workers_until(after)
    return {
        "server": competitor.label,
        "round": number,
        "seconds": seconds / 1e9,
        "frames": frames,
        "process_ns_per_frame": process / frames if frames else None,
        "workers_ns_per_frame": workers / frames if frames else None,
        "cpu_ns_per_frame": (process + workers) / frames if frames else None,
        "server_percent": 100 * process / seconds,
        "generator_percent": 100 * (after.generator - before.generator) / seconds,
        "steal_percent": before.steal_percent(after),
        "others_percent": before.others_percent(after),
    }


def judge(place, calls):
    """What exo-load found. A row with a frame or an ACK missing is void."""
    source = place / "load/result.json"
    if not source.exists():
        last = (place / "load.txt").read_text().strip().splitlines()[-1:]
        return {"void": f"no result: {' '.join(last)}", "notes": []}
    result = json.loads(source.read_text())
    counts, failures = result["counts"], result["failures"]
    found = [f"{name} {failure['count']}" for name, failure in failures.items()]
    if counts["calls_completed"] != calls:
        found.insert(0, f"{calls - counts['calls_completed']} calls not completed")
    ack = result["latency_ns"]["ack"]
    return {
        "void": ", ".join(found) or None,
        "notes": result["generator"]["ills"],
        "frames_in_all": counts["frames"],
        "acks_in_all": counts["acks"],
        "ack_ms": [ack[name] / 1e6 for name in ("p50", "p99", "p99.9")],
        "sendlag_p999_ms": result["generator"]["sendlag_p999_ns"] / 1e6,
    }


def flood(arguments, keys, competitor, number):
    """Frames as fast as TCP takes them, over --connections, for --flood seconds."""
    place = fresh_place(arguments, f"flood-{competitor.label.replace(' ', '-')}-{number}")
    data = arguments.out / "data"
    shutil.rmtree(data, ignore_errors=True)
    mint = [competitor.binary or next(iter(arguments.binaries.values())), "token", "mint"]
    mint += ["--key", keys / "private.pem", "--tenant", "load", "--interaction", "flood"]
    token = subprocess.run(mint, check=True, capture_output=True, text=True).stdout.strip()
    seconds = arguments.flood
    counted = min(1.0, seconds / 4)
    command = [servers.peer_binary(arguments.smoke, "flood"), "--seconds", seconds]
    command += ["--connections", arguments.connections, "--token", token, "--connect"]
    with servers.Server(competitor, keys, data, place, is_flood=True) as server:
        with (place / "flood.err").open("w") as errors:
            cpu = int(arguments.generator_cpus) if arguments.generator_cpus is not None else None
            load = servers.start(
                [*command, server.address], cpu, stdout=subprocess.PIPE, stderr=errors
            )
        try:
            load.stdout.readline()
            begin = time.time()
            sleep_until(begin + min(1.0, seconds / 4), load)
            before = host.Snapshot(server.pid, load.pid, arguments.server_cpu)
            sleep_until(begin + seconds - counted - 0.3, load)
            after = host.Snapshot(server.pid, load.pid, arguments.server_cpu)
            entered_from = time.time()
            entered = host.system_calls(server.pid, counted)
            entered_until = time.time()
            output = load.stdout.read()
            load.wait()
            if server.admin:
                (place / "server.metrics").write_bytes(measure.fetch(server.admin, "metrics"))
        finally:
            servers.end(load)
    shutil.rmtree(data, ignore_errors=True)
    (place / "flood.json").write_text(output)
    if load.returncode:
        timeline, void = [[0, 0], [1, 0]], (place / "flood.err").read_text().strip()
        result = {"frames": 0, "acks": 0}
    else:
        result = json.loads(output)
        timeline, missing = result["timeline"], result["acks_missing"]
        void = f"{missing} ACKs missing" if missing else None
    frames = acknowledged(timeline, after.at) - acknowledged(timeline, before.at)
    counted_frames = acknowledged(timeline, entered_until) - acknowledged(timeline, entered_from)
    row = costs(competitor, number, before, after, frames)
    row |= {"mode": "flood", "calls": arguments.connections, "void": void, "notes": []}
    row |= {"frames_in_all": result["frames"], "acks_in_all": result["acks"]}
    row["frames_per_second"] = frames / row["seconds"]
    is_counted = entered is not None and counted_frames
    row["system_calls_per_frame"] = entered / counted_frames if is_counted else None
    return row


def acknowledged(timeline, moment):
    """Frames acknowledged until a moment, between two notes of the flood program."""
    after = bisect.bisect_left([at for at, _ in timeline], moment)
    if after in (0, len(timeline)):
        return timeline[min(after, len(timeline) - 1)][1]
    (at_0, frames_0), (at_1, frames_1) = timeline[after - 1], timeline[after]
    return frames_0 + (frames_1 - frames_0) * (moment - at_0) / (at_1 - at_0)
