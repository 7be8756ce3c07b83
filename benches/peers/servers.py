"""The servers that are compared: how each is built, started, pinned and stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# In the order of the tables. Of the nodes, those with -wss speak TLS.
NODES = ("node-received", "node-durable", "node-received-wss", "node-durable-wss")
PEERS = ("fastwebsockets", "tokio-tungstenite", "tokio-uring", "node-ws")
SERVERS = ("floor", *NODES, *PEERS)

# Signals that end this program in order. It ends its children, which have their own sessions.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Longest wait for a server to end after SIGTERM; the node drains for 2 s.
STOP_WAIT = 20


def build(arguments):
    """Builds what is missing; cargo and npm know what that is."""
    profile = [] if arguments.smoke else ["--release"]
    wanted = [name for name in arguments.servers if name == "floor" or name in PEERS]
    rust = [name for name in wanted if name != "node-ws"]
    features = ",".join(name for name in rust if name != "floor")
    bins = [word for name in [*rust, "flood"] for word in ("--bin", name)]
    run(["cargo", "build", "--locked", *profile, "--features", features, *bins], HERE)
    if "node-ws" in wanted:
        installed = HERE / "node-ws/node_modules/.installed.json"
        lock = (HERE / "node-ws/package-lock.json").read_bytes()
        if not installed.exists() or installed.read_bytes() != lock:
            run(["npm", "ci", "--ignore-scripts"], HERE / "node-ws")
            installed.write_bytes(lock)
    own = [("exo-load", arguments.load)]
    if any(name in NODES for name in arguments.servers) or arguments.stall:
        own += [("exo-ingest", path) for path in arguments.binaries.values()]
    if any(path == own_binary(arguments.smoke, name) for name, path in own):
        run(["cargo", "build", "--locked", *profile, "--workspace"], ROOT)
    for name, path in own:
        if not path.exists():
            sys.exit(f"there is no {path}: it should be a build of {name}")


def make_certificate(keys):
    """A P-256 certificate for the loopback address. Clients trust it as a CA."""
    if (keys / "tls.pem").exists():
        return
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
    command += ["-keyout", keys / "tls.key", "-out", keys / "tls.pem"]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        sys.exit(f"openssl made no certificate: {made.stderr}")


def run(command, directory):
    environment = dict(os.environ)
    if "CARGO_TARGET_DIR" in environment:
        environment["CARGO_TARGET_DIR"] = str(Path(environment["CARGO_TARGET_DIR"]).resolve())
    if subprocess.run(command, cwd=directory, env=environment).returncode:
        sys.exit(f"this failed, in {directory}: {' '.join(command)}")


def own_binary(is_smoke, name):
    """A program of the root's workspace, where cargo puts it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
    return target / ("debug" if is_smoke else "release") / name


def peer_binary(is_smoke, name):
    """A program of this directory's workspace, where cargo puts it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target/peers")).resolve()
    return target / ("debug" if is_smoke else "release") / name


class Competitor:
    """A server as it is listed: a peer, or one build of the node at one level."""

    def __init__(self, arguments, name, build=None):
        self.arguments = arguments
        self.name = name
        self.binary = arguments.binaries[build] if build else None
        several = build and len(arguments.binaries) > 1
        self.label = f"{name} ({build})" if several else name
        self.level = name.split("-")[1] if name in NODES else None
        self.is_tls = name.endswith("-wss")

    def command(self, keys, data, is_flood):
        """The command line. Peers take only the address."""
        if self.name == "node-ws":
            return ["node", HERE / "node-ws/server.mjs", "--listen", "127.0.0.1:0"]
        if not self.level:
            program = peer_binary(self.arguments.smoke, self.name)
            return [program, "--listen", "127.0.0.1:0"]
        command = [self.binary, "serve", "--jwt-key", keys / "public.pem", "--drain", "2s"]
        command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        if self.arguments.server_cpu is not None:
            command += ["--cpus", str(self.arguments.server_cpu)]
        if self.level == "durable":
            command += ["--data-dir", data, "--retain-bytes", self.arguments.retain_bytes]
        else:
            command += ["--no-journal"]
        if self.is_tls:
            command += ["--tls-cert", keys / "tls.pem", "--tls-key", keys / "tls.key"]
        if is_flood:
            # One token for all calls, and no bound on how far a call runs ahead of the clock.
            command += ["--max-ahead", "off", "--claim-match", "tenant"]
        settings = self.arguments.set + (self.arguments.flood_set if is_flood else [])
        return command + [word for setting in settings for word in ("--set", setting)]


def competitors(arguments):
    """All servers to play, in the order of the tables."""
    listed = []
    for name in arguments.servers:
        builds = arguments.binaries if name in NODES else [None]
        listed += [Competitor(arguments, name, build) for build in builds]
    return listed


class Server:
    """A running server, as a context: it is stopped in any case."""

    def __init__(self, competitor, keys, data, place, is_flood=False):
        self.log = place / "server.log"
        command = competitor.command(keys, data, is_flood)
        with self.log.open("w") as log:
            self.process = start(
                command, competitor.arguments.server_cpu, stdout=subprocess.PIPE, stderr=log
            )
        self.pid = self.process.pid
        self.admin = None
        try:
            listening = re.fullmatch(r"listening on (\S+)\n", self.process.stdout.readline())
            if not listening:
                sys.exit(f"{competitor.label} did not start: {self.log.read_text()}")
            self.address = listening[1]
            if competitor.level:
                self.admin = self.find_admin()
        except BaseException:
            self.stop()
            raise

    def find_admin(self):
        """The admin address is in the log, a moment before or after the line above."""
        for _ in range(500):
            if match := re.search(r"\badmin=(\S+)", self.log.read_text()):
                return match[1]
            time.sleep(0.01)
        sys.exit(f"no admin address in {self.log}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        end(self.process)


def start(command, cpu, **how):
    """Starts a program on one CPU, in its own session, so that Ctrl-C does not reach it."""
    pin = (lambda: os.sched_setaffinity(0, {cpu})) if cpu is not None else None
    return subprocess.Popen(
        [str(word) for word in command], preexec_fn=pin, start_new_session=True, text=True, **how
    )


def end(process):
    """Ends a program that we started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_WAIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
