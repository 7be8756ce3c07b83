"""Sends audio far faster than it is spoken: every ack due comes, then error event and Close.

    JWT_TOKEN=… python fast.py websockets|aiohttp ws://127.0.0.1:8443/v1/ingest TENANT INTERACTION

Prints a line for each check that passed, and ends with 1 at the first that did not.
"""

import asyncio
import json
import os
import sys
import traceback

import aiohttp
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

LIBRARY, URL, TENANT, INTERACTION = sys.argv[1:5]
HEADERS = {"Authorization": f"Bearer {os.environ['JWT_TOKEN']}"}

FRAME = b"\x5a" * 9600  # 200 ms of PCM16 at 24 kHz
PATIENCE = 40

START = {
    "event": "start",
    "interaction_id": INTERACTION,
    "tenant_id": TENANT,
    "sample_rate": 24000,
    "encoding": "pcm16",
}


async def send_all(send, messages):
    """Sends without pause, until the library says in some way that the connection is over."""
    for message in messages:
        await send(message)


async def give_up(sending):
    """What became of what was sent after the refusal is of no interest."""
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def play_websockets(messages):
    """All texts that came, the close code and the reason."""
    texts = []
    options = {"ping_interval": None, "proxy": None, "close_timeout": 3}
    async with connect(URL, additional_headers=HEADERS, **options) as socket:
        sending = asyncio.create_task(send_all(socket.send, messages))
        try:
            while True:
                texts.append(await socket.recv())
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, f"ended without a Close: {closed}, after {texts[-3:]}"
            close = closed.rcvd
        await give_up(sending)
    return texts, close.code, close.reason


async def play_aiohttp(messages):
    """The same with aiohttp."""
    texts = []
    timeout = aiohttp.ClientWSTimeout(ws_close=3)
    async with aiohttp.ClientSession() as session:
        options = {"timeout": timeout, "autoclose": False}
        async with session.ws_connect(URL, headers=HEADERS, **options) as socket:

            def send(message):
                is_audio = isinstance(message, bytes)
                return socket.send_bytes(message) if is_audio else socket.send_str(message)

            sending = asyncio.create_task(send_all(send, messages))
            while (message := await socket.receive()).type == aiohttp.WSMsgType.TEXT:
                texts.append(message.data)
            is_close = message.type == aiohttp.WSMsgType.CLOSE
            assert is_close, f"ended without a Close: {message}, after {texts[-3:]}"
            await give_up(sending)
    return texts, message.data, message.extra


async def refused(messages, code, reason, acked, starts=True):
    """`started`, acks of each tenth frame in order, the error event, and the Close."""
    play = {"websockets": play_websockets, "aiohttp": play_aiohttp}[LIBRARY]
    texts, *closed = await asyncio.wait_for(play(messages), PATIENCE)
    if starts:
        assert texts.pop(0) == f'{{"event":"started","interaction_id":"{INTERACTION}"}}'
    seq = 0
    while texts and texts[0] == f'{{"event":"ack","seq":{seq + 10}}}':
        seq += 10
        texts.pop(0)
    close = (closed[0], closed[1] or "")
    assert close == (code, reason), f"{close} after {seq} frames and {texts}"
    assert [json.loads(text)["reason"] for text in texts] == ([reason] if reason else []), texts
    assert acked[0] <= seq <= acked[1], f"acked up to {seq}, not {acked}"


def audio(frames):
    return [FRAME] * frames


START_TEXT = json.dumps(START)

CHECKS = {
    "three minutes of audio at once": ([START_TEXT, *audio(900)], 4429, "too_fast", (150, 1000)),
    "ten minutes of audio at once": ([START_TEXT, *audio(3000)], 4429, "too_fast", (150, 1000)),
    "a second start that is not valid, and audio after it": (
        [START_TEXT, *audio(25), '{"event":"start"}', *audio(900)],
        4400,
        "invalid_start",
        (20, 20),
    ),
    "audio before start": (audio(900), 4400, "start_required", (0, 0), False),
    "a message that is too big, and audio after it": (
        [START_TEXT, *audio(25), bytes(256 * 1024 + 1), *audio(900)],
        1009,
        "",
        (20, 20),
    ),
}


async def main():
    for name, check in CHECKS.items():
        try:
            await refused(*check)
        except Exception:
            print(f"{name}: {traceback.format_exc()}", file=sys.stderr)
            sys.exit(1)
        print(f"ok {name}", flush=True)


asyncio.run(main())
