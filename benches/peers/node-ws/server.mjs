// The usual choice in Node.js: the ws package, one process. Compression is off, as on the node.
import { createServer } from 'node:http';
import { WebSocketServer } from 'ws';

const RING_SIZE = 256 << 20;
const ACK_EVERY = 10;

// Not zeros: the kernel would add such pages one by one, and the first round would fault.
const ring = Buffer.alloc(RING_SIZE, 1);
let position = 0;

function append(bytes) {
  const copied = bytes.copy(ring, position);
  position = (position + copied) % RING_SIZE;
  if (copied < bytes.length) append(bytes.subarray(copied));
}

function serve(socket) {
  let interaction = '';
  let rate = 1;
  let frames = 0;
  let size = 0;
  // An error of a client ends only its own connection.
  socket.on('error', () => {});
  socket.on('message', (bytes, isBinary) => {
    if (isBinary) {
      append(bytes);
      frames += 1;
      size += bytes.length;
      if (frames % ACK_EVERY === 0) socket.send(`{"event":"ack","seq":${frames}}`);
      return;
    }
    const event = JSON.parse(bytes);
    if (event.event === 'start') {
      interaction = event.interaction_id;
      rate = event.sample_rate;
      socket.send(JSON.stringify({ event: 'started', interaction_id: interaction }));
    } else if (event.event === 'stop') {
      const duration = Math.floor(((size / 2) * 1000) / rate);
      socket.send(JSON.stringify({
        event: 'stopped', interaction_id: interaction, seq: frames, bytes: size,
        duration_ms: duration, durable_seq: null,
      }));
      socket.close(1000);
    }
  });
}

const listen = process.argv[process.argv.indexOf('--listen') + 1] ?? '127.0.0.1:0';
const [host, port] = listen.split(':');
const http = createServer();
const server = new WebSocketServer({ server: http, path: '/v1/ingest', perMessageDeflate: false });
server.on('connection', serve);
http.listen({ host, port: Number(port), backlog: 4096 }, () => {
  const { address, port } = http.address();
  console.log(`listening on ${address}:${port}`);
});
