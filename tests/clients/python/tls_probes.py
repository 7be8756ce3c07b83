"""Says to a node over TLS what it must refuse, and unusual things that it must take.

    python tls_probes.py HOST:PORT

It plays the part of a hostile client with tlslite-ng, which lets any record be sealed. Each probe
has an outcome that RFC 8446 (TLS 1.3), RFC 5246 (TLS 1.2) or RFC 8449 asks for. Prints a line for
each probe, and ends with 1 if one of them did not come out so.
"""

import contextlib
import os
import socket
import struct
import sys
import traceback

from tlslite.constants import AlertDescription
from tlslite.errors import TLSAbruptCloseError, TLSRemoteAlert
from tlslite.extensions import TLSExtension
from tlslite.handshakesettings import HandshakeSettings
from tlslite.messages import ClientHello, KeyUpdate, Message
from tlslite.tlsconnection import TLSConnection

HOST, PORT = sys.argv[1].rsplit(":", 1)
PATIENCE = 20

TLS12, TLS13 = (3, 3), (3, 4)
BOTH = (TLS12, TLS13)

# Content types, and types of handshake messages.
CCS, ALERT, HANDSHAKE, DATA, HEARTBEAT = 20, 21, 22, 23, 24
CLIENT_HELLO, SERVER_HELLO, KEY_EXCHANGE, FINISHED, KEY_UPDATE = 1, 2, 16, 20, 24

REQUEST = b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n"
UPDATE, UPDATE_REQUESTED = b"\x18\0\0\1\0", b"\x18\0\0\1\1"

# Records in a row without data that the node takes.
QUIET_MAX = 32

# What a peer sees of an end without an alert.
ENDS = ("end", "reset")


class Failed(Exception):
    """A probe did not come out as it has to."""


def expect(outcome, *wanted):
    if outcome not in wanted:
        raise Failed(f"{outcome}, not {' or '.join(wanted)}")


def last(steps):
    """What one of tlslite's generators comes to, on a blocking socket."""
    for result in steps:
        if result not in (0, 1):
            return result
    return None


