// Sends audio far faster than it is spoken: every ack due comes, then error event and Close.
//
//   JWT_TOKEN=… node fast.mjs ws|undici ws://127.0.0.1:8443/v1/ingest TENANT INTERACTION
//
// Prints a line for each check that passed, and ends with 1 at the first that did not.

import assert from 'node:assert/strict';
import { WebSocket as UndiciSocket } from 'undici';
import WsSocket from 'ws';

const [library, url, tenant, interaction] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${process.env.JWT_TOKEN}` };
const PATIENCE_MS = 40_000;

const FRAME = Buffer.alloc(9600, 0x5a); // 200 ms of PCM16 at 24 kHz
const start = {
  event: 'start',
  interaction_id: interaction,
  tenant_id: tenant,
  sample_rate: 24000,
  encoding: 'pcm16',
};

const Socket = { ws: WsSocket, undici: UndiciSocket }[library];

/** Opens a call, lets `provoke` send, and resolves to all that came once the connection is over. */
function play(provoke, options = {}) {
  const socket = new Socket(url, library === 'ws' ? { headers } : { headers, protocols: [] });
  const texts = [];
  return new Promise((resolve, reject) => {
    const late = () => reject(new Error(`not over in time, after ${texts.slice(-3)}`));
    const timer = setTimeout(late, PATIENCE_MS);
    socket.addEventListener('open', () => {
      if (options.start !== false) socket.send(JSON.stringify(start));
      provoke(socket);
    });
    socket.addEventListener('message', ({ data }) => texts.push(data));
    socket.addEventListener('error', () => {});
    socket.addEventListener('close', ({ code, reason }) => {
      clearTimeout(timer);
      resolve({ texts, code, reason });
    });
  });
}

function sendFrames(socket, count) {
  for (let i = 0; i < count; i++) socket.send(FRAME);
}

/** `started`, acks of each tenth frame in order, the error event, and the Close. */
function expectRefusal({ texts, code, reason }, expected) {
  const rest = [...texts];
  const started = `{"event":"started","interaction_id":"${interaction}"}`;
  if (expected.started !== false) assert.equal(rest.shift(), started);
  let seq = 0;
  for (; rest[0] === `{"event":"ack","seq":${seq + 10}}`; rest.shift()) seq += 10;
  const close = [expected.code, expected.reason ?? ''];
  assert.deepEqual([code, reason], close, `after ${seq} frames and ${rest}`);
  if (expected.reason) {
    assert.equal(rest.length, 1, `${rest}`);
    assert.equal(JSON.parse(rest[0]).reason, expected.reason);
  } else {
    assert.deepEqual(rest, []);
  }
  const [least, most] = expected.acked;
  assert.ok(seq >= least && seq <= most, `acked up to ${seq}, not ${expected.acked}`);
}

const TOO_FAST = { code: 4429, reason: 'too_fast', acked: [150, 1000] };

const checks = {
  async 'three minutes of audio at once'() {
    expectRefusal(await play((socket) => sendFrames(socket, 900)), TOO_FAST);
  },

  async 'ten minutes of audio at once'() {
    expectRefusal(await play((socket) => sendFrames(socket, 3000)), TOO_FAST);
  },

  async 'a second start that is not valid, and audio after it'() {
    const played = await play((socket) => {
      sendFrames(socket, 25);
      socket.send('{"event":"start"}');
      sendFrames(socket, 900);
    });
    expectRefusal(played, { code: 4400, reason: 'invalid_start', acked: [20, 20] });
  },

  async 'audio before start'() {
    const played = await play((socket) => sendFrames(socket, 900), { start: false });
    expectRefusal(played, { started: false, code: 4400, reason: 'start_required', acked: [0, 0] });
  },

  async 'a message that is too big, and audio after it'() {
    const played = await play((socket) => {
      sendFrames(socket, 25);
      socket.send(Buffer.alloc(256 * 1024 + 1));
      sendFrames(socket, 900);
    });
    expectRefusal(played, { code: 1009, acked: [20, 20] });
  },
};

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
  } catch (error) {
    console.error(`${name}: ${error.stack}`);
    process.exit(1);
  }
  console.log(`ok ${name}`);
}
process.exit(0);
