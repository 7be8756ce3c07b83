// Headless Chromium for checks and screenshots. Speaks the DevTools protocol, so that it needs `ws`
// alone. One browser with one page for each process; it ends with the process.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import WebSocket from "ws";

const PATIENCE_MS = 20000;

// What is called for an event of the protocol, by its name.
export const listeners = new Map();
const waiting = new Map();
let socket;
let session;
let number = 0;

// Starts the browser and attaches to an empty page.
export async function openBrowser(program) {
  const profile = mkdtempSync(join(tmpdir(), "page-"));
  const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--hide-scrollbars", "--remote-debugging-port=0",
    `--user-data-dir=${profile}`, "about:blank"];
  const browser = spawn(program, flags, { stdio: ["ignore", "ignore", "pipe"] });
  process.on("exit", () => {
    browser.kill("SIGKILL");
    removeProfile(profile);
  });
  const endpoint = await new Promise((resolve, reject) => {
    let said = "";
    browser.stderr.on("data", (data) => {
      said += data;
      const found = /DevTools listening on (ws:\S+)/.exec(said);
      if (found) {
        resolve(found[1]);
      }
    });
    browser.on("exit", () => reject(new Error(`Chromium ended: ${said}`)));
    setTimeout(() => reject(new Error(`Chromium does not answer: ${said}`)), PATIENCE_MS).unref();
  });
  socket = new WebSocket(endpoint, { perMessageDeflate: false, maxPayload: 1 << 28 });
  await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
  socket.on("message", (data) => {
    const message = JSON.parse(data);
    if (message.id === undefined) {
      listeners.get(message.method)?.(message.params);
      return;
    }
    const [resolve, reject] = waiting.get(message.id);
    waiting.delete(message.id);
    if (message.error) {
      reject(new Error(JSON.stringify(message.error)));
    } else {
      resolve(message.result);
    }
  });
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  session = (await send("Target.attachToTarget", { targetId, flatten: true })).sessionId;
}

// Processes of the browser may still write for a moment. rmSync itself does not try again then.
function removeProfile(profile) {
  for (let tries = 0; tries < 100; tries += 1) {
    try {
      rmSync(profile, { recursive: true, force: true });
      return;
    } catch {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
    }
  }
  console.error(`${profile} cannot be removed`);
}

// A command of the protocol, and its result.
export function send(method, params = {}) {
  number += 1;
  const id = number;
  socket.send(JSON.stringify({ id, method, params, sessionId: session }));
  return new Promise((resolve, reject) => waiting.set(id, [resolve, reject]));
}

// The value of an expression in the page.
export async function evaluate(expression) {
  const { result, exceptionDetails } =
    await send("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
  assert.equal(exceptionDetails, undefined, JSON.stringify(exceptionDetails));
  return result.value;
}

// Waits until an expression is true in the page.
export async function until(what, expression, patience = PATIENCE_MS) {
  const begin = Date.now();
  while (!(await evaluate(expression))) {
    assert.ok(Date.now() - begin < patience, `${what}: ${expression}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// Gives the page a size. Below 600 pixels it is that of a phone.
export function resize(width, height) {
  const isPhone = width < 600;
  const size = { width, height, deviceScaleFactor: isPhone ? 2 : 1, mobile: isPhone };
  return send("Emulation.setDeviceMetricsOverride", size);
}

// Shows the page in light or in dark colours.
export async function setScheme(scheme) {
  const features = [{ name: "prefers-color-scheme", value: scheme }];
  await send("Emulation.setEmulatedMedia", { features });
  await evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)))");
}
