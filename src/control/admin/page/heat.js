// The heat map of ACK latencies: time to the right, latency upwards on a logarithmic scale. The
// history is in this page alone, and ends with it.

const HISTORY_MS = 15 * 60 * 1000;
const WINDOWS_MS = [60000, 300000, HISTORY_MS];
const LEFT = 52;
const BOTTOM = 20;

const heat = {
  // { at, counts }: the ACKs of each look, by bucket.
  history: [],
  bounds: [],
  cursor: null,
};

function remember(at, counts, bounds) {
  heat.bounds = bounds;
  heat.history.push({ at, counts });
  while (heat.history.length > 0 && heat.history[0].at < at - HISTORY_MS) {
    heat.history.shift();
  }
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// The shortest window that holds the history.
function windowOf(now) {
  const age = heat.history.length > 0 ? now - heat.history[0].at : 0;
  return WINDOWS_MS.find((length) => age <= length) ?? HISTORY_MS;
}

// The history in columns, each of them some pixels wide.
function columnsOf(now, width) {
  const length = windowOf(now);
  // Calls that began together have their ACKs each two seconds: longer columns hold them all.
  const least = length > WINDOWS_MS[0] ? 2500 : 1000;
  const number = Math.max(1, Math.min(Math.floor(width / 4), Math.floor(length / least)));
  const columns = Array.from({ length: number }, () => null);
  for (const { at, counts } of heat.history) {
    const place = Math.floor(((at - (now - length)) / length) * number);
    const index = Math.min(number - 1, place);
    if (index < 0) {
      continue;
    }
    columns[index] ??= counts.map(() => 0);
    counts.forEach((value, bucket) => (columns[index][bucket] += value));
  }
  return { columns, length };
}

// The bound of the bucket in which the quantile lies.
function quantile(counts, share) {
  const total = counts.reduce((sum, value) => sum + value, 0);
  let seen = 0;
  for (let bucket = 0; bucket < counts.length; bucket += 1) {
    seen += counts[bucket];
    if (total > 0 && seen >= total * share) {
      return bucket;
    }
  }
  return null;
}

function drawHeat(now) {
  const canvas = document.getElementById("heat");
  const { width, height } = canvas.getBoundingClientRect();
  if (width === 0 || heat.bounds.length === 0) {
    return;
  }
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  const [plotWidth, plotHeight] = [width - LEFT, height - BOTTOM];
  const rows = heat.bounds.length + 1;
  const { columns, length } = columnsOf(now, plotWidth);
  const cell = { width: plotWidth / columns.length, height: plotHeight / rows };
  const top = (bucket) => plotHeight - (bucket + 1) * cell.height;
  drawAxes(pen, { width, plotHeight, top, length });
  const most = Math.max(1, ...columns.map((counts) => Math.max(0, ...(counts ?? []))));
  const tone = colour("--heat");
  columns.forEach((counts, column) => {
    (counts ?? []).forEach((value, bucket) => {
      if (value > 0) {
        const share = Math.log1p(value) / Math.log1p(most);
        pen.fillStyle = `rgb(${tone} / ${(0.18 + 0.82 * share).toFixed(3)})`;
        const left = LEFT + column * cell.width;
        pen.fillRect(left, top(bucket), Math.max(1, cell.width - 0.5), cell.height - 0.5);
      }
    });
  });
  drawQuantile(pen, columns, cell, top);
  if (heat.cursor !== null) {
    heat.cursor = Math.min(heat.cursor, columns.length - 1);
    pen.strokeStyle = colour("--text");
    pen.strokeRect(LEFT + heat.cursor * cell.width, 0.5, cell.width, plotHeight - 1);
  }
  tellCell(columns, length);
}

function drawAxes(pen, { width, plotHeight, top, length }) {
  pen.font = "11px system-ui, sans-serif";
  pen.fillStyle = colour("--soft");
  pen.strokeStyle = colour("--line");
  pen.lineWidth = 1;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  heat.bounds.forEach((bound, bucket) => {
    if (Number.isInteger(Math.log10(bound))) {
      const y = Math.round(top(bucket)) + 0.5;
      pen.beginPath();
      pen.moveTo(LEFT, y);
      pen.lineTo(width, y);
      pen.stroke();
      const text = micros(bound).replace(".0 ", " ");
      pen.fillText(text, LEFT - 6, Math.min(Math.max(y, 7), plotHeight - 6));
    }
  });
  pen.textBaseline = "alphabetic";
  pen.textAlign = "left";
  pen.fillText(`${length / 60000} min ago`, LEFT, plotHeight + 15);
  pen.textAlign = "right";
  pen.fillText("now", width, plotHeight + 15);
}

function drawQuantile(pen, columns, cell, top) {
  pen.strokeStyle = colour("--mark");
  pen.lineWidth = 1.5;
  pen.beginPath();
  let isDrawing = false;
  columns.forEach((counts, column) => {
    const bucket = counts === null ? null : quantile(counts, 0.99);
    if (bucket === null) {
      return;
    }
    const [x, y] = [LEFT + (column + 0.5) * cell.width, top(bucket) + cell.height / 2];
    if (isDrawing) {
      pen.lineTo(x, y);
    } else {
      pen.moveTo(x, y);
    }
    isDrawing = true;
  });
  pen.stroke();
}

function tellCell(columns, length) {
  const line = document.getElementById("cell");
  if (heat.cursor === null) {
    line.textContent = "";
    return;
  }
  const counts = columns[heat.cursor];
  const ago = ((columns.length - heat.cursor - 0.5) / columns.length) * (length / 1000);
  const total = (counts ?? []).reduce((sum, value) => sum + value, 0);
  const bucket = total > 0 ? quantile(counts, 0.99) : null;
  const last = heat.bounds[heat.bounds.length - 1];
  const bound = bucket === null ? "" : bucket < heat.bounds.length
    ? `, p99 at most ${micros(heat.bounds[bucket])}` : `, p99 over ${micros(last)}`;
  line.textContent = `${seconds(ago)} ago: ${count(total)} ACKs${bound}`;
}

function watchHeat() {
  const canvas = document.getElementById("heat");
  const redraw = () => drawHeat(Date.now());
  const place = (event) => {
    const { left, width } = canvas.getBoundingClientRect();
    const { columns } = columnsOf(Date.now(), width - LEFT);
    const share = (event.clientX - left - LEFT) / (width - LEFT);
    heat.cursor = share < 0 ? null : Math.floor(share * columns.length);
    redraw();
  };
  canvas.addEventListener("pointermove", place);
  canvas.addEventListener("pointerleave", () => {
    heat.cursor = null;
    redraw();
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined) {
      return;
    }
    event.preventDefault();
    const { columns } = columnsOf(Date.now(), canvas.getBoundingClientRect().width - LEFT);
    const from = heat.cursor ?? columns.length;
    heat.cursor = Math.min(Math.max(from + step, 0), columns.length - 1);
    redraw();
  });
  window.addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
