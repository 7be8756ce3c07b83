#!/usr/bin/env python3
"""Fills a data directory with many small old segments, and measures a node on it.

A template is one sealed segment of a real node. Each copy gets its own number, uuid, place and
checksums, in a run of its own that has ended. The node is the program that you name.

  many_segments.py fill DATA_DIR TEMPLATE.segment --count 150000
  many_segments.py measure EXO_INGEST DATA_DIR --key public.pem --token TOKEN [--seconds 60]
      [--args "--retain-bytes 1000GiB"]

`measure` prints one JSON line: seconds from the start to `listening`, seconds from there to the
first ACK, the longest time between two ACKs, and the growth of the node's memory. Each of its calls
sends 20 ms of audio each 20 ms. It needs only the standard library of Python.
"""

import argparse
import base64
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

BLOCK = 4096


def make_table():
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


TABLE = make_table()


def update(crc, data):
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc


def crc32c(data):
    return update(0xFFFFFFFF, data) ^ 0xFFFFFFFF


def zeros_operator(count):
    """How `count` zero bytes change each byte of a checksum's state."""
    tables = []
    for place in range(4):
        row = []
        for bit in range(8):
            row.append(update(1 << (place * 8 + bit), bytes(count)))
        values = [0] * 256
        for byte in range(256):
            for bit in range(8):
                if byte >> bit & 1:
                    values[byte] ^= row[bit]
        tables.append(values)
    return tables


class Template:
    """A segment, and what must change in a copy."""

    def __init__(self, path):
        with open(path, "rb") as file:
            data = file.read()
        assert data[:8] == b"XSEGMENT", "this is no segment"
        self.header = bytearray(data[:BLOCK])
        self.batches = []
        at = BLOCK
        while at + 64 <= len(data) and data[at : at + 4] == b"XBAT":
            size = struct.unpack_from("<I", data, at + 8)[0]
            self.batches.append((at, bytearray(data[at : at + size])))
            at += size
        assert self.batches, "this segment has no batch"
        self.size = at
        self.zeros = zeros_operator(BLOCK - 4 - 96)

    def copy(self, run, number, created_at):
        """The bytes of segment `number` of a run whose segments are all of this size."""
        uuid, before = number.to_bytes(16, "little"), (number - 1).to_bytes(16, "little")
        start = (number - 1) * self.size
        header = self.header
        struct.pack_into("<QQ", header, 16, run, number)
        header[32:48], header[48:64] = uuid, before
        struct.pack_into("<QQQQ", header, 64, start, start, self.size, created_at)
        state = update(0xFFFFFFFF, header[:96])
        tables = self.zeros
        state = (
            tables[0][state & 0xFF]
            ^ tables[1][state >> 8 & 0xFF]
            ^ tables[2][state >> 16 & 0xFF]
            ^ tables[3][state >> 24]
        )
        struct.pack_into("<I", header, BLOCK - 4, state ^ 0xFFFFFFFF)
        parts = [header]
        for at, batch in self.batches:
            batch[16:32] = uuid
            struct.pack_into("<Q", batch, 40, start + at)
            struct.pack_into("<I", batch, 60, crc32c(batch[:60]))
            parts.append(batch)
        return b"".join(parts)


def marks(ended):
    text = f"exo-ingest marks 1\nshards 1\nremoved-to 0\nended {ended}\n".encode()
    return text + b"crc32c %08x\n" % crc32c(text)


def fill(options):
    template = Template(options.template)
    now = int(time.time() * 1e6)
    first = now - options.count * 1_000_000
    directory = os.path.join(options.data_dir, f"run-1-{first}-1", "shard-0")
    os.makedirs(directory, mode=0o700)
    for number in range(1, options.count + 1):
        data = template.copy(first, number, first + number * 1_000_000)
        descriptor = os.open(
            os.path.join(directory, f"{number:016x}.segment"),
            os.O_WRONLY | os.O_CREAT | os.O_EXCL,
            0o600,
        )
        os.write(descriptor, data)
        os.close(descriptor)
    with open(os.path.join(directory, "marks"), "wb") as file:
        file.write(marks(options.count))
    os.sync()


def memory(pid):
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def frame(opcode, payload):
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    else:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    return head + bytes(4) + payload


class Call:
    """One call in real time. `acks` holds when each ACK came."""

    def __init__(self, address, token, number):
        host, port = address.rsplit(":", 1)
        self.acks = []
        self.socket = socket.create_connection((host, int(port)))
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            (
                f"GET /v1/ingest HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
                f"Authorization: Bearer {token}\r\n\r\n"
            ).encode()
        )
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self.socket.recv(4096)
        status, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        assert b" 101 " in status.split(b"\r\n")[0] + b" ", status
        tenant, interaction = number
        start = {
            "event": "start",
            "tenant_id": tenant,
            "interaction_id": interaction,
            "sample_rate": 8000,
            "encoding": "pcm16",
        }
        self.socket.sendall(frame(1, json.dumps(start).encode()))
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        while True:
            try:
                data = self.socket.recv(65536)
            except OSError:
                return
            if not data:
                return
            if b'"ack"' in data:
                self.acks.append(time.monotonic())

    def send(self):
        self.socket.sendall(frame(2, bytes(320)))


def measure(options):
    begin = time.monotonic()
    node = subprocess.Popen(
        [options.program, "serve", "--listen", "127.0.0.1:0", "--admin", "off"]
        + ["--jwt-key", options.key, "--data-dir", options.data_dir, "--allow-unregistered"]
        + ["--max-ahead", "off", "--shards", "1", "--set", "journal.segment_size=4MiB"]
        + ["--set", "limits.ring_size=16MiB", "--claim-match", "off"]
        + options.args.split(),
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
    )
    address = node.stdout.readline().split()[-1]
    listening = time.monotonic()
    before = memory(node.pid)
    call = Call(address, options.token, (options.tenant, f"scale-{os.getpid()}"))
    due, most = time.monotonic(), before
    while time.monotonic() < listening + options.seconds:
        call.send()
        due += 0.02 / options.speed
        time.sleep(max(0, due - time.monotonic()))
        most = max(most, memory(node.pid))
    node.terminate()
    node.wait()
    acks = call.acks
    gaps = [later - earlier for earlier, later in zip(acks, acks[1:])]
    print(
        json.dumps(
            {
                "start_to_listening_s": round(listening - begin, 3),
                "listening_to_first_ack_s": round(acks[0] - listening, 3) if acks else None,
                "acks": len(acks),
                "longest_gap_s": round(max(gaps), 3) if gaps else None,
                "memory_growth_mib": round((most - before) / 2**20, 1),
            }
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("fill")
    command.add_argument("data_dir")
    command.add_argument("template")
    command.add_argument("--count", type=int, default=150_000)
    command.set_defaults(run=fill)
    command = commands.add_parser("measure")
    command.add_argument("program")
    command.add_argument("data_dir")
    command.add_argument("--key", required=True)
    command.add_argument("--token", required=True)
    command.add_argument("--tenant", default="acme")
    command.add_argument("--seconds", type=float, default=60)
    command.add_argument("--speed", type=float, default=1)
    command.add_argument("--args", default="", help="more flags of the node, in one string")
    command.set_defaults(run=measure)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
