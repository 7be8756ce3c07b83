// Asks the node once a second, and shows what it answers.

const INTERVAL_MS = 1000;
const TIMEOUT_MS = 3000;
const FORMAT = 1;

const page = {
  last: null,
  // When the last document came.
  at: 0,
  view: null,
  isPaused: false,
  error: null,
};

function sum(list, read) {
  return list.reduce((total, item) => total + read(item), 0);
}

function ratesOf(before, after, time) {
  const shards = after.shards.map((shard, index) => {
    const old = before.shards[index];
    const grown = (name) => Math.max(0, shard[name] - old[name]);
    const cpuUs = shard.cpu_us === null || old.cpu_us === null ? null : grown("cpu_us");
    const frames = grown("frames");
    return {
      frames: frames / time,
      bytes: grown("audio_bytes") / time,
      cpu: cpuUs === null ? null : cpuUs / 1e6 / time,
      cost: cpuUs === null || frames === 0 ? null : cpuUs / frames,
    };
  });
  const frames = sum(shards, (shard) => shard.frames);
  const isCpuKnown = shards.every((shard) => shard.cpu !== null);
  const cpu = isCpuKnown ? sum(shards, (shard) => shard.cpu) : null;
  return {
    shards,
    frames,
    bytes: sum(shards, (shard) => shard.bytes),
    cpu,
    cost: cpu === null || frames === 0 ? null : (cpu * 1e6) / frames,
  };
}

function refusalsOf(document) {
  const sums = new Map();
  document.shards.flatMap((shard) => shard.refused).forEach((refused) => {
    const key = keyOf(refused);
    const row = sums.get(key) ?? { ...refused, count: 0, rate: null };
    row.count += refused.count;
    sums.set(key, row);
  });
  return [...sums.values()].sort((a, b) => b.count - a.count);
}

const keyOf = (row) => `${row.family} ${row.reason}`;

// What is shown, of a document and the one before.
function viewOf(before, after, time) {
  const view = { document: after, rates: null, refusals: refusalsOf(after), acks: null };
  const isSameNode = before !== null && time > 0
    && before.node.started_unix_ms === after.node.started_unix_ms;
  if (isSameNode) {
    view.rates = ratesOf(before, after, time);
    const old = new Map(refusalsOf(before).map((row) => [keyOf(row), row.count]));
    view.refusals.forEach((row) => {
      row.rate = (row.count - (old.get(keyOf(row)) ?? 0)) / time;
    });
    view.acks = after.ack_bounds_us.concat(0).map((_, bucket) =>
      sum(after.shards, (shard) => shard.ack_counts[bucket])
      - sum(before.shards, (shard) => shard.ack_counts[bucket]));
  }
  return view;
}

function tilesOf({ document: { node, store, shards }, rates, refusals }) {
  // A refused token is a refused request too.
  const refused = refusals.filter((row) => row.family !== "token_failures");
  const refusedRate = rates === null ? null : sum(refused, (row) => row.rate);
  const bridges = shards.map((shard) => shard.ring.bridges_ms).filter((ms) => ms !== null);
  const shortest = bridges.length === 0 ? null : Math.min(...bridges);
  return [
    ["calls", ...number(node.calls), `of ${count(node.calls_max)}`],
    ["frames/s", ...known(rates?.frames, rate)],
    ["audio/s", ...known(rates?.bytes, bytes)],
    ["µs a frame", ...known(rates?.cost, (cost) => cost.toFixed(1))],
    ["CPU of shards", ...known(rates?.cpu, percent)],
    ["refused/s", ...known(refusedRate, rate)],
    ["bridged stall", ...known(shortest, (ms) => seconds(ms / 1000))],
    ["journal", ...known(store?.journal_bytes, bytes)],
    ["disk free", ...known(store?.free_bytes, bytes)],
    ["memory", ...known(node.resident_bytes, bytes)],
    ["open files", ...known(node.open_files, count),
      node.open_files_max === null ? "" : `of ${count(node.open_files_max)}`],
    ["up", node.uptime_seconds, seconds(node.uptime_seconds)],
  ];
}

