// Plays the quick reference with Node's `ws`, and the ways in which a call ends otherwise.
//
//   JWT_TOKEN=… node client.mjs ws://127.0.0.1:8443/v1/ingest TENANT INTERACTION
//
// Prints a line for each check that passed, and ends with 1 at the first that did not.

import assert from 'node:assert/strict';
import WebSocket from 'ws';

const [url, tenant, interaction] = process.argv.slice(2);
const token = process.env.JWT_TOKEN;

const FRAME = Buffer.alloc(9600, 0x5a); // 200 ms of PCM16 at 24 kHz
const MESSAGE_SIZE_MAX = 256 * 1024;
const PATIENCE_MS = 20_000;

const start = { event: 'start', interaction_id: interaction, tenant_id: tenant, sample_rate: 24000, encoding: 'pcm16' };
const STARTED = `{"event":"started","interaction_id":"${interaction}"}`;
const ack = (seq) => `{"event":"ack","seq":${seq}}`;
const stopped = (seq, bytes, ms) =>
  `{"event":"stopped","interaction_id":"${interaction}",` +
  `"seq":${seq},"bytes":${bytes},"duration_ms":${ms},"durable_seq":null,"level":"received"}`;

/** A connection whose texts, pongs and Close wait to be asked for, in the order in which they came. */
class Call {
  static async open(options = {}) {
    const call = new Call();
    // permessage-deflate is offered: `ws` does so unless told otherwise.
    call.socket = new WebSocket(url, { headers: { Authorization: `Bearer ${token}` }, ...options });
    call.arrived = [];
    call.waiting = [];
    const arrive = (thing) => (call.waiting.length ? call.waiting.shift()(thing) : call.arrived.push(thing));
    call.socket.on('message', (data, isBinary) => arrive(isBinary ? { binary: data } : { text: data.toString() }));
    call.socket.on('pong', (data) => arrive({ pong: data.toString() }));
    call.socket.on('close', (code, reason) => arrive({ code, reason: reason.toString() }));
    call.socket.on('error', (error) => arrive({ error: String(error) }));
    await within(new Promise((resolve, reject) => call.socket.once('open', resolve).once('error', reject)));
    return call;
  }

  static async start() {
    const call = await Call.open();
    call.socket.send(JSON.stringify(start));
    await call.expect({ text: STARTED });
    return call;
  }

  next() {
    return this.arrived.length ? this.arrived.shift() : within(new Promise((resolve) => this.waiting.push(resolve)));
  }

  async expect(...things) {
    for (const thing of things) assert.deepEqual(await this.next(), thing);
  }

  /** An error event, then a Close with its reason. */
  async expectRefusal(code, reason, retryable = false) {
    const { text } = await this.next();
    const event = JSON.parse(text);
    assert.deepEqual(Object.keys(event), ['event', 'code', 'reason', 'message', 'retryable']);
    assert.ok(event.message.length > 0);
    assert.deepEqual({ ...event, message: '' }, { event: 'error', code: code - 4000, reason, message: '', retryable });
    await this.expect({ code, reason });
  }

  sendFrames(count) {
    for (let i = 0; i < count; i++) this.socket.send(FRAME);
  }

  async stop(seq, bytes, ms) {
    this.socket.send('{"event":"stop"}');
    await this.expect({ text: stopped(seq, bytes, ms) }, { code: 1000, reason: '' });
  }
}

function within(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('nothing came in time')), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** The HTTP answer that an upgrade gets instead of 101. */
function refusal(headers) {
  const socket = new WebSocket(url, { headers });
  return within(new Promise((resolve, reject) => {
    socket.on('open', () => reject(new Error('it was upgraded')));
    socket.on('unexpected-response', (_, response) => resolve(response.resume()));
    socket.on('error', reject);
  }));
}

