"""A client in Python: plays a WAV file, or five seconds of a tone, as a live call.

    pip install websockets
    JWT_TOKEN=… python3 client.py ws://127.0.0.1:8443/v1/ingest TENANT INTERACTION [FILE.wav]

It keeps each frame until the node has acknowledged it. If the connection is lost, it connects again
and sends from the first frame that was not acknowledged. (The journal may then hold some frames
twice, in two epochs of the call.) It ends with 0 once the node has confirmed all audio.
"""

import asyncio
import json
import math
import os
import random
import struct
import sys
import wave
from collections import deque

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

FRAME_SECONDS = 0.2
RETRY_SECONDS_MAX = 30


class Speech:
    """A live source: a frame every 200 ms, kept until the node has acknowledged it."""

    def __init__(self, frames):
        self.frames = frames
        self.unacked = deque()
        self.acked = 0  # frames acknowledged on the present connection
        self.is_over = False
        self.changed = asyncio.Event()

    async def run(self):
        clock = asyncio.get_running_loop()
        due = clock.time()
        for frame in self.frames:
            self.unacked.append(frame)
            self.changed.set()
            due += FRAME_SECONDS
            await asyncio.sleep(due - clock.time())
        self.is_over = True
        self.changed.set()

    def connected(self):
        """On a new connection `seq` begins at 1 again."""
        self.acked = 0

    def acknowledge(self, seq):
        """The node has all frames up to `seq` of this connection."""
        for _ in range(seq - self.acked):
            self.unacked.popleft()
        self.acked = seq


async def send(socket, speech):
    """Sends what there is, and `stop` at the end."""
    sent = 0
    while True:
        speech.changed.clear()
        while sent - speech.acked < len(speech.unacked):
            await socket.send(speech.unacked[sent - speech.acked])
            sent += 1
        if speech.is_over:
            return await socket.send('{"event":"stop"}')
        await speech.changed.wait()


async def play(url, token, start, speech):
    """Plays on one connection. Returns once the node has confirmed all audio."""
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(url, additional_headers=headers) as socket:
        speech.connected()
        await socket.send(json.dumps(start))
        sender = asyncio.create_task(send(socket, speech))
        try:
            while True:
                event = json.loads(await socket.recv())
                if event["event"] == "ack":
                    speech.acknowledge(event["seq"])
                elif event["event"] == "stopped":
                    speech.acknowledge(event["seq"])
                    return print(f"stopped: {event['seq']} frames, {event['duration_ms']} ms")
                elif event["event"] == "error" and not event["retryable"]:
                    sys.exit(f"refused: {event['reason']}: {event['message']}")
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)


async def call(url, token, start, frames):
    """Plays a call, on as many connections as it takes."""
    speech = Speech(frames)
    source = asyncio.create_task(speech.run())
    wait = 1
    while True:
        try:
            await play(url, token, start, speech)
            return await source
        except InvalidStatus as refused:
            if refused.response.status_code not in (429, 503):
                sys.exit(f"refused: {refused.response.status_code} {refused.response.body}")
            print(f"refused for now: {refused}", file=sys.stderr)
        except (ConnectionClosed, OSError) as lost:
            print(f"lost: {lost}", file=sys.stderr)
        await asyncio.sleep(wait * random.uniform(0.5, 1.5))
        wait = min(2 * wait, RETRY_SECONDS_MAX)


def read_wav(path):
    """Sample rate and frames of a WAV file."""
    with wave.open(path) as file:
        if (file.getnchannels(), file.getsampwidth()) != (1, 2):
            sys.exit(f"{path} is not mono with 16 bits")
        rate = file.getframerate()
        audio = file.readframes(file.getnframes())
    size = 2 * int(rate * FRAME_SECONDS)
    return rate, [audio[at : at + size] for at in range(0, len(audio), size)]


def make_tone(rate=24000, seconds=5, hertz=440):
    """Sample rate and frames of a tone."""
    samples = [int(8000 * math.sin(2 * math.pi * hertz * at / rate)) for at in range(rate)]
    second = struct.pack(f"<{rate}h", *samples)
    size = 2 * int(rate * FRAME_SECONDS)
    return rate, [second[at : at + size] for at in range(0, len(second), size)] * seconds


def main():
    if len(sys.argv) not in (4, 5) or "JWT_TOKEN" not in os.environ:
        sys.exit(__doc__)
    url, tenant, interaction, *file = sys.argv[1:]
    rate, frames = read_wav(file[0]) if file else make_tone()
    start = {
        "event": "start",
        "tenant_id": tenant,
        "interaction_id": interaction,
        "sample_rate": rate,
        "encoding": "pcm16",
    }
    asyncio.run(call(url, os.environ["JWT_TOKEN"], start, frames))


main()
