// Opens a node's web page in headless Chromium, and checks it: numbers, errors, requests, widths,
// a node that does not answer.
//
//     node page.mjs CHROMIUM URL DIRECTORY [TENANT/INTERACTION]
//
// The node must have calls and refusals. Screenshots go into the directory. If a call is named, it
// must be one of those that the page names. Prints a line for each check.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { evaluate, listeners, openBrowser, resize, send, setScheme, until } from "./browser.mjs";

const [program, url, directory, callName] = process.argv.slice(2);
await openBrowser(program);
const errors = [];
const requested = new Set();
const bodies = [];
listeners.set("Runtime.exceptionThrown", (event) => errors.push(JSON.stringify(event)));
listeners.set("Runtime.consoleAPICalled", (event) => errors.push(JSON.stringify(event.args)));
listeners.set("Log.entryAdded", ({ entry }) => errors.push(`${entry.text} ${entry.url}`));
listeners.set("Network.requestWillBeSent", ({ request }) => requested.add(request.url));
listeners.set("Network.loadingFinished", async ({ requestId }) => {
  const answer = await send("Network.getResponseBody", { requestId }).catch(() => null);
  if (answer?.body.startsWith("{")) {
    bodies.push(JSON.parse(answer.body));
  }
});
for (const domain of ["Page", "Runtime", "Log", "Network"]) {
  await send(`${domain}.enable`);
}

await resize(1280, 900);
await send("Page.navigate", { url });
const shown = (name) => `Number(document.querySelector('[data-tile="${name}"]')?.dataset.value)`;
await until("rates are shown", `${shown("frames/s")} > 0`);
await until("the heat map is drawn", "heat.history.some(({ counts }) => counts.some(Boolean))");

// Everything at one moment, without a poll in between.
const found = await evaluate(`({
  uptime: Number(document.body.dataset.uptime),
  state: document.getElementById("state").textContent,
  tiles: Object.fromEntries([...document.querySelectorAll("[data-tile]")]
    .map((tile) => [tile.dataset.tile, tile.dataset.value])),
  tables: Object.fromEntries(["shards", "calls", "tenants", "refusals"].map((id) => [id,
    [...document.querySelectorAll("#" + id + " tbody tr")].map((row) => Object.fromEntries(
      [...row.cells].map((cell) => [cell.dataset.name, [cell.dataset.value, cell.textContent]])))])),
})`);
let status;
for (let tries = 0; tries < 100 && status === undefined; tries += 1) {
  status = bodies.find((body) => body.node.uptime_seconds === found.uptime);
  await new Promise((resolve) => setTimeout(resolve, 20));
}
assert.ok(status, "the answer that is shown was seen");
const same = (value, expected, what) => assert.equal(Number(value), expected, what);
same(found.tiles.calls, status.node.calls, "calls");
same(found.tiles.memory, status.node.resident_bytes, "memory");
same(found.tiles.journal, status.store.journal_bytes, "journal");
same(found.tiles["disk free"], status.store.free_bytes, "disk free");
assert.equal(found.state, "ready");
assert.equal(found.tables.shards.length, status.shards.length);
found.tables.shards.forEach((row, index) => {
  const shard = status.shards[index];
  for (const [name, value] of [["calls", shard.calls], ["frames", shard.frames],
    ["p99", shard.ack.p99_us], ["sync p99", shard.sync.p99_us],
    ["bridges", shard.ring.bridges_ms]]) {
    same(row[name][0], value, `shard ${index}: ${name}`);
  }
});
const names = status.calls.map((call) => `${call.tenant}/${call.interaction}`);
assert.deepEqual(found.tables.calls.map((row) => row.call[1]), names);
assert.ok(callName === undefined || names.includes(callName), `${callName} is in ${names}`);
found.tables.calls.forEach((row, index) => {
  same(row.silent[0], status.calls[index].silent_ms, "silent");
  same(row["ACK wait"][0], status.calls[index].ack_wait_ms, "ACK wait");
});
assert.deepEqual(
  found.tables.tenants.map((row) => [row.tenant[1], Number(row.frames[0])]),
  status.tenants.map((tenant) => [tenant.tenant, tenant.frames]),
);
const refused = status.shards.flatMap((shard) => shard.refused);
assert.equal(found.tables.refusals.length, refused.length);
same(found.tables.refusals[0].refused[0], Math.max(...refused.map((row) => row.count)), "refused");
console.log("the numbers are those of the status document");

const canvas = "document.getElementById('heat')";
assert.ok(await evaluate(`(() => {
  const pen = ${canvas}.getContext("2d");
  const { data } = pen.getImageData(60 * devicePixelRatio, 0, ${canvas}.width, ${canvas}.height);
  return new Set(new Uint32Array(data.buffer)).size > 3;
})()`), "the heat map has colours");
await evaluate(`${canvas}.focus()`);
await send("Input.dispatchKeyEvent", { type: "keyDown", key: "ArrowLeft" });
await until("the arrows move in the heat map",
  "document.getElementById('cell').textContent.includes('ACKs')");
await evaluate("document.querySelector('#calls th:nth-child(1) button').click()");
const sorted = await evaluate("[...document.querySelectorAll('#calls td:nth-child(1)')]"
  + ".map((cell) => cell.textContent)");
assert.deepEqual(sorted, [...sorted].sort((a, b) => a.localeCompare(b, "en")));
assert.equal(await evaluate("document.querySelector('#calls th').getAttribute('aria-sort')"),
  "ascending");
await evaluate("document.querySelector('#calls th:nth-child(1) button').click()");
console.log("the keyboard works, and tables sort");

for (const [width, height] of [[320, 640], [390, 844], [1280, 900]]) {
  for (const scheme of ["light", "dark"]) {
    await resize(width, height);
    await setScheme(scheme);
    const over = await evaluate("document.documentElement.scrollWidth - innerWidth");
    assert.ok(over <= 0, `at ${width} pixels the page is ${over} too wide`);
    const { data } = await send("Page.captureScreenshot", { captureBeyondViewport: true });
    writeFileSync(join(directory, `${width}-${scheme}.png`), Buffer.from(data, "base64"));
  }
}
console.log("no width scrolls sideways");

const origin = new URL(url).origin;
for (const address of requested) {
  assert.ok(address.startsWith(`${origin}/`) || address === "data:,", address);
}
assert.deepEqual(errors, []);
console.log("no errors, and no request to another origin");

const slow = { latency: 0, downloadThroughput: -1, uploadThroughput: -1 };
await send("Network.emulateNetworkConditions", { offline: true, ...slow });
await until("a poll that fails is told",
  "document.getElementById('remarks').textContent.includes('does not answer')");
assert.equal(await evaluate("document.getElementById('state').textContent"), "no answer");
assert.ok(await evaluate("document.querySelectorAll('#calls tbody tr').length > 0"));
await send("Network.emulateNetworkConditions", { offline: false, ...slow });
await until("it goes on", "document.getElementById('state').textContent === 'ready'");
assert.equal(await evaluate("document.getElementById('remarks').textContent"), "");
await evaluate("document.getElementById('pause').click()");
assert.equal(await evaluate("document.getElementById('state').textContent"), "paused");
console.log("it says when the node does not answer, and goes on");
process.exit(0);
