"""The calls of kills.py: they connect again after each loss, and remember what each connection was
promised."""

import json
import socket
import threading
import time

TENANT = "acme"
FRAME_SIZE = 1600
HEADER = b"EXOKILLS"


class Audio:
    """Frames that say which they are: call, connection, number. Each differs from all others."""

    def __init__(self, seed):
        self.block = b"".join(
            (seed * 2_654_435_761 + place * 40_503).to_bytes(16, "little")[:8]
            for place in range(16_384)
        )

    def frame(self, call, connection, seq):
        numbers = b"".join(it.to_bytes(4, "little") for it in (call, connection, seq))
        at = (call * 7_919 + connection * 104_729 + seq * 31) % (len(self.block) - FRAME_SIZE)
        head = HEADER + numbers
        return head + self.block[at : at + FRAME_SIZE - len(head)]

    def read(self, frame):
        """Which frame this is; `None` if it is not byte for byte one of ours."""
        head = len(HEADER)
        if len(frame) != FRAME_SIZE or not frame.startswith(HEADER):
            return None
        which = tuple(
            int.from_bytes(frame[at : at + 4], "little") for at in range(head, head + 12, 4)
        )
        return which if frame == self.frame(*which) else None


class Call(threading.Thread):
    """A call that connects again and again, and remembers what each connection was promised."""

    def __init__(self, number, token, port, audio, rate, doubles=False):
        super().__init__(daemon=True)
        self.number, self.token, self.port = number, token, port
        self.audio, self.pause, self.doubles = audio, 1 / rate, doubles
        self.interaction = f"call-{number}"
        # For each connection: frames sent, perhaps only a part of the last one, and frames acked.
        self.sent, self.acked = [], []
        self.closes = {}
        self.is_over = threading.Event()
        self.is_abandoned = threading.Event()

    def acked_count(self):
        return sum(self.acked)

    def finish(self):
        """Ends it with `stop`, once the node answers."""
        self.is_over.set()

    def abandon(self):
        """Ends it without a word."""
        self.is_abandoned.set()
        self.is_over.set()

    def run(self):
        while not self.is_abandoned.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self.port), 5) as peer:
                    if self.play(peer):
                        return
            except OSError:
                pass
            if self.is_over.is_set() and self.is_abandoned.wait(0.02):
                return
            time.sleep(0.05)

    def play(self, peer):
        """One connection. Returns whether the call has ended with it."""
        start = json.dumps({
            "event": "start", "interaction_id": self.interaction, "tenant_id": TENANT,
            "sample_rate": 8000, "encoding": "pcm16",
        })
        request = (
            "GET /v1/ingest HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Authorization: Bearer {self.token}\r\n\r\n"
        )
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sendall(request.encode())
        buffer = b""
        while b"\r\n\r\n" not in buffer:
            buffer = more(peer, buffer)
        head, buffer = buffer.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.split(b"\r\n")[0]:
            return False
        peer.sendall(masked(0x81, start.encode()))
        while b"started" not in buffer:
            buffer = more(peer, buffer)
        connection = len(self.sent)
        self.sent.append(0)
        self.acked.append(0)
        has_stopped, due = False, time.monotonic()
        if self.doubles and connection and self.acked[connection - 1]:
            self.say_again(peer, connection)
        peer.settimeout(max(0.001, self.pause))
        while not self.is_abandoned.is_set():
            now = time.monotonic()
            if self.is_over.is_set() and not has_stopped:
                has_stopped = True
                peer.sendall(masked(0x81, b'{"event":"stop"}'))
            if not has_stopped and now >= due:
                # It counts before its first byte: the node may have all of it.
                self.sent[connection] += 1
                frame = self.audio.frame(self.number, connection, self.sent[connection])
                peer.settimeout(30)
                peer.sendall(masked(0x82, frame))
                due = max(due + self.pause, now - 1)
            peer.settimeout(max(0.001, due - time.monotonic()) if not has_stopped else 0.2)
            try:
                buffer = more(peer, buffer)
            except TimeoutError:
                continue
            buffer, is_stopped = self.hear(buffer, connection)
            if is_stopped:
                return True
        return True

    def say_again(self, peer, connection):
        """The planted fault: frames that the node has already taken, on a new connection."""
        for seq in range(1, min(10, self.acked[connection - 1]) + 1):
            frame = self.audio.frame(self.number, connection - 1, seq)
            peer.sendall(masked(0x82, frame))

    def hear(self, buffer, connection):
        """Takes whole messages out of what the node sent. Returns the rest, and whether the call
        was confirmed."""
        while True:
            message, buffer = unmasked(buffer)
            if message is None:
                return buffer, False
            opcode, payload = message
            if opcode == 8:
                code = int.from_bytes(payload[:2], "big")
                self.closes[code] = self.closes.get(code, 0) + 1
                raise ConnectionError("closed")
            if opcode != 1:
                continue
            event = json.loads(payload)
            # What the plant says again comes first, and is no promise about frames of this one.
            shift = self.shift(connection)
            if event["event"] == "ack":
                self.acked[connection] = max(self.acked[connection], event["seq"] - shift)
            elif event["event"] == "stopped":
                acked = max(self.acked[connection], event["durable_seq"] - shift)
                self.acked[connection] = acked
                return buffer, True

    def shift(self, connection):
        return min(10, self.acked[connection - 1]) if self.doubles and connection else 0


def more(peer, buffer):
    received = peer.recv(65_536)
    if not received:
        raise ConnectionError("the node has closed the connection")
    return buffer + received


def masked(first, payload):
    """A frame with a mask of zeros, which changes nothing."""
    size = len(payload)
    if size < 126:
        return bytes([first, 0x80 | size]) + bytes(4) + payload
    return bytes([first, 0x80 | 126]) + size.to_bytes(2, "big") + bytes(4) + payload


def unmasked(buffer):
    """The first message of a node, and the rest. All are short."""
    if len(buffer) < 2:
        return None, buffer
    size, begin = buffer[1] & 0x7F, 2
    if size == 126:
        size, begin = int.from_bytes(buffer[2:4], "big"), 4
    if len(buffer) < begin + size or size == 126 and begin == 2:
        return None, buffer
    return (buffer[0] & 0x0F, buffer[begin : begin + size]), buffer[begin + size :]
