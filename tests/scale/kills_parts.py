"""The parts that kills.py kills: a node, SeaweedFS, and NATS servers, each a process of its own.

They listen on ports of their own on 127.0.0.1, keep their files below one directory, and can be
killed and started again at any moment.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

ACCESS_KEY, SECRET_KEY = "exo", "a secret of tests"
BUCKET = "recordings"


def give_up(sentence):
    print(f"kills.py: {sentence}", file=sys.stderr)
    sys.exit(2)


def free_ports(count):
    """Ports that differ, because all are taken at once."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [it.getsockname()[1] for it in sockets]
    for it in sockets:
        it.close()
    return ports


def listens(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


def fetch(url, method="GET", timeout=10, headers=None):
    """Status and body; (0, b"") without an answer."""
    request = urllib.request.Request(url, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (OSError, ValueError):
        return 0, b""


class Part:
    """A process that is killed and started again."""

    def __init__(self, out, name):
        self.out, self.name = out, name
        self.process = None

    def command(self):
        """What to run."""
        raise NotImplementedError

    def launch(self, **more):
        """Starts it. Its log goes on."""
        log = (self.out / f"{self.name}.log").open("ab")
        more.setdefault("stdout", subprocess.DEVNULL)
        command = [str(word) for word in self.command()]
        # A Ctrl-C is for the script, which ends its parts itself.
        self.process = subprocess.Popen(command, stderr=log, start_new_session=True, **more)
        log.close()

    def start(self):
        self.launch()

    def kill(self):
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def has_ended(self):
        return self.process is None or self.process.poll() is not None


class Node(Part):
    """A node whose data directory and archive are new in each part of the run."""

    def __init__(self, out, arguments, program, archive, engine):
        super().__init__(out, "node")
        self.arguments, self.program = arguments, program
        self.archive, self.engine = archive, engine
        self.port, self.admin = free_ports(2)
        self.data = None

    def command(self):
        out, ack = self.out, self.arguments.ack
        command = [self.program, "serve", "--jwt-key", out / "keys/public.pem"]
        command += ["--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin}"]
        command += ["--data-dir", self.data, "--shards", "2", "--ack", ack]
        command += ["--allow-unregistered", "--max-ahead", "off", "--drain-grace", "0s"]
        command += ["--drain", "1s", "--archive", self.archive.url()]
        # Small segments that are sealed soon: slices come all the time.
        settings = ["journal.segment_size=4MiB", "journal.segment_age=3s", "journal.reserve=off"]
        settings += ["limits.ring_size=16MiB", "forward.node=edge-1"]
        settings += [f"archive.options={','.join(self.archive.options())}"]
        if self.engine:
            command += ["--live", self.engine.url()]
            settings += ["live.audio=all", "live.create_streams=2", "live.required=true"]
            settings += [f"live.replicas={len(self.engine.servers)}"]
        settings += self.arguments.set
        return command + [word for setting in settings for word in ("--set", setting)]

    def start(self):
        """Starts it, and waits until it serves. The port may need a moment after a kill."""
        for _ in range(20):
            self.launch(stdout=subprocess.PIPE, text=True)
            line = self.process.stdout.readline()
            if line.startswith("listening on "):
                return
            self.kill()
            time.sleep(0.2)
        give_up(f"the node does not start: see {self.out / 'node.log'}")

    def terminate(self):
        """SIGTERM, and its end: it sends the rest first."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            give_up("the node does not end after SIGTERM")
        self.process = None

    def metrics(self):
        return fetch(f"http://127.0.0.1:{self.admin}/metrics")[1].decode()


class Store(Part):
    """SeaweedFS with its S3 interface."""

    def __init__(self, out, program):
        super().__init__(out, "store")
        self.program = program
        self.ports = free_ports(8)
        self.prefix = ""
        self.dir = out / "store"
        (self.dir / "files").mkdir(parents=True)
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "node", "actions": actions, "credentials": credentials}
        (self.dir / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def command(self):
        names = ["master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc"]
        names += ["s3", "s3.grpc"]
        command = [self.program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
        command += ["-dir=files", "-s3.config=s3.json", "-volume.max=0"]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += ["-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
        for name, port in zip(names, self.ports):
            part, _, grpc = name.partition(".")
            command.append(f"-{part}.port{'.' + grpc if grpc else ''}={port}")
        return command

    def start(self):
        # What its master knew of a leader is not always whole after a kill. No object is in it.
        shutil.rmtree(self.dir / f"files/m{self.ports[0]}", ignore_errors=True)
        self.launch(cwd=self.dir, env={**os.environ, "TMPDIR": str(self.dir)})

    def await_ready(self):
        """Waits until it can store; starts it again if it does not get there."""
        for _ in range(4):
            begin = time.monotonic()
            while time.monotonic() - begin < 30 and not self.has_ended():
                answers = fetch(f"http://127.0.0.1:{self.ports[6]}/", timeout=3)[0] == 403
                if answers and b'"fid"' in self.filer_of(0, "/dir/assign"):
                    return
                time.sleep(0.05)
            self.kill()
            self.start()
        give_up(f"SeaweedFS does not start: see {self.out / 'store.log'}")

    def make_bucket(self):
        master = f"-master=127.0.0.1:{self.ports[0]}.{self.ports[1]}"
        text = f"s3.bucket.create -name {BUCKET}\n"
        subprocess.run([self.program, "shell", master], input=text, text=True, check=True,
                       capture_output=True, timeout=60)

    def filer_of(self, number, path, method="GET"):
        url = f"http://127.0.0.1:{self.ports[number]}{path}"
        return fetch(url, method, 5, {"accept": "application/json"})[1]

    def url(self):
        return f"s3://{BUCKET}/{self.prefix}"

    def options(self):
        return [
            f"endpoint=http://127.0.0.1:{self.ports[6]}", "allow_http=true", "region=us-east-1",
            f"access_key_id={ACCESS_KEY}", f"secret_access_key={SECRET_KEY}",
        ]

    def slices(self, path=None):
        """Paths and sizes of the slices of this part of the run, past the S3 interface."""
        path = path or f"/buckets/{BUCKET}/{self.prefix}/"
        listing = json.loads(self.filer_of(4, f"{path}?limit=10000") or b"{}")
        for entry in listing.get("Entries") or []:
            # The top bits of a Go file mode say that it is a directory.
            if entry["Mode"] & (1 << 31):
                yield from self.slices(entry["FullPath"] + "/")
            elif entry["FullPath"].endswith(".exo"):
                yield entry["FullPath"], entry["FileSize"]

    def lose(self, path):
        self.filer_of(4, path, "DELETE")


class Server(Part):
    """One NATS server."""

    def __init__(self, out, program, number, port):
        super().__init__(out, f"engine-{number}")
        self.program, self.number, self.port = program, number, port

    def command(self):
        return [self.program, "-c", self.out / f"engine-{self.number}.conf"]


class Engine:
    """NATS with JetStream, three servers that sync each message before they acknowledge it."""

    def __init__(self, out, program, count=3):
        ports = free_ports(2 * count)
        routes = ", ".join(f"nats-route://127.0.0.1:{port}" for port in ports[count:])
        self.servers = []
        for number in range(count):
            (out / f"engine-{number}.conf").write_text(
                f'listen: "127.0.0.1:{ports[number]}"\nserver_name: n{number}\n'
                f'cluster {{ name: exo, listen: "127.0.0.1:{ports[count + number]}", '
                f"routes: [{routes}] }}\n"
                f'jetstream {{ store_dir: "{out}/engine-{number}", sync_interval: always }}\n'
            )
            self.servers.append(Server(out, program, number, ports[number]))

    def url(self):
        return ",".join(f"nats://127.0.0.1:{server.port}" for server in self.servers)

    def await_ready(self):
        for server in self.servers:
            begin = time.monotonic()
            while not listens(server.port):
                if server.has_ended():
                    server.start()
                if time.monotonic() - begin > 60:
                    give_up(f"NATS does not start: see {server.out / server.name}.log")
                time.sleep(0.05)


def version_of(program):
    text = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    return re.sub(r"\s+", " ", text.stdout).strip()