function drawTiles(view) {
  const tiles = tilesOf(view).map(([name, value, text, more]) => {
    const tile = element("div");
    const shownValue = element("dd", { "data-tile": name }, text);
    shownValue.dataset.value = value ?? "";
    if (more) {
      shownValue.append(element("small", {}, more));
    }
    tile.append(element("dt", {}, name), shownValue);
    return tile;
  });
  document.getElementById("tiles").replaceChildren(...tiles);
}

function drawState() {
  const node = page.last?.node;
  const state = document.getElementById("state");
  const [text, kind] = page.error !== null ? ["no answer", "bad"]
    : page.isPaused ? ["paused", ""]
    : node === undefined ? ["…", ""]
    : node.is_draining ? ["draining", "bad"]
    : node.is_ready ? ["ready", "good"] : ["not ready", "bad"];
  state.textContent = text;
  state.className = `badge ${kind}`;
  document.body.classList.toggle("away", page.error !== null);
  const remarks = [];
  if (page.error !== null) {
    remarks.push(["bad", page.error]);
  }
  (node?.reasons ?? []).forEach((reason) => remarks.push(["bad", reason.message]));
  (node?.warnings ?? []).forEach((warning) => remarks.push(["doubt", warning.message]));
  // Only changes are read out.
  const key = JSON.stringify(remarks);
  const box = document.getElementById("remarks");
  if (box.dataset.key !== key) {
    box.dataset.key = key;
    box.replaceChildren(...remarks.map(([kind, text]) => element("p", { class: kind }, text)));
  }
}

function drawQuantiles(shards) {
  const busy = shards.filter((shard) => shard.ack.count > 0);
  const worst = (name) => micros(Math.max(...busy.map((shard) => shard.ack[name])));
  const of = shards.length > 1 ? ", of the slowest shard" : "";
  const text = busy.length === 0 ? "No ACK in the last 10 s."
    : `Last 10 s: p50 ${worst("p50_us")}, p99 ${worst("p99_us")}, p99.9 ${worst("p999_us")}, `
      + `longest ${worst("max_us")}${of}`;
  document.getElementById("quantiles").textContent = text;
  document.getElementById("heat").setAttribute("aria-label", `ACK latency over time. ${text}`);
}

function draw() {
  drawState();
  if (page.view === null) {
    return;
  }
  const { node } = page.view.document;
  document.getElementById("about").textContent =
    `Version ${node.version} (${node.commit}), ACKs are ${node.ack_degraded ? "durable (degraded)" : node.ack}, `
    + `since ${new Date(node.started_unix_ms).toLocaleString()}`;
  drawTiles(page.view);
  drawQuantiles(page.view.document.shards);
  Object.keys(TABLES).forEach((id) => drawTable(id, page.view));
  drawHeat(Date.now());
  document.body.dataset.uptime = node.uptime_seconds;
}

async function ask() {
  const answer = await fetch("status.json",
    { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!answer.ok) {
    throw new Error(`the node answered ${answer.status}`);
  }
  const found = await answer.json();
  if (found.format !== FORMAT) {
    throw new Error("the node has another version: load this page again");
  }
  return found;
}

async function poll() {
  const began = Date.now();
  if (!page.isPaused) {
    try {
      const found = await ask();
      const now = Date.now();
      page.view = viewOf(page.last, found, (now - page.at) / 1000);
      [page.last, page.at, page.error] = [found, now, null];
      if (page.view.acks !== null) {
        remember(now, page.view.acks, found.ack_bounds_us);
      }
    } catch (error) {
      const why = error.name === "TimeoutError" ? "it takes too long"
        : error instanceof TypeError ? "the connection failed" : error.message;
      page.error = `The node does not answer (${why}). `
        + (page.at === 0 ? "" : `What is below is of ${new Date(page.at).toLocaleTimeString()}. `)
        + "This page asks again each second.";
    }
    draw();
  }
  setTimeout(poll, Math.max(100, INTERVAL_MS - (Date.now() - began)));
}

const pause = document.getElementById("pause");
pause.addEventListener("click", () => {
  page.isPaused = !page.isPaused;
  pause.setAttribute("aria-pressed", String(page.isPaused));
  drawState();
});
Object.keys(TABLES).forEach((id) => makeTable(id, draw));
watchHeat();
poll();
