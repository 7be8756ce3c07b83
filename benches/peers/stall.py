"""A disk that stops under live calls, and what the node costs after it works again.

The disk is an ext4 of its own on a loop device; fsfreeze(8) stops it. Root is needed.
"""

import re
import shutil
import signal
import subprocess
import sys
import time

import host
import measure
import plays
import report
import servers

# Calls play for this long before the disk stops; the last part of it is the window "before".
SETTLE = 7.0
WINDOW = 5.0

# The window "after" begins this long after the disk works again.
AFTER = 8.0

EXHAUSTED = "exo_ingest_receive_buffers_exhausted_total"
FRAMES = "exo_ingest_frames_total"
# Closes by reason. The ordinary end of a call does not count here.
CLOSES = re.compile(r'^exo_ingest_closes_total\{reason="(?!normal")[^"]*"\} (\d+)', re.M)


class LoopDisk:
    """A mounted ext4 in a file. It is thawed, unmounted and removed when the context ends."""

    def __init__(self, arguments):
        self.image = (arguments.out / "disk.img").resolve()
        self.path = (arguments.out / "disk").resolve()
        self.size = arguments.disk_size
        self.device = None
        self.is_mounted = self.is_frozen = False

    def __enter__(self):
        self.path.mkdir(exist_ok=True)
        try:
            # Allocated, so that the filesystem of this file has nothing left to do.
            command("fallocate", "--length", self.size, self.image)
            command("mkfs.ext4", "-q", "-F", "-E", "nodiscard", self.image)
            find = ["losetup", "--direct-io=on", "--find", "--show", self.image]
            self.device = command(*find).strip()
            command("mount", "-t", "ext4", self.device, self.path)
            self.is_mounted = True
            # The device and the file now vanish with the mount, even if this program is killed.
            command("losetup", "--detach", self.device)
            self.device = None
            self.image.unlink()
        except BaseException:
            self.__exit__()
            raise
        return self

    def freeze(self):
        self.is_frozen = True
        command("fsfreeze", "--freeze", self.path)

    def thaw(self):
        command("fsfreeze", "--unfreeze", self.path)
        self.is_frozen = False

    def __exit__(self, *_):
        # Ctrl-C meanwhile must not leave a mount.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, servers.STOP_SIGNALS)
        try:
            if self.is_frozen:
                subprocess.run(["fsfreeze", "--unfreeze", self.path], stderr=subprocess.DEVNULL)
            for attempt in range(100):
                if not self.is_mounted:
                    break
                # io_uring closes the files of an ended process a little later.
                lazy = ["--lazy"] if attempt == 99 else []
                done = subprocess.run(["umount", *lazy, self.path], capture_output=True)
                self.is_mounted = done.returncode != 0
                time.sleep(0.2 if self.is_mounted else 0)
            if self.device:
                subprocess.run(["losetup", "--detach", self.device])
            self.image.unlink(missing_ok=True)
            if not self.is_mounted and self.path.exists():
                self.path.rmdir()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def command(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{words[0]} failed: {done.stderr.strip()}")
    return done.stdout


class Moment:
    """The node at one moment: CPU, and the metrics that are compared."""

    def __init__(self, server, load, arguments):
        self.snapshot = host.Snapshot(server.pid, load.pid, arguments.server_cpu)
        self.metrics = measure.fetch(server.admin, "metrics").decode()

    def metric(self, name):
        return measure.metric(self.metrics, name)

    def until(self, later, calls):
        """Costs of a frame from here to a later moment, over the frames that were served."""
        frames = later.metric(FRAMES) - self.metric(FRAMES)
        process = later.snapshot.process - self.snapshot.process
        workers = self.snapshot.workers_until(later.snapshot)
        seconds = later.snapshot.at - self.snapshot.at
        exhausted = later.metric(EXHAUSTED) - self.metric(EXHAUSTED)
        return {
            "seconds": seconds,
            "frames": frames,
            "process_ns_per_frame": process / frames if frames else None,
            "cpu_ns_per_frame": (process + workers) / frames if frames else None,
            "served_of_due": frames / (calls * plays.FRAMES_PER_SECOND * seconds),
            "exhausted_per_frame": exhausted / frames if frames else None,
            "steal_percent": self.snapshot.steal_percent(later.snapshot),
            "others_percent": self.snapshot.others_percent(later.snapshot),
        }


def play(arguments, keys):
    """Plays all builds in turn, round after round. Returns the rows."""
    rows = []
    with LoopDisk(arguments) as disk:
        for number in range(arguments.rounds):
            for calls in arguments.calls:
                for build in arguments.binaries:
                    which = (build, calls, number)
                    row = plays.patiently(
                        lambda patience: play_one(arguments, keys, disk, *which, patience)
                    )
                    rows.append(row)
                    print(row_line(row), flush=True)
    return rows


def play_one(arguments, keys, disk, build, calls, number, patience):
    competitor = servers.Competitor(arguments, "node-durable", build)
    place = plays.fresh_place(arguments, f"stall-{calls}-{build}-{number}")
    data = disk.path / "data"
    ramp = arguments.ramp or max(1.0, calls / 500)
    duration = SETTLE + arguments.stall + AFTER + WINDOW + 2
    with servers.Server(competitor, keys, data, place) as server:
        begin = plays.start_moment(calls, patience)
        load = plays.generator(
            arguments, keys, server.address, calls, place, ramp, duration, begin
        )
        try:
            freeze_at = begin + ramp + SETTLE
            plays.sleep_until(freeze_at - WINDOW, load)
            moments = [Moment(server, load, arguments)]
            plays.sleep_until(freeze_at, load)
            moments.append(Moment(server, load, arguments))
            disk.freeze()
            plays.sleep_until(time.time() + arguments.stall, load)
            disk.thaw()
            thawed = time.time()
            for at in (AFTER, AFTER + WINDOW):
                plays.sleep_until(thawed + at, load)
                moments.append(Moment(server, load, arguments))
            load.wait()
            metrics = measure.fetch(server.admin, "metrics").decode()
            (place / "server.metrics").write_text(metrics)
        finally:
            if disk.is_frozen:
                disk.thaw()
            servers.end(load)
    shutil.rmtree(data, ignore_errors=True)
    found = plays.judge(place, calls)
    return {
        "build": build,
        "calls": calls,
        "round": number,
        "before": moments[0].until(moments[1], calls),
        "after": moments[2].until(moments[3], calls),
        "closed": sum(int(count) for count in CLOSES.findall(metrics)),
        "void": found["void"],
        "generator": found["notes"],
    }


def row_line(row):
    before, after = row["before"], row["after"]
    micros = lambda window: report.show(report.scaled(window["cpu_ns_per_frame"], 1e-3), ".1f")
    return (
        f"{row['build']}, {row['calls']:,} calls, round {row['round'] + 1}: {micros(before)} µs a "
        f"frame before, {micros(after)} after, {after['served_of_due']:.2f} served of those due, "
        f"{report.show(after['exhausted_per_frame'], '.2f')} receives without a buffer a frame, "
        f"{row['closed']} calls closed"
        + (f"; exo-load: {row['void']}" if row["void"] else "")
    )


def table(rows, seconds):
    """Markdown: a line for each build and number of calls, from the least to the most."""
    head = ["build", "calls", "rounds", "CPU a frame before", "after"]
    head += ["frames served of those due", "receives without a buffer, a frame", "calls closed"]
    text = [f"### The disk stood still for {seconds:g} s", ""]
    text += ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for build, calls in dict.fromkeys((row["build"], row["calls"]) for row in rows):
        same = [row for row in rows if (row["build"], row["calls"]) == (build, calls)]
        of = lambda window, key, scale=1: [report.scaled(r[window][key], scale) for r in same]
        cells = [build, f"{calls:,}", str(len(same))]
        cells += [span(of("before", "cpu_ns_per_frame", 1e-3), ".1f") + " µs"]
        cells += [span(of("after", "cpu_ns_per_frame", 1e-3), ".1f") + " µs"]
        cells += [span(of("after", "served_of_due"), ".2f")]
        cells += [span(of("after", "exhausted_per_frame"), ".2f")]
        cells += [span([row["closed"] for row in same], "d")]
        text.append("| " + " | ".join(cells) + " |")
    text += ["", f"Before: the last {WINDOW:g} s before the freeze. After: {AFTER:g} to "]
    text[-1] += f"{AFTER + WINDOW:g} s after the disk moved again. CPU with kernel workers."
    return "\n".join([*text, "", *(remark for row in rows for remark in remarks(row)), ""])


def remarks(row):
    """Why a row is doubtful."""
    where = f"{row['build']}, {row['calls']:,} calls, round {row['round'] + 1}"
    found = [f"- {row_line(row)}"] if row["void"] else []
    found += [f"- generator late: {where}: {note}." for note in row["generator"]]
    others = max(row[window]["others_percent"] or 0 for window in ("before", "after"))
    if others > report.OTHERS_PERCENT_MAX:
        found.append(f"- disturbed: {where}: others had {others:.0f} % of the server's CPU.")
    return found


def span(values, form):
    """The least and the most, or one of them if they look the same."""
    values = sorted(value for value in values if value is not None)
    if not values:
        return "–"
    ends = [format(values[0], form), format(values[-1], form)]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
