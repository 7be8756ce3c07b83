"""The stores and message engines that handover.py hands audio over to: how they start and stop,
and what they cost.

tests/handover/install.sh installs the servers. Each gets empty files, ports of its own on
loopback, and the CPUs that it may use.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ACCESS_KEY, SECRET_KEY = "exo", "exo-measures"
BUCKET = "recordings"
START_WAIT = 60.0
TICKS = os.sysconf("SC_CLK_TCK")

# What can be measured, in the order of the report.
SINKS = {
    "none": "no sink",
    "directory": "archive in a directory",
    "seaweedfs": "archive on SeaweedFS, one copy",
    "nats-r1": "NATS, one replica",
    "nats-r3": "NATS, three replicas",
    "nats-r3-sync": "NATS, three replicas, `sync_interval: always`",
}
ENGINES = [name for name in SINKS if name.startswith("nats")]


def open_sink(name, programs, place, cpus):
    """Starts what the sink needs. `place` is an empty directory for its files."""
    place.mkdir(parents=True)
    if name == "none":
        return Sink([], None)
    if name == "directory":
        return Sink([], f"file://{place.resolve()}")
    if name == "seaweedfs":
        return SeaweedFs(programs, place, cpus)
    return Nats(programs, place, cpus, replicas=3 if "r3" in name else 1, sync="sync" in name)


class Sink:
    """A sink, and the processes of its servers. This one has none."""

    is_engine = False

    def __init__(self, processes, url):
        self.processes = processes
        self.url = url

    def settings(self):
        """Settings of a node that hands over to it."""
        return [f"archive.url={self.url}"] if self.url else []

    def ship_flags(self):
        """Flags of `exo-ingest ship`, which does the same without a node."""
        return ["--to", self.url]

    def environment(self):
        """Variables with its credentials, for the node and for `ship`."""
        return {}

    def cpu_seconds(self):
        """CPU time of the servers so far: user and system, threads that have ended too."""
        return sum(map(process_cpu, self.processes))

    def written_bytes(self):
        """Bytes that the servers have written to files so far; None if the kernel does not say."""
        try:
            texts = [Path(f"/proc/{process.pid}/io").read_text() for process in self.processes]
        except OSError:
            return None
        fields = [dict(line.split(": ") for line in text.splitlines()) for text in texts]
        return sum(int(field["write_bytes"]) for field in fields)

    def pause(self):
        """Lets the servers stand still, as a machine does that hangs."""
        for process in self.processes:
            process.send_signal(signal.SIGSTOP)

    def resume(self):
        for process in self.processes:
            process.send_signal(signal.SIGCONT)

    def close(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


class SeaweedFs(Sink):
    """SeaweedFS in one process: master, volume server, filer and S3. One copy of each object."""

    def __init__(self, programs, place, cpus):
        program = installed(programs, "weed")
        names = ["master", "volume", "filer", "s3"]
        flags = [f"{name}.{port}" for name in names for port in ("port", "port.grpc")]
        ports = dict(zip(flags, free_ports(len(flags))))
        self.ports = ports
        (place / "files").mkdir()
        (place / "s3.json").write_text(
            '{"identities":[{"name":"node","actions":["Admin","Read","Write","List","Tagging"],'
            f'"credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}]}}]}}'
        )
        command = [program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
        command += ["-dir=files", "-s3.config=s3.json", "-volume.max=0", "-master.telemetry=false"]
        # Volumes are many enough on a disk with little room. No room is taken in advance.
        command += ["-master.volumeSizeLimitMB=256"]
        # These have fixed ports otherwise.
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += [f"-{flag}={port}" for flag, port in ports.items()]
        super().__init__([spawn(command, place, cpus)], f"s3://{BUCKET}/exo")
        # The master must know its volume server before anything can be stored.
        assign = f"http://127.0.0.1:{ports['master.port']}/dir/assign?collection={BUCKET}"
        wait_for(self, place, "SeaweedFS", lambda: '"fid"' in get(assign))
        wait_for(self, place, "SeaweedFS", lambda: get(f"http://127.0.0.1:{ports['s3.port']}/"))
        shell = [program, "shell", f"-master=127.0.0.1:{ports['master.port']}."
                 f"{ports['master.port.grpc']}"]
        order = f"s3.bucket.create -name {BUCKET}\n"
        with on_cpus(cpus):
            subprocess.run(shell, input=order, text=True, check=True, capture_output=True)

    def options(self):
        endpoint = f"endpoint=http://127.0.0.1:{self.ports['s3.port']}"
        return [endpoint, "allow_http=true", "region=us-east-1"]

    def settings(self):
        return [f"archive.url={self.url}", "archive.options=" + ",".join(self.options())]

    def ship_flags(self):
        options = [word for option in self.options() for word in ("--sink-option", option)]
        return ["--to", self.url, "--give-up", "30s", *options]

    def environment(self):
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


class Nats(Sink):
    """NATS with JetStream: one server, or a cluster of three. Streams are kept in files."""

    is_engine = True
    streams = 4

    def __init__(self, programs, place, cpus, replicas, sync):
        program = installed(programs, "nats-server")
        self.replicas = replicas
        ports = [free_ports(3) for _ in range(replicas)]
        routes = ", ".join(f'"nats-route://127.0.0.1:{route}"' for _, route, _ in ports)
        processes = []
        for number, (port, route, monitor) in enumerate(ports):
            cluster = f'cluster {{ name: exo, listen: "127.0.0.1:{route}", routes: [{routes}] }}\n'
            interval = ", sync_interval: always" if sync else ""
            text = f'listen: "127.0.0.1:{port}"\nhttp: "127.0.0.1:{monitor}"\n'
            text += f"server_name: n{number}\n" + (cluster if replicas > 1 else "")
            text += f'jetstream {{ store_dir: "files-{number}"{interval} }}\n'
            (place / f"{number}.conf").write_text(text)
            command = [program, "-c", f"{number}.conf"]
            processes.append(spawn(command, place, cpus, f"log-{number}"))
        super().__init__(processes, ",".join(f"nats://127.0.0.1:{port}" for port, _, _ in ports))
        for _, _, monitor in ports:
            health = f"http://127.0.0.1:{monitor}/healthz"
            wait_for(self, place, "NATS", lambda: '"ok"' in get(health))

    def settings(self):
        return [
            f"live.url={self.url}",
            "live.audio=all",
            "live.required=true",
            f"live.create_streams={self.streams}",
            f"live.replicas={self.replicas}",
        ]

    def ship_flags(self):
        streams, replicas = str(self.streams), str(self.replicas)
        return ["--to", self.url, "--create-streams", streams, "--replicas", replicas]


def installed(programs, name):
    program = programs / name
    if not program.exists():
        sys.exit(f"{name} is not installed in {programs}: sh tests/handover/install.sh")
    return program.resolve()


def spawn(command, place, cpus, log="log"):
    with on_cpus(cpus), (place / log).open("w") as output:
        return subprocess.Popen(command, cwd=place, stdout=output, stderr=subprocess.STDOUT,
                                env=os.environ | {"TMPDIR": str(place.resolve())})


@contextlib.contextmanager
def on_cpus(cpus):
    """What is started meanwhile may use these CPUs only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_ports(count):
    """Ports that differ, because all are taken at once."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


def get(url):
    """What a server answers, whatever its status; empty if it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace")
    except OSError:
        return ""


def wait_for(sink, place, name, is_ready):
    begin = time.monotonic()
    while not is_ready():
        has_ended = any(process.poll() is not None for process in sink.processes)
        if has_ended or time.monotonic() - begin > START_WAIT:
            sink.close()
            logs = "".join(path.read_text()[-2000:] for path in sorted(place.glob("log*")))
            sys.exit(f"{name} does not start: {logs}")
        time.sleep(0.05)


def process_cpu(process):
    """CPU seconds of a process, exact to a tick of the kernel (10 ms)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
