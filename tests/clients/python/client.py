"""Plays the quick reference with Python's `websockets`, and the ways in which a call ends otherwise.

    JWT_TOKEN=… python client.py ws://127.0.0.1:8443/v1/ingest TENANT INTERACTION

Prints a line for each check that passed, and ends with 1 at the first that did not.
"""

import asyncio
import json
import os
import sys
import traceback

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

URL, TENANT, INTERACTION = sys.argv[1:4]
TOKEN = os.environ["JWT_TOKEN"]

FRAME = b"\x5a" * 9600  # 200 ms of PCM16 at 24 kHz
MESSAGE_SIZE_MAX = 256 * 1024
PATIENCE = 20

START = {
    "event": "start",
    "interaction_id": INTERACTION,
    "tenant_id": TENANT,
    "sample_rate": 24000,
    "encoding": "pcm16",
}
STARTED = f'{{"event":"started","interaction_id":"{INTERACTION}"}}'


def ack(seq):
    return f'{{"event":"ack","seq":{seq}}}'


def stopped(seq, size, ms):
    counts = f'"seq":{seq},"bytes":{size},"duration_ms":{ms},"durable_seq":null'
    return f'{{"event":"stopped","interaction_id":"{INTERACTION}",{counts},"level":"received"}}'


def dial(headers=None, **options):
    """A connection; permessage-deflate is offered, as `websockets` does unless told otherwise."""
    headers = {"Authorization": f"Bearer {TOKEN}"} if headers is None else headers
    # Its own pings would count as ours; a proxy of the environment is not what is tested.
    return connect(URL, additional_headers=headers, ping_interval=None, proxy=None, open_timeout=PATIENCE, **options)


class Call:
    """A connection, and what is expected of it."""

    def __init__(self, socket):
        self.socket = socket

    @classmethod
    async def open(cls, **options):
        return cls(await dial(**options))

    @classmethod
    async def start(cls, **options):
        call = await cls.open(**options)
        await call.socket.send(json.dumps(START))
        await call.expect(STARTED)
        return call

    async def next(self):
        """The next message, or the Close as (code, reason)."""
        try:
            return await asyncio.wait_for(self.socket.recv(), PATIENCE)
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, f"ended without a Close: {closed}"
            return closed.rcvd.code, closed.rcvd.reason

    async def expect(self, *things):
        for thing in things:
            came = await self.next()
            assert came == thing, f"{came!r}, not {thing!r}"

    async def expect_refusal(self, code, reason):
        """An error event, then a Close with its reason."""
        event = json.loads(await self.next())
        assert list(event) == ["event", "code", "reason", "message", "retryable"], event
        assert event.pop("message"), event
        assert event == {"event": "error", "code": code - 4000, "reason": reason, "retryable": False}, event
        await self.expect((code, reason))

    async def send_frames(self, count):
        for _ in range(count):
            await self.socket.send(FRAME)

    async def stop(self, seq, size, ms):
        await self.socket.send('{"event":"stop"}')
        await self.expect(stopped(seq, size, ms), (1000, ""))


async def the_quick_reference():
    call = await Call.start()
    await call.send_frames(25)
    await call.expect(ack(10), ack(20))
    await call.stop(25, 240_000, 5_000)


async def a_bad_token_and_none():
    invalid = 'Bearer realm="ingest", error="invalid_token"'
    for headers, challenge in [
        ({"Authorization": f"Bearer {TOKEN}x"}, invalid),
        ({"Authorization": "Bearer no-token"}, invalid),
        ({}, 'Bearer realm="ingest"'),
    ]:
        try:
            await dial(headers)
        except InvalidStatus as refused:
            assert refused.response.status_code == 401, refused
            assert refused.response.headers["WWW-Authenticate"] == challenge, refused.response.headers
        else:
            raise AssertionError("it was upgraded")


async def a_wrong_start_and_audio_without_one():
    for wrong in ["{", '{"event":"start"}', json.dumps({**START, "sample_rate": 11025})]:
        call = await Call.open()
        await call.socket.send(wrong)
        await call.expect_refusal(4400, "invalid_start")
    call = await Call.open()
    await call.socket.send(json.dumps({**START, "interaction_id": "another"}))
    await call.expect_refusal(4403, "claim_mismatch")
    call = await Call.open()
    await call.send_frames(1)
    await call.expect_refusal(4400, "start_required")


async def ping():
    call = await Call.start()
    for payload in ["are you there?", ""]:
        await asyncio.wait_for(await call.socket.ping(payload), PATIENCE)
    await call.stop(0, 0, 0)


async def permessage_deflate_offered_and_declined():
    narrow = ClientPerMessageDeflateFactory(client_no_context_takeover=True, server_max_window_bits=10)
    for options in [{"compression": "deflate"}, {"compression": None, "extensions": [narrow]}]:
        call = await Call.start(**options)
        assert "permessage-deflate" in call.socket.request.headers["Sec-WebSocket-Extensions"]
        assert "Sec-WebSocket-Extensions" not in call.socket.response.headers
        assert call.socket.protocol.extensions == []
        await call.send_frames(10)
        await call.expect(ack(10))
        await call.stop(10, 96_000, 2_000)


async def messages_in_fragments():
    call = await Call.open()
    text = json.dumps(START)
    await call.socket.send(text[at : at + 5] for at in range(0, len(text), 5))
    await call.expect(STARTED)
    for _ in range(10):
        await call.socket.send(FRAME[at : at + 1_200] for at in range(0, len(FRAME), 1_200))
    await call.expect(ack(10))
    await call.stop(10, 96_000, 2_000)


async def the_largest_message_and_one_byte_more():
    call = await Call.start()
    await call.socket.send(bytes(MESSAGE_SIZE_MAX))
    await call.send_frames(9)
    await call.expect(ack(10))
    await call.socket.send(bytes(MESSAGE_SIZE_MAX + 1))
    await call.expect((1009, ""))


async def a_close_without_stop():
    call = await Call.start()
    await call.send_frames(12)
    reading = asyncio.create_task(call.next())  # `websockets` drops what comes unasked while it closes
    await call.socket.close(1000, "bye")
    assert await reading == ack(10)
    await call.expect((1000, ""))


async def audio_far_ahead_of_time():
    call = await Call.start()
    try:
        await call.send_frames(200)
    except ConnectionClosed:
        pass  # the Close may come before all is sent
    seq, came = 0, await call.next()
    while came == ack(seq + 10):
        seq, came = seq + 10, await call.next()
    # Frames that came in one read with the one too many are kept, but no promise was made for them yet.
    assert json.loads(came)["reason"] == "too_fast", came
    await call.expect((4429, "too_fast"))


async def the_same_call_again():
    old = await Call.start()
    await old.send_frames(10)
    await old.expect(ack(10))
    call = await Call.start()
    await old.expect_refusal(4409, "superseded")
    await call.send_frames(10)
    await call.expect(ack(10))
    await call.stop(10, 96_000, 2_000)


CHECKS = [
    the_quick_reference,
    a_bad_token_and_none,
    a_wrong_start_and_audio_without_one,
    ping,
    permessage_deflate_offered_and_declined,
    messages_in_fragments,
    the_largest_message_and_one_byte_more,
    a_close_without_stop,
    audio_far_ahead_of_time,
    the_same_call_again,
]


async def main():
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        try:
            await check()
        except Exception:
            print(f"{name}: {traceback.format_exc()}", file=sys.stderr)
            sys.exit(1)
        print(f"ok {name}", flush=True)


asyncio.run(main())
