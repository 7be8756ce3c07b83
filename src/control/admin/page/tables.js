// The tables. A column is [heading, minor, cell]: `cell` makes [value, text] of a row. Minor
// columns give way on a phone. Texts are sorted by name, numbers by size.

const family = {
  refusals: "request", token_failures: "token", closes: "close", tls_failures: "TLS",
};

const latency = (quantiles, name) =>
  quantiles.count === 0 ? [null, "–"] : [quantiles[name], micros(quantiles[name])];

const number = (value) => [value, count(value)];
const known = (value, show) => (value === null || value === undefined ? [null, "–"]
  : [value, show(value)]);
const millis = (value) => [value, micros(value * 1000)];

const TABLES = {
  shards: {
    title: "Shards", empty: "none", rows: (view) => view.document.shards,
    columns: [
      ["shard", false, (row) => number(row.shard)],
      ["calls", false, (row) => number(row.calls)],
      ["frames/s", false, (row, view) => known(view.rates?.shards[row.shard].frames, rate)],
      ["audio/s", true, (row, view) => known(view.rates?.shards[row.shard].bytes, bytes)],
      ["µs/frame", true, (row, view) =>
        known(view.rates?.shards[row.shard].cost, (cost) => cost.toFixed(1))],
      ["CPU", true, (row, view) => known(view.rates?.shards[row.shard].cpu, percent)],
      ["ACK p50", true, (row) => latency(row.ack, "p50_us")],
      ["p99", false, (row) => latency(row.ack, "p99_us")],
      ["p99.9", true, (row) => latency(row.ack, "p999_us")],
      ["sync p99", true, (row) => latency(row.sync, "p99_us")],
      ["ring", true, (row) => {
        const fill = row.ring.used_bytes / Math.max(1, row.ring.size_bytes);
        return [fill, percent(fill)];
      }],
      ["bridges", false, (row) => known(row.ring.bridges_ms, (ms) => seconds(ms / 1000))],
      ["frames", true, (row) => number(row.frames)],
    ],
  },
  calls: {
    title: "Calls that wait the longest", empty: "no live calls",
    rows: (view) => view.document.calls,
    columns: [
      ["call", false, (row) => {
        const name = `${shown(row.tenant)}/${shown(row.interaction)}`;
        return [name, name];
      }],
      ["silent", false, (row) => millis(row.silent_ms)],
      ["ACK wait", false, (row) => millis(row.ack_wait_ms)],
      ["unacked", true, (row) => number(row.unacked)],
      ["late", true, (row) => [row.late_ms, seconds(row.late_ms / 1000)]],
      ["lasts", true, (row) => [row.seconds, seconds(row.seconds)]],
      ["frames", true, (row) => number(row.frames)],
      ["shard", true, (row) => number(row.shard)],
    ],
  },
  tenants: {
    title: "Tenants", empty: "none yet", rows: (view) => view.document.tenants,
    columns: [
      ["tenant", false, (row) => {
        const name = row.tenant === "" ? "(others)" : shown(row.tenant);
        return [name, name];
      }],
      ["calls", false, (row) => number(row.calls)],
      ["refused", false, (row) => number(row.refused)],
      ["frames", false, (row) => number(row.frames)],
      ["audio", true, (row) => [row.audio_bytes, bytes(row.audio_bytes)]],
    ],
  },
  refusals: {
    title: "Refusals", empty: "none", rows: (view) => view.refusals,
    columns: [
      ["reason", false, (row) => [row.reason, row.reason]],
      ["of", true, (row) => [row.family, family[row.family] ?? row.family]],
      ["refused", false, (row) => number(row.count)],
      ["/s", false, (row) => known(row.rate, rate)],
    ],
  },
  sinks: {
    title: "Sinks", empty: "none", rows: (view) => view.document.sinks,
    columns: [
      ["sink", false, (row) => [row.name, shown(row.name)]],
      ["lag", false, (row) => [row.lag_seconds, seconds(row.lag_seconds)]],
    ],
  },
};

// By table: the column that it is sorted by; without one it keeps the node's order.
const sorted = {};

function element(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  made.textContent = text;
  return made;
}

// Headings stay, so that the keyboard's focus does.
function makeTable(id, redraw) {
  const section = document.getElementById(id);
  const { title, columns } = TABLES[id];
  const heading = element("h2", { id: `${id}-title` }, title);
  const frame = { class: "scroll", role: "region", tabindex: "0", "aria-labelledby": heading.id };
  const scroll = element("div", frame);
  const table = element("table", { "aria-labelledby": heading.id });
  const head = element("tr");
  columns.forEach(([name, isMinor], column) => {
    const cell = element("th", { scope: "col", class: isMinor ? "minor" : "" });
    const button = element("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      sorted[id] = sorted[id] === column ? undefined : column;
      redraw();
    });
    cell.append(button);
    head.append(cell);
  });
  const top = element("thead");
  top.append(head);
  table.append(top, element("tbody"));
  scroll.append(table);
  section.append(heading, scroll);
}

function order(a, b) {
  if (typeof a === "string" || typeof b === "string") {
    return String(a).localeCompare(String(b), "en");
  }
  return (b ?? -Infinity) - (a ?? -Infinity);
}

function drawTable(id, view) {
  const { columns, empty, rows } = TABLES[id];
  const table = document.querySelector(`#${id} table`);
  const cells = rows(view).map((row) => columns.map(([, , cell]) => cell(row, view)));
  const by = sorted[id];
  if (by !== undefined) {
    cells.sort((a, b) => order(a[by][0], b[by][0]));
  }
  const isText = (column) => cells.length === 0 || typeof cells[0][column][0] === "string";
  table.querySelectorAll("th").forEach((heading, column) => {
    heading.classList.toggle("text", isText(column));
    if (by === column) {
      heading.setAttribute("aria-sort", isText(column) ? "ascending" : "descending");
    } else {
      heading.removeAttribute("aria-sort");
    }
  });
  const body = element("tbody");
  cells.forEach((row) => {
    const line = element("tr");
    row.forEach(([value, text], column) => {
      const [name, isMinor] = columns[column];
      const classes = [isMinor ? "minor" : "", isText(column) ? "text" : ""].join(" ").trim();
      const cell = element("td", { class: classes, "data-name": name }, text);
      cell.dataset.value = value ?? "";
      if (isText(column)) {
        cell.title = text;
      }
      line.append(cell);
    });
    body.append(line);
  });
  if (cells.length === 0) {
    const line = element("tr");
    line.append(element("td", { class: "empty", colspan: String(columns.length) }, empty));
    body.append(line);
  }
  table.tBodies[0].replaceWith(body);
}