def connect():
    connection = socket.create_connection((HOST, int(PORT)), PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


# --- After a handshake ----------------------------------------------------------------------------


class Talk:
    """A connection after its handshake: it seals any record, and says what came of it."""

    def __init__(self, version, ciphers=None, psk=None):
        self.socket = connect()
        self.tls = TLSConnection(self.socket)
        self.updates = 0
        settings = HandshakeSettings()
        settings.minVersion = settings.maxVersion = version
        if ciphers:
            settings.cipherNames = ciphers
        if psk:
            settings.pskConfigs = [psk]
        self.tls.handshakeClientCert(settings=settings, serverName="localhost")
        self.layer = self.tls._recordLayer

    def record(self, kind, payload, padding=0):
        """One record, whatever is in it."""
        self.layer.padding_cb = (lambda *_: padding) if padding else None
        last(self.layer.sendRecord(Message(kind, bytearray(payload))))

    def inner(self, plaintext):
        """TLS 1.3: a record with this inner plaintext, type and padding included."""
        sealed = self.layer._encryptThenSeal(bytearray(plaintext), DATA)
        last(self.layer._recordSocket.send(Message(DATA, sealed)))

    def sealed(self, kind, payload):
        """The bytes of a record that is not sent."""
        real, taken = self.layer._recordSocket, []
        self.layer._recordSocket = type(
            "Taker",
            (),
            {"version": real.version, "send": lambda _, msg, __=0: iter([taken.append(msg)])},
        )()
        last(self.layer.sendRecord(Message(kind, bytearray(payload))))
        self.layer._recordSocket = real
        body = bytes(taken[0].write())
        return struct.pack("!B2sH", taken[0].contentType, b"\3\3", len(body)) + body

    def raw(self, sent):
        self.socket.sendall(sent)

    def update_own_keys(self):
        session = self.tls.session
        session.cl_app_secret, session.sr_app_secret = self.layer.calcTLS1_3KeyUpdate_reciever(
            session.cipherSuite, session.cl_app_secret, session.sr_app_secret
        )

    def key_update(self, *pieces):
        for piece in pieces:
            self.record(HANDSHAKE, piece)
        self.update_own_keys()

    def request(self):
        self.record(DATA, REQUEST)

    def outcome(self):
        """An HTTP status, the name of an alert, `end`, `reset` or `nothing`."""
        data = b""
        try:
            while True:
                header, parser = last(self.layer.recvRecord())
                content = bytes(parser.bytes)
                if header.type == DATA:
                    data += content
                    if len(data) >= 12:
                        return data[9:12].decode() if data.startswith(b"HTTP/1.1 ") else str(data)
                elif header.type == ALERT:
                    return AlertDescription.toStr(content[1])
                elif header.type == HANDSHAKE and content[0] == KEY_UPDATE:
                    self.updates += 1
                    last(self.tls._handle_keyupdate_request(KeyUpdate().create(0)))
        except TLSAbruptCloseError:
            return "end"
        except (ConnectionResetError, BrokenPipeError):
            return "reset"
        except socket.timeout:
            return "nothing"


def lenient(action):
    """Sends what a node may have stopped to take."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        action()


def after(version, records, *wanted):
    """These records, then a request: which counts where all of them were taken."""
    talk = Talk(version)
    for kind, payload in records:
        lenient(lambda: talk.record(kind, payload))
    lenient(talk.request)
    expect(talk.outcome(), *wanted)


# --- In place of a handshake's messages -----------------------------------------------------------

# What stands for the message that tlslite would have sent, for the same in records of a byte, and
# for bytes below its record layer.
ITSELF, SPLIT, RAW = "itself", "split", "raw"


@contextlib.contextmanager
def replaced(change):
    """While it lasts, tlslite sends what `change` makes of its messages: records, or None."""
    original = TLSConnection._sendMsg

    def send(self, message, *args, **kwargs):
        payload = bytes(message.write())
        records = change(message.contentType, payload)
        for record in [ITSELF] if records is None else records:
            if record == ITSELF:
                yield from original(self, message, *args, **kwargs)
            elif record == SPLIT:
                self._handshake_hash.update(message.write())
                for byte in payload:
                    yield from self._sendMsgThroughSocket(Message(HANDSHAKE, bytearray([byte])))
            elif record[0] == RAW:
                self.sock.flush()
                self.sock.sendall(record[1])
            else:
                yield from self._sendMsgThroughSocket(Message(record[0], bytearray(record[1])))

    TLSConnection._sendMsg = send
    try:
        yield
    finally:
        TLSConnection._sendMsg = original


def during(version, change, *wanted, **options):
    """A handshake whose messages `change` replaces, then a request."""
    try:
        with replaced(change):
            talk = Talk(version, **options)
        lenient(talk.request)
        outcome = talk.outcome()
    except TLSRemoteAlert as alert:
        outcome = AlertDescription.toStr(alert.description)
    except TLSAbruptCloseError:
        outcome = "end"
    except (ConnectionResetError, BrokenPipeError):
        outcome = "reset"
    expect(outcome, *wanted)


def instead_of(message_type, *records):
    def change(kind, payload):
        if kind == HANDSHAKE and payload[0] == message_type:
            return [record(payload) if callable(record) else record for record in records]
        return None

    return change


def flipped(payload):
    return (HANDSHAKE, payload[:-1] + bytes([payload[-1] ^ 1]))


# --- Hellos, byte by byte -------------------------------------------------------------------------


def vector(size, payload):
    """A payload after its length, which has `size` bytes."""
    return len(payload).to_bytes(size, "big") + payload


def extension(kind, payload=b""):
    return struct.pack("!H", kind) + vector(2, payload)


def numbers(size, *values):
    """A vector of numbers of two bytes."""
    return vector(size, b"".join(struct.pack("!H", value) for value in values))


X25519, P256, P521 = 0x1D, 0x17, 0x19
SUITES13, SUITES12 = (0x1301, 0x1302, 0x1303), (0xC02B, 0xC02C, 0xCCA9)
P256_BASE = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)

NAME = extension(0, vector(2, b"\0" + vector(2, b"localhost")))
GROUPS = extension(10, numbers(2, X25519, P256))
SIGNATURES = extension(13, numbers(2, 0x0403, 0x0804, 0x0401))
VERSIONS = extension(43, numbers(1, 0x0304, 0x0303))


def share(group, key):
    return struct.pack("!H", group) + vector(2, key)


def shares(*all_shares):
    return extension(51, vector(2, b"".join(all_shares)))


SHARE = shares(share(X25519, os.urandom(32)))
USUAL = (NAME, GROUPS, SIGNATURES, VERSIONS, SHARE)
OLD = (NAME, GROUPS, SIGNATURES, extension(11, b"\1\0"), extension(0xFF01, b"\0"))


def hello(
    extensions=USUAL, suites=SUITES13 + SUITES12, version=0x0303, compressions=b"\0", session=None
):
    """A ClientHello, as a handshake message."""
    session = os.urandom(32) if session is None else session
    body = struct.pack("!H", version) + os.urandom(32) + vector(1, session)
    body += numbers(2, *suites) + vector(1, compressions)
    if extensions is not None:
        body += vector(2, b"".join(extensions))
    return bytes([CLIENT_HELLO]) + vector(3, body)


def records(payload, size=1 << 14, kind=HANDSHAKE, version=0x0301):
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    return b"".join(struct.pack("!BH", kind, version) + vector(2, piece) for piece in pieces)


class Plain:
    """A connection without keys."""

    def __init__(self):
        self.socket = connect()
        self.buffer = b""

    def send(self, sent):
        lenient(lambda: self.socket.sendall(sent))
        return self

    def take(self, size):
        while len(self.buffer) < size:
            received = self.socket.recv(1 << 16)
            if not received:
                raise TLSAbruptCloseError()
            self.buffer += received
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def answer(self):
        """`1.3`, `1.2` or `retry` for a ServerHello; an alert's name; `http`, `end`, `reset`."""
        try:
            kind, _, size = struct.unpack("!BHH", self.take(5))
            if kind == ord("H"):
                return "http"
            content = self.take(size)
            while kind == HANDSHAKE and len(content) < 4 + int.from_bytes(content[1:4], "big"):
                content += self.take(struct.unpack("!BHH", self.take(5))[2])
        except TLSAbruptCloseError:
            return "end"
        except (ConnectionResetError, BrokenPipeError):
            return "reset"
        except socket.timeout:
            return "nothing"
        if kind == ALERT:
            return AlertDescription.toStr(content[1])
        if kind != HANDSHAKE or content[0] != SERVER_HELLO:
            return f"a record of type {kind}"
        self.random = content[6:38]
        if self.random.startswith(bytes.fromhex("cf21ad74e59a6111")):
            return "retry"
        return "1.3" if b"\0\x2b\0\2\3\4" in content else "1.2"


def said(sent, *wanted):
    """These bytes, and nothing before them."""
    expect(Plain().send(sent).answer(), *wanted)


def refused_late(sent):
    """The node answers, and ends the connection before it has shown a certificate."""
    plain = Plain().send(sent)
    expect(plain.answer(), "1.3")
    size = 0
    with contextlib.suppress(TLSAbruptCloseError, ConnectionResetError):
        while size < 200:
            plain.take(1)
            size += 1
    if size == 200:
        raise Failed("it went on")


# --- The probes -----------------------------------------------------------------------------------

PROBES = []


def probe(name, function, *args, **options):
    PROBES.append((name, lambda: function(*args, **options)))


def name_of(version):
    return "1.3" if version == TLS13 else "1.2"


def cipher_probes():
    for version in BOTH:
        for cipher in ("aes128gcm", "aes256gcm", "chacha20-poly1305"):

            def play(version=version, cipher=cipher):
                talk = Talk(version, [cipher])
                talk.request()
                expect(talk.outcome(), "200")

            probe(f"{name_of(version)} {cipher}", play)


def record_probes():
    for version in BOTH:
        label = name_of(version)
        empty = (DATA, b"")
        pieces = [(DATA, bytes([byte])) for byte in REQUEST]
        probe(
            f"{label}: a request in records of a byte",
            after,
            version,
            pieces[:-1] + [(DATA, REQUEST[-1:])],
            "200",
        )
        probe(
            f"{label}: empty records between data",
            after,
            version,
            [empty, (DATA, REQUEST[:9]), empty, empty, (DATA, REQUEST[9:])],
            "200",
        )
        probe(
            f"{label}: as many empty records as are taken",
            after,
            version,
            [empty] * QUIET_MAX,
            "200",
        )
        probe(
            f"{label}: one empty record more",
            after,
            version,
            [empty] * (QUIET_MAX + 1),
            "unexpected_message",
        )
        probe(
            f"{label}: the largest record",
            after,
            version,
            [(DATA, b"GET /" + b"a" * ((1 << 14) - 5))],
            "414",
            "431",
            "400",
        )
        probe(
            f"{label}: a byte more",
            after,
            version,
            [(DATA, b"a" * ((1 << 14) + 1))],
            "record_overflow",
        )
        for kind, content in [(ALERT, "alert"), (HANDSHAKE, "handshake message")]:
            wanted = (
                "handshake_failure"
                if (version, kind) == (TLS12, HANDSHAKE)
                else "unexpected_message"
            )
            probe(f"{label}: an empty {content}", after, version, [(kind, b"")], wanted)
        probe(
            f"{label}: a heartbeat",
            after,
            version,
            [(HEARTBEAT, b"\1\0\3abc" + bytes(16))],
            "unexpected_message",
        )
        probe(
            f"{label}: an unknown content type",
            after,
            version,
            [(99, b"what")],
            "unexpected_message",
        )
        probe(
            f"{label}: ChangeCipherSpec after the handshake",
            after,
            version,
            [(CCS, b"\1")],
            "unexpected_message",
        )

        def too_long(version=version, size=(1 << 14) + 257):
            talk = Talk(version)
            # The header alone: nothing of such a record is waited for.
            talk.raw(struct.pack("!BHH", DATA, 0x0303, size))
            expect(talk.outcome(), "record_overflow")

        probe(f"{label}: a header of a record that is too long", too_long)
        probe(f"{label}: a header of the longest record there could be", too_long, size=0xFFFF)

        for what, damage in {
            "tag": lambda sent: sent[:-1] + bytes([sent[-1] ^ 1]),
            "first sealed byte": lambda sent: sent[:13] + bytes([sent[13] ^ 0x80]) + sent[14:],
            "nonce or first byte": lambda sent: sent[:5] + bytes([sent[5] ^ 1]) + sent[6:],
            "tag, cut off": lambda sent: sent[:3] + vector(2, sent[5:-1]),
            "content, longer by a byte": lambda sent: sent[:3] + vector(2, sent[5:] + b"\0"),
        }.items():

            def damaged(version=version, damage=damage):
                talk = Talk(version)
                talk.raw(damage(talk.sealed(DATA, REQUEST)))
                expect(talk.outcome(), "bad_record_mac")

            probe(f"{label}: a wrong {what}", damaged)

        for size in (0, 1, 8, 15, 16, 23):

            def short(version=version, size=size):
                talk = Talk(version)
                talk.raw(struct.pack("!BHH", DATA, 0x0303, size) + bytes(size))
                expect(talk.outcome(), "bad_record_mac")

            probe(f"{label}: a record of {size} bytes", short)

        def repeated(version=version):
            talk = Talk(version)
            talk.raw(talk.sealed(DATA, b"GET") * 2)
            expect(talk.outcome(), "bad_record_mac")

        def swapped(version=version):
            talk = Talk(version)
            first, second = talk.sealed(DATA, REQUEST[:9]), talk.sealed(DATA, REQUEST[9:])
            talk.raw(second + first)
            expect(talk.outcome(), "bad_record_mac")

        def renamed(version=version):
            talk = Talk(version)
            talk.raw(bytes([ALERT]) + talk.sealed(DATA, b"\1\0")[1:])
            expect(talk.outcome(), "unexpected_message" if version == TLS13 else "bad_record_mac")

        def other_version(version=version):
            talk = Talk(version)
            sent = talk.sealed(DATA, REQUEST)
            talk.raw(sent[:1] + b"\3\1" + sent[3:])
            expect(talk.outcome(), "bad_record_mac")

        probe(f"{label}: a record twice", repeated)
        probe(f"{label}: two records in the wrong order", swapped)
        probe(f"{label}: data that its header calls an alert", renamed)
        probe(f"{label}: another version in a header", other_version)


def alert_probes():
    for version in BOTH:
        label = name_of(version)
        probe(f"{label}: half an alert", after, version, [(ALERT, b"\2")], "decode_error")
        probe(
            f"{label}: two alerts in a record",
            after,
            version,
            [(ALERT, b"\1\x5a\1\x5a")],
            "decode_error",
        )
        probe(f"{label}: a fatal alert", after, version, [(ALERT, b"\2\x50")], *ENDS)
        probe(
            f"{label}: user_canceled, and no end", after, version, [(ALERT, b"\1\x5a")] * 3, "200"
        )
        probe(
            f"{label}: a flood of user_canceled",
            after,
            version,
            [(ALERT, b"\1\x5a")] * (QUIET_MAX + 1),
            "unexpected_message",
        )
        probe(
            f"{label}: close_notify, and a request after it",
            after,
            version,
            [(ALERT, b"\1\0")],
            "close_notify",
        )
    probe("1.2: a warning that means nothing here", after, TLS12, [(ALERT, b"\1\x64")], "200")
    probe(
        "1.3: a fatal alert that calls itself a warning", after, TLS13, [(ALERT, b"\1\x50")], *ENDS
    )


def padding_probes():
    full = (1 << 14) + 1

    def padded(padding, *wanted):
        talk = Talk(TLS13)
        lenient(lambda: talk.record(DATA, REQUEST, padding))
        expect(talk.outcome(), *wanted)

    probe("1.3: padding of a byte", padded, 1, "200")
    probe("1.3: as much padding as fits", padded, full - 1 - len(REQUEST), "200")
    probe("1.3: one byte of padding more", padded, full - len(REQUEST), "record_overflow")

    def inner(plaintext, *wanted):
        talk = Talk(TLS13)
        lenient(lambda: talk.inner(plaintext))
        lenient(talk.request)
        expect(talk.outcome(), *wanted)

    probe("1.3: padding and no content type", inner, bytes(40), "unexpected_message")
    probe("1.3: a record of nothing at all", inner, b"", "unexpected_message")
    probe("1.3: padding alone, of no data", inner, bytes([DATA]) + bytes(100), "200")
    probe(
        "1.3: padding alone, of no alert", inner, bytes([ALERT]) + bytes(100), "unexpected_message"
    )
    probe(
        "1.3: padding alone, of no handshake message",
        inner,
        bytes([HANDSHAKE]) + bytes(9),
        "unexpected_message",
    )
    for kind in (ALERT, HANDSHAKE, CCS):

        def plain(kind=kind):
            talk = Talk(TLS13)
            talk.raw(records(b"\1\0", kind=kind, version=0x0303))
            expect(talk.outcome(), "unexpected_message")

        probe(f"1.3: a record of type {kind} that is not sealed", plain)


def update_probes():
    def updates(*all_pieces, answers=range(1)):
        talk = Talk(TLS13)
        for pieces in all_pieces:
            talk.key_update(*pieces)
        talk.request()
        expect(talk.outcome(), "200")
        expect(str(talk.updates), *map(str, answers))

    probe("1.3: a KeyUpdate", updates, [UPDATE])
    probe("1.3: a KeyUpdate that asks for one", updates, [UPDATE_REQUESTED], answers=[1])
    # RFC 8446 §4.6.3: one answer to those that came before it.
    probe("1.3: several that ask", updates, *[[UPDATE_REQUESTED]] * 5, answers=range(1, 6))
    probe("1.3: as many KeyUpdates as are taken", updates, *[[UPDATE]] * QUIET_MAX)
    for at in range(1, 5):
        probe(f"1.3: a KeyUpdate cut after {at} bytes", updates, [UPDATE[:at], UPDATE[at:]])

    def flood():
        talk = Talk(TLS13)
        for _ in range(QUIET_MAX + 1):
            lenient(lambda: talk.key_update(UPDATE_REQUESTED))
        # What it answers with, until it has had enough.
        expect(talk.outcome(), "unexpected_message")

    probe("1.3: a flood of KeyUpdates", flood)

    def with_old_keys():
        talk = Talk(TLS13)
        talk.record(HANDSHAKE, UPDATE)
        lenient(talk.request)
        expect(talk.outcome(), "bad_record_mac")

    probe("1.3: data with the old keys after a KeyUpdate", with_old_keys)
    for at in range(1, 5):
        probe(
            f"1.3: data within a KeyUpdate, after {at} bytes",
            after,
            TLS13,
            [(HANDSHAKE, UPDATE[:at]), (DATA, b"GET ")],
            "unexpected_message",
        )
    probe(
        "1.3: an alert within a KeyUpdate",
        after,
        TLS13,
        [(HANDSHAKE, UPDATE[:2]), (ALERT, b"\1\x5a")],
        "unexpected_message",
    )
    probe("1.3: an empty KeyUpdate", after, TLS13, [(HANDSHAKE, b"\x18\0\0\0")], "decode_error")
    probe(
        "1.3: a KeyUpdate that is too long",
        after,
        TLS13,
        [(HANDSHAKE, b"\x18\0\0\2\0\0")],
        "decode_error",
    )
    probe(
        "1.3: two KeyUpdates in a record",
        after,
        TLS13,
        [(HANDSHAKE, UPDATE * 2)],
        "unexpected_message",
    )
    for value in (2, 3, 127, 255):
        probe(
            f"1.3: a KeyUpdate of the kind {value}",
            after,
            TLS13,
            [(HANDSHAKE, UPDATE[:4] + bytes([value]))],
            "illegal_parameter",
        )
    probe("1.2: a KeyUpdate", after, TLS12, [(HANDSHAKE, UPDATE)], "handshake_failure")


def late_handshake_probes():
    for version, wanted in ((TLS12, "handshake_failure"), (TLS13, "unexpected_message")):
        label = name_of(version)
        probe(f"{label}: another hello", after, version, [(HANDSHAKE, hello())], wanted)
        probe(
            f"{label}: another hello, byte by byte",
            after,
            version,
            [(HANDSHAKE, hello()[:1]), (HANDSHAKE, hello()[1:2])],
            wanted,
        )
        for kind, what in {
            0: "HelloRequest",
            4: "ticket",
            5: "EndOfEarlyData",
            11: "certificate",
            13: "CertificateRequest",
            15: "CertificateVerify",
            20: "Finished",
            99: "message of an unknown type",
        }.items():
            probe(
                f"{label}: a {what} after the handshake",
                after,
                version,
                [(HANDSHAKE, bytes([kind, 0, 0, 4]) + bytes(4))],
                wanted,
            )


def handshake_probes():
    finished = lambda *changed: instead_of(FINISHED, *changed)
    by_bytes = lambda payload: (HANDSHAKE, payload)
    probe("1.3: a wrong Finished", during, TLS13, finished(flipped), "decrypt_error")
    probe("1.2: a wrong Finished", during, TLS12, finished(flipped), "decrypt_error")
    probe(
        "1.3: a Finished without its last byte",
        during,
        TLS13,
        finished(lambda p: (HANDSHAKE, p[:3] + bytes([p[3] - 1]) + p[4:-1])),
        "decrypt_error",
        "decode_error",
    )
    probe("1.3: no Finished", during, TLS13, finished(), "bad_record_mac")
    probe(
        "1.3: data before Finished",
        during,
        TLS13,
        finished((DATA, REQUEST), ITSELF),
        "unexpected_message",
    )
    probe(
        "1.3: no data before Finished",
        during,
        TLS13,
        finished((DATA, b""), ITSELF),
        "unexpected_message",
    )
    probe(
        "1.3: a KeyUpdate before Finished",
        during,
        TLS13,
        finished((HANDSHAKE, UPDATE), ITSELF),
        "unexpected_message",
    )
    probe(
        "1.3: a KeyUpdate in the record of Finished",
        during,
        TLS13,
        finished(lambda p: (HANDSHAKE, p + UPDATE)),
        "unexpected_message",
    )
    probe(
        "1.3: half a message in the record of Finished",
        during,
        TLS13,
        finished(lambda p: (HANDSHAKE, p + UPDATE[:2])),
        "unexpected_message",
    )
    probe("1.3: Finished twice", during, TLS13, finished(ITSELF, by_bytes), "bad_record_mac")
    probe(
        "1.3: a certificate that was not asked for",
        during,
        TLS13,
        finished((HANDSHAKE, b"\x0b\0\0\4\0\0\0\0"), ITSELF),
        "unexpected_message",
    )
    probe(
        "1.3: a warning before Finished", during, TLS13, finished((ALERT, b"\1\x5a"), ITSELF), "200"
    )
    probe(
        "1.3: close_notify before Finished",
        during,
        TLS13,
        finished((ALERT, b"\1\0")),
        "close_notify",
        *ENDS,
        "decode_error",
    )
    probe("1.3: a fatal alert before Finished", during, TLS13, finished((ALERT, b"\2\x50")), *ENDS)

    probe("1.3: Finished byte by byte", during, TLS13, finished(SPLIT), "200")
    probe("1.2: Finished byte by byte", during, TLS12, finished(SPLIT), "200")
    exchange = lambda *changed: instead_of(KEY_EXCHANGE, *changed)
    probe("1.2: ClientKeyExchange byte by byte", during, TLS12, exchange(SPLIT), "200")
    probe("1.2: no ClientKeyExchange", during, TLS12, exchange(), "unexpected_message")
    probe(
        "1.2: a ClientKeyExchange without a key",
        during,
        TLS12,
        exchange((HANDSHAKE, b"\x10\0\0\0")),
        "decode_error",
        "illegal_parameter",
        *ENDS,
    )
    probe(
        "1.2: a ClientKeyExchange with no point of the curve",
        during,
        TLS12,
        exchange(lambda p: (HANDSHAKE, p[:5] + bytes(len(p) - 5))),
        "illegal_parameter",
        "decode_error",
        "decrypt_error",
        "handshake_failure",
    )
    probe(
        "1.2: data before ChangeCipherSpec",
        during,
        TLS12,
        exchange(ITSELF, (DATA, REQUEST)),
        "unexpected_message",
    )
    probe(
        "1.2: ClientKeyExchange twice",
        during,
        TLS12,
        exchange(ITSELF, by_bytes),
        "unexpected_message",
    )
    probe(
        "1.2: ChangeCipherSpec before ClientKeyExchange",
        during,
        TLS12,
        exchange((CCS, b"\1"), ITSELF),
        "unexpected_message",
    )
    probe(
        "1.2: no ChangeCipherSpec",
        during,
        TLS12,
        lambda kind, _: [] if kind == CCS else None,
        "unexpected_message",
        "decode_error",
        "bad_record_mac",
        *ENDS,
    )
    probe(
        "1.2: a ChangeCipherSpec with another value",
        during,
        TLS12,
        lambda kind, _: [(CCS, b"\2")] if kind == CCS else None,
        "decode_error",
        "unexpected_message",
        "illegal_parameter",
    )
    probe(
        "1.2: a record that is too long instead of ClientKeyExchange",
        during,
        TLS12,
        exchange((RAW, struct.pack("!BHH", HANDSHAKE, 0x0303, 0x4101))),
        "record_overflow",
        *ENDS,
    )

    @contextlib.contextmanager
    def early_data_offered():
        original = ClientHello.create

        def create(self, *args, **options):
            made = original(self, *args, **options)
            made.extensions.insert(0, TLSExtension().create(42, bytearray()))
            return made

        ClientHello.create = create
        try:
            yield
        finally:
            ClientHello.create = original

    def early(count, *wanted):
        garbage = records(os.urandom(100), kind=DATA, version=0x0303) * count
        psk = (b"stranger", b"\x5a" * 32)
        with early_data_offered():
            during(TLS13, instead_of(CLIENT_HELLO, ITSELF, (RAW, garbage)), *wanted, psk=psk)

    # RFC 8446 §4.2.10: what was sent early is skipped, where it is not accepted.
    probe("1.3: early data for a ticket that is not ours", early, 5, "200")
    probe("1.3: early data without end", early, 400, *ENDS, "bad_record_mac")


def hello_probes():
    probe("a hello of 1.3", said, records(hello()), "1.3")
    probe("a hello of 1.2", said, records(hello(OLD, SUITES12)), "1.2")
    for size in (1, 2, 3, 5, 16):
        probe(f"a hello in records of {size}", said, records(hello(), size), "1.3")
    for version in (0x0300, 0x0302, 0x0303, 0x0304):
        probe(
            f"a hello in a record of version {version:04x}",
            said,
            records(hello(), version=version),
            "1.3",
        )
    probe("a large hello", said, records(hello(USUAL + (extension(21, bytes(15_000)),))), "1.3")
    probe(
        "a hello of two records",
        said,
        records(hello(USUAL + (extension(21, bytes(20_000)),))),
        "1.3",
    )
    probe(
        "a hello that is too large",
        said,
        records(hello(USUAL + (extension(21, bytes(40_000)),))),
        *ENDS,
    )
    probe(
        "a hello whose records are too many",
        said,
        records(hello(USUAL + (extension(21, bytes(6_000)),)), 1),
        *ENDS,
    )
    probe(
        "unknown versions before 1.3",
        said,
        records(
            hello(
                (
                    NAME,
                    GROUPS,
                    SIGNATURES,
                    SHARE,
                    extension(43, numbers(1, 0x7F1C, 0x0A0A, 0x0305, 0x0304)),
                )
            )
        ),
        "1.3",
    )
    probe(
        "unknown extensions, suites and groups",
        said,
        records(
            hello(
                (
                    extension(0x1A1A),
                    extension(0x3A3A, b"\0"),
                    NAME,
                    SIGNATURES,
                    VERSIONS,
                    extension(10, numbers(2, 0x2A2A, X25519)),
                    shares(share(0x2A2A, b"\0"), share(X25519, os.urandom(32))),
                ),
                (0x4A4A,) + SUITES13,
            )
        ),
        "1.3",
    )
    probe(
        "no version that we have",
        said,
        records(
            hello((NAME, GROUPS, SIGNATURES, SHARE, extension(43, numbers(1, 0x0302, 0x0301))))
        ),
        "protocol_version",
    )
    probe(
        "an empty list of versions",
        said,
        records(hello((NAME, GROUPS, SIGNATURES, SHARE, extension(43, b"\0")))),
        "decode_error",
        "protocol_version",
        "illegal_parameter",
    )
    for version in (0x0300, 0x0301, 0x0302):
        probe(
            f"a hello of version {version:04x}",
            said,
            records(hello(OLD, SUITES12, version)),
            "protocol_version",
            "handshake_failure",
        )
    probe(
        "a version after 1.2 in the old place", said, records(hello(OLD, SUITES12, 0x0304)), "1.2"
    )

    def downgraded():
        plain = Plain().send(records(hello(OLD, SUITES12)))
        expect(plain.answer(), "1.2")
        # RFC 8446 §4.1.3: so a client that knows 1.3 can tell.
        expect(plain.random[24:].hex(), b"DOWNGRD\1".hex())

    probe("a downgrade to 1.2 is marked", downgraded)
    probe(
        "no suites",
        said,
        records(hello(suites=())),
        "decode_error",
        "illegal_parameter",
        "handshake_failure",
    )
    probe(
        "suites without an AEAD",
        said,
        records(hello(OLD, (0xC009, 0xC00A, 0xC023))),
        "handshake_failure",
    )
    probe(
        "RC4, NULL, EXPORT and anonymous suites",
        said,
        records(hello(OLD, (5, 4, 1, 2, 0x3B, 3, 8, 0x18, 0x34, 0xC018))),
        "handshake_failure",
    )
    probe(
        "suites with the key exchange of RSA",
        said,
        records(hello(OLD, (0x9C, 0x9D))),
        "handshake_failure",
    )
    probe("suites of 1.3 for 1.2", said, records(hello(OLD, SUITES13)), "handshake_failure")
    probe(
        "compression alone",
        said,
        records(hello(compressions=b"\1")),
        "illegal_parameter",
        "handshake_failure",
        "decode_error",
    )
    probe(
        "no compression method",
        said,
        records(hello(compressions=b"")),
        "illegal_parameter",
        "handshake_failure",
        "decode_error",
    )
    probe("compression in 1.3", said, records(hello(compressions=b"\1\0")), "illegal_parameter")
    probe(
        "an extension twice",
        said,
        records(hello(USUAL + (NAME,))),
        "illegal_parameter",
        "decode_error",
    )
    probe(
        "no signature algorithms",
        said,
        records(hello((NAME, GROUPS, VERSIONS, SHARE))),
        "missing_extension",
        "handshake_failure",
    )
    probe(
        "signature algorithms of another kind of key",
        refused_late,
        records(hello((NAME, GROUPS, VERSIONS, SHARE, extension(13, numbers(2, 0x0804, 0x0401))))),
    )
    probe(
        "no groups",
        said,
        records(hello((NAME, SIGNATURES, VERSIONS, SHARE))),
        "missing_extension",
        "handshake_failure",
    )
    probe(
        "groups that we do not have",
        said,
        records(hello((NAME, SIGNATURES, VERSIONS, extension(10, numbers(2, P521)), shares()))),
        "handshake_failure",
    )
    probe(
        "no key share",
        said,
        records(hello((NAME, GROUPS, SIGNATURES, VERSIONS, shares()))),
        "retry",
    )
    probe(
        "a key share on P-256",
        said,
        records(
            hello(
                (
                    NAME,
                    extension(10, numbers(2, P256)),
                    SIGNATURES,
                    VERSIONS,
                    shares(share(P256, P256_BASE)),
                )
            )
        ),
        "1.3",
    )
    probe(
        "a key share that is too short",
        said,
        records(hello((NAME, GROUPS, SIGNATURES, VERSIONS, shares(share(X25519, bytes(31)))))),
        "illegal_parameter",
        "decode_error",
    )
    probe(
        "a key share of low order",
        said,
        records(hello((NAME, GROUPS, SIGNATURES, VERSIONS, shares(share(X25519, bytes(32)))))),
        "illegal_parameter",
    )
    probe(
        "a key share that is no point",
        said,
        records(
            hello(
                (
                    NAME,
                    extension(10, numbers(2, P256)),
                    SIGNATURES,
                    VERSIONS,
                    shares(share(P256, P256_BASE[:-1] + b"\0")),
                )
            )
        ),
        "illegal_parameter",
    )
    probe(
        "a key share twice",
        said,
        records(
            hello(
                (
                    NAME,
                    GROUPS,
                    SIGNATURES,
                    VERSIONS,
                    shares(share(X25519, os.urandom(32)), share(X25519, os.urandom(32))),
                )
            )
        ),
        "illegal_parameter",
    )

    def retried():
        without = hello((NAME, GROUPS, SIGNATURES, VERSIONS, shares()))
        plain = Plain().send(records(without))
        expect(plain.answer(), "retry")
        plain.send(records(without, version=0x0303))
        # The ChangeCipherSpec that goes with the request to retry may come before.
        outcome = plain.answer()
        expect(plain.answer() if outcome == "a record of type 20" else outcome, "illegal_parameter")

    probe("the same hello again, after it was asked for another", retried)
    probe(
        "an empty host name",
        said,
        records(
            hello(
                (
                    extension(0, vector(2, b"\0" + vector(2, b""))),
                    GROUPS,
                    SIGNATURES,
                    VERSIONS,
                    SHARE,
                )
            )
        ),
        "illegal_parameter",
        "decode_error",
        "unrecognized_name",
    )
    probe(
        "an empty list of host names",
        said,
        records(hello((extension(0, vector(2, b"")), GROUPS, SIGNATURES, VERSIONS, SHARE))),
        "illegal_parameter",
        "decode_error",
    )
    probe(
        "protocols without ours",
        refused_late,
        records(hello(USUAL + (extension(16, vector(2, vector(1, b"h2"))),))),
    )
    probe(
        "an empty list of protocols",
        said,
        records(hello(USUAL + (extension(16, vector(2, b"")),))),
        "decode_error",
        "illegal_parameter",
    )
    probe(
        "a session id that is too long",
        said,
        records(hello(session=bytes(33))),
        "decode_error",
        "illegal_parameter",
    )
    probe(
        "an extension that is longer than the hello",
        said,
        records(hello(USUAL + (b"\0\x15\xff\xff",))),
        "decode_error",
    )
    probe(
        "bytes after a hello's extensions",
        said,
        records(bytes([1]) + vector(3, hello()[4:] + b"\0")),
        "decode_error",
    )
    probe(
        "no extensions, and none wanted",
        said,
        records(hello(None, SUITES12)),
        "missing_extension",
        "handshake_failure",
        "1.2",
    )
    probe(
        "an empty record before the hello",
        said,
        records(b"") + records(hello()),
        "decode_error",
        "unexpected_message",
    )
    probe(
        "an alert before the hello's end",
        said,
        records(hello()[:20]) + records(b"\1\x5a", kind=ALERT),
        "unexpected_message",
        *ENDS,
    )
    probe(
        "data before the hello's end",
        said,
        records(hello()[:20]) + records(REQUEST, kind=DATA),
        "unexpected_message",
        *ENDS,
    )
    probe(
        "ChangeCipherSpec before the hello's end",
        said,
        records(hello()[:20]) + records(b"\1", kind=CCS),
        "unexpected_message",
        "decode_error",
        *ENDS,
    )
    probe(
        "a Finished in place of a hello",
        said,
        records(bytes([FINISHED]) + vector(3, bytes(12))),
        "unexpected_message",
    )
    probe(
        "a ServerHello in place of a hello",
        said,
        records(bytes([SERVER_HELLO]) + hello()[1:]),
        "unexpected_message",
        "decode_error",
        "illegal_parameter",
    )
    probe(
        "a message of an unknown type in place of a hello",
        said,
        records(b"\x63\0\0\0"),
        "unexpected_message",
        "decode_error",
    )
    probe(
        "a hello in a record of another major version",
        said,
        records(hello(), version=0x0501),
        "decode_error",
        "protocol_version",
        "unexpected_message",
        *ENDS,
    )
    probe(
        "a record that is too long in place of a hello",
        said,
        struct.pack("!BHH", HANDSHAKE, 0x0301, 0x4101),
        "record_overflow",
    )
    probe("a hello of SSL 2", said, b"\x80\x2e\1\0\2\0\x15\0\0\0\x10" + bytes(37), "http", *ENDS)
    probe("data in place of a hello", said, records(REQUEST, kind=DATA), "http", *ENDS)
    probe("an alert in place of a hello", said, records(b"\2\0", kind=ALERT), "http", *ENDS)


def main():
    for add in (
        cipher_probes,
        record_probes,
        alert_probes,
        padding_probes,
        update_probes,
        late_handshake_probes,
        handshake_probes,
        hello_probes,
    ):
        add()
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    failed = 0
    for name, play in PROBES:
        if only not in name:
            continue
        try:
            play()
            print(f"ok {name}", flush=True)
        except Failed as failure:
            failed += 1
            print(f"FAILED {name}: {failure}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {name}: {traceback.format_exc()}", flush=True)
    sys.exit(1 if failed else 0)


main()
