// A client in Node.js: plays five seconds of a tone as a live call.
//
//   npm install ws
//   JWT_TOKEN=… node client.mjs ws://127.0.0.1:8443/v1/ingest TENANT INTERACTION
//
// It ends with 0 once the node has confirmed all audio. It does not connect again: see client.py.

import WebSocket from 'ws';

const [url, tenant, interaction] = process.argv.slice(2);
const token = process.env.JWT_TOKEN;
if (!interaction || !token) {
  console.error('usage: JWT_TOKEN=… node client.mjs URL TENANT INTERACTION');
  process.exit(2);
}

const RATE = 24_000;
const FRAME_MS = 200;
const FRAME_COUNT = 25;
const FRAME_SAMPLES = (RATE * FRAME_MS) / 1000;

/** 16-bit samples, mono, little-endian. */
function makeFrame(number) {
  const frame = Buffer.alloc(2 * FRAME_SAMPLES);
  for (let at = 0; at < FRAME_SAMPLES; at++) {
    const seconds = (number * FRAME_SAMPLES + at) / RATE;
    frame.writeInt16LE(Math.round(8000 * Math.sin(2 * Math.PI * 440 * seconds)), 2 * at);
  }
  return frame;
}

// permessage-deflate would be declined: audio does not shrink.
const headers = { Authorization: `Bearer ${token}` };
const socket = new WebSocket(url, { headers, perMessageDeflate: false });

let sent = 0;
let isConfirmed = false;

socket.on('open', () => {
  socket.send(
    JSON.stringify({
      event: 'start',
      tenant_id: tenant,
      interaction_id: interaction,
      sample_rate: RATE,
      encoding: 'pcm16',
    }),
  );
  // Audio need not wait for `started`.
  const timer = setInterval(() => {
    if (socket.readyState !== WebSocket.OPEN) return clearInterval(timer);
    socket.send(makeFrame(sent++));
    if (sent === FRAME_COUNT) {
      clearInterval(timer);
      socket.send('{"event":"stop"}');
    }
  }, FRAME_MS);
});

socket.on('message', (data) => {
  const event = JSON.parse(data);
  switch (event.event) {
    case 'started':
      console.log(`started: ${event.interaction_id}`);
      break;
    case 'ack':
      console.log(`ack: all frames up to ${event.seq} are safe`);
      break;
    case 'stopped':
      isConfirmed = event.seq === sent;
      console.log(`stopped: ${event.seq} frames, ${event.duration_ms} ms`);
      break;
    case 'error':
      console.error(`refused: ${event.reason}: ${event.message}`);
      break;
  }
});

socket.on('unexpected-response', (request, response) => {
  console.error(`refused: ${response.statusCode}`);
  process.exit(1);
});
socket.on('error', (error) => console.error(String(error)));
socket.on('close', (code) => {
  if (!isConfirmed) console.error(`closed with ${code} before all audio was confirmed`);
  process.exit(isConfirmed ? 0 : 1);
});