const checks = {
  async 'the quick reference'() {
    const call = await Call.start();
    call.sendFrames(25);
    await call.expect({ text: ack(10) }, { text: ack(20) });
    await call.stop(25, 240_000, 5_000);
  },

  async 'a bad token, and none'() {
    for (const [headers, challenge] of [
      [{ Authorization: `Bearer ${token}x` }, 'Bearer realm="ingest", error="invalid_token"'],
      [{ Authorization: 'Bearer no-token' }, 'Bearer realm="ingest", error="invalid_token"'],
      [{}, 'Bearer realm="ingest"'],
    ]) {
      const response = await refusal(headers);
      assert.equal(response.statusCode, 401);
      assert.equal(response.headers['www-authenticate'], challenge);
    }
  },

  async 'a wrong start, and audio without one'() {
    for (const wrong of ['{', '{"event":"start"}', JSON.stringify({ ...start, sample_rate: 11025 })]) {
      const call = await Call.open();
      call.socket.send(wrong);
      await call.expectRefusal(4400, 'invalid_start');
    }
    let call = await Call.open();
    call.socket.send(JSON.stringify({ ...start, interaction_id: 'another' }));
    await call.expectRefusal(4403, 'claim_mismatch');
    call = await Call.open();
    call.sendFrames(1);
    await call.expectRefusal(4400, 'start_required');
  },

  async 'ping'() {
    const call = await Call.start();
    call.socket.ping('are you there?');
    await call.expect({ pong: 'are you there?' });
    call.socket.ping();
    await call.expect({ pong: '' });
    await call.stop(0, 0, 0);
  },

  async 'permessage-deflate offered and declined'() {
    for (const perMessageDeflate of [true, { clientNoContextTakeover: true, serverMaxWindowBits: 10, threshold: 0 }]) {
      const call = await Call.open({ perMessageDeflate });
      assert.equal(call.socket.extensions, '');
      call.socket.send(JSON.stringify(start));
      await call.expect({ text: STARTED });
      call.sendFrames(10);
      await call.expect({ text: ack(10) });
      await call.stop(10, 96_000, 2_000);
    }
  },

  async 'messages in fragments'() {
    const call = await Call.open();
    const text = JSON.stringify(start);
    for (const character of text.slice(0, 20)) call.socket.send(character, { fin: false });
    call.socket.send(text.slice(20), { fin: true });
    await call.expect({ text: STARTED });
    for (let frame = 0; frame < 10; frame++) {
      for (let at = 0; at < 8_400; at += 1_200) call.socket.send(FRAME.subarray(at, at + 1_200), { fin: false });
      if (frame === 5) call.socket.ping('between fragments');
      call.socket.send(FRAME.subarray(8_400), { fin: true });
    }
    await call.expect({ pong: 'between fragments' }, { text: ack(10) });
    await call.stop(10, 96_000, 2_000);
  },

  async 'the largest message, and one byte more'() {
    const call = await Call.start();
    call.socket.send(Buffer.alloc(MESSAGE_SIZE_MAX));
    call.sendFrames(9);
    await call.expect({ text: ack(10) });
    call.socket.send(Buffer.alloc(MESSAGE_SIZE_MAX + 1));
    await call.expect({ code: 1009, reason: '' });
  },

  async 'a Close without stop'() {
    const call = await Call.start();
    call.sendFrames(12);
    call.socket.close(1000, 'bye');
    await call.expect({ text: ack(10) }, { code: 1000, reason: '' });
  },

  async 'audio far ahead of time'() {
    const call = await Call.start();
    call.sendFrames(200);
    let seq = 0;
    let thing = await call.next();
    for (; thing.text === ack(seq + 10); thing = await call.next()) seq += 10;
    // Frames that came in one read with the one too many are kept, but no promise was made for them yet.
    assert.equal(JSON.parse(thing.text).reason, 'too_fast', thing.text);
    await call.expect({ code: 4429, reason: 'too_fast' });
  },

  async 'the same call again'() {
    const old = await Call.start();
    old.sendFrames(10);
    await old.expect({ text: ack(10) });
    const call = await Call.start();
    await old.expectRefusal(4409, 'superseded');
    call.sendFrames(10);
    await call.expect({ text: ack(10) });
    await call.stop(10, 96_000, 2_000);
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
