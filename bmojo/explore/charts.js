/* What the pages share: charts that are painted at once while a slider moves, and plotted when it rests. */
const data = JSON.parse(document.getElementById("data").textContent);
const control = (id) => document.getElementById(id);
const colours = {}, shown = new Map(), work = { painted: 0, plotted: 0, points: 0 };
const REST = 80, MOST = 2000; // milliseconds; points of a line
let later = 0;
window.explorer = { updates: 0, complete: 0, milliseconds: 0, answered: 0, slowest: 0, numbers: {}, work };

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ink", "soft", "rule", "paper", "data", "window", "fading", "eidetic", "prediction",
    "innovation", "baseline"]) colours[name] = style.getPropertyValue(`--${name}`).trim();
}

function layout(more) {
  const axis = { gridcolor: colours.rule, linecolor: colours.rule, zeroline: false,
    tickfont: { size: 11 }, title: { font: { size: 12 } } };
  const { xaxis, yaxis, ...rest } = more;
  return {
    margin: { l: 52, r: 8, t: 6, b: 30 }, showlegend: false, hovermode: "x unified", dragmode: "zoom",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", uirevision: "same", bargap: 0.25, barmode: "stack",
    font: { color: colours.soft, family: "system-ui, sans-serif" },
    hoverlabel: { bgcolor: colours.paper, bordercolor: colours.rule, font: { color: colours.ink } },
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}

const line = (x, y, name, colour, more = {}) =>
  ({ type: "scatter", mode: "lines", x, y, name, line: { color: colours[colour], width: 1.5 }, hoverinfo: "y+name", ...more });
const dots = (x, y, name, colour) =>
  ({ type: "scatter", mode: "markers", x, y, name, marker: { color: colours[colour], size: 7 }, hoverinfo: "name" });
const bars = (x, y, name, colour) =>
  ({ type: "bar", x, y, name, marker: { color: colours[colour] }, hoverinfo: "y+name" });
const limitLine = (y) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y,
  line: { color: colours.ink, width: 1.2, dash: "dash" } });

/* Of more samples than can be told apart each piece's least and largest, in their order. */
function thinned(x, y) {
  const step = Math.ceil(x.length / (MOST / 2));
  if (x.length <= MOST) return [x, y];
  const at = [];
  for (let i = 0; i < x.length; i += step) {
    let low = i, high = i;
    for (let j = i; j < Math.min(i + step, x.length); j++) {
      if (y[j] < y[low]) low = j;
      if (y[j] > y[high]) high = j;
    }
    at.push(Math.min(low, high));
    if (low !== high) at.push(Math.max(low, high));
  }
  return [at.map((i) => x[i]), at.map((i) => y[i])];
}

/* Stems as one stroke: a bar each, or a gap after each, would be an element each. */
function stems(x, y, name, colour) {
  const step = Math.ceil(x.length / (MOST / 2)), tx = [], ty = [];
  for (let i = 0; i < x.length; i += step) {
    let high = i;
    for (let j = i; j < Math.min(i + step, x.length); j++) if (y[j] > y[high]) high = j;
    tx.push(x[high], x[high], x[high]);
    ty.push(0, y[high], 0);
  }
  return line(tx, ty, name, colour, { line: { color: colours[colour], width: tx.length > 1500 ? 1 : 2 } });
}

/* Shares that add up to one, stacked; the mean of each piece where there are many. */
function stacked(x, parts) {
  const step = Math.ceil(x.length / (MOST / 3)), tx = [];
  for (let i = 0; i < x.length; i += step) tx.push(x[i]);
  const mean = (values) => tx.map((_, k) => {
    let sum = 0, n = 0;
    for (let j = k * step; j < Math.min((k + 1) * step, x.length); j++, n++) sum += values[j];
    return sum / n;
  });
  return ["window", "fading", "eidetic"].map((name, i) => line(tx, step === 1 ? parts[i] : mean(parts[i]), name, name,
    { stackgroup: "one", fillcolor: colours[name], line: { width: 0 } }));
}

/* The set as it changes: each line is a kept one at its own time, the window moves along the diagonal. */
function setTraces(time, spans, window) {
  const x = [], heights = [], count = time.length, last = time[count - 1];
  for (const [j, from, to] of spans) {
    x.push(time[Math.min(from, count - 1)], time[Math.min(to, count - 1)], null);
    heights.push(time[j], time[j], null);
  }
  const edge = Math.max(0, count - 1 - window);
  return [
    { type: "scatter", mode: "lines", x: [time[0], last, last, time[Math.min(window, count - 1)]],
      y: [time[0], last, time[edge], time[0]], fill: "toself", fillcolor: colours.window, opacity: 0.45, line: { width: 1, color: colours.window }, hoverinfo: "skip" },
    line(x, heights, "kept", "eidetic", { line: { color: colours.eidetic, width: 1.7 }, hoverinfo: "y" }),
  ];
}

/* Share of what is held, by its age: in the window, in the state, in the set in the mean over all times. */
function memoryTraces(lags, window, state, spans, count) {
  const held = setMemory(spans, lags.length, count);
  return [
    line(lags, lags.map((k) => (k <= window - 1 ? 1 : 0)), "window", "window", { line: { shape: "hv", color: colours.window, width: 1.5 } }),
    line(lags, state, "state", "fading", { line: { color: colours.fading, width: 2.2 } }),
    line(lags, held, "set", "eidetic"),
  ];
}

const axisTo = (axis) => {
  const log = axis.type === "log", [from, to] = axis.range, start = axis.l2p(from);
  const slope = (axis.l2p(to) - start) / (to - from);
  return (value) => start + slope * ((log ? Math.log10(value) : value) - from);
};

/* One trace on a canvas; `base` is what those before it have stacked up. */
function brush(pen, trace, x, y, base, floor) {
  const n = trace.x.length, colour = trace.fillcolor ?? trace.line?.color;
  pen.globalAlpha = trace.opacity ?? 1;
  pen.fillStyle = pen.strokeStyle = trace.marker?.color ?? colour;
  if (trace.type === "bar" || trace.stackgroup) {
    const under = trace.x.map((_, i) => base[i] ?? 0);
    trace.y.forEach((value, i) => { base[i] = under[i] + value; });
    if (trace.type === "bar") {
      const half = 0.375 * Math.abs(x(1) - x(0));
      for (let i = 0; i < n; i++) {
        const bottom = under[i] ? y(under[i]) : floor, top = y(base[i]);
        pen.fillRect(x(trace.x[i]) - half, top, 2 * half, bottom - top);
      }
      return;
    }
    pen.beginPath();
    for (let i = 0; i < n; i++) pen.lineTo(x(trace.x[i]), y(base[i]));
    for (let i = n - 1; i >= 0; i--) pen.lineTo(x(trace.x[i]), y(under[i]));
    pen.fill();
    return;
  }
  pen.beginPath();
  if (trace.mode === "markers") {
    for (let i = 0; i < n; i++) {
      if (trace.y[i] === null) continue;
      const px = x(trace.x[i]), py = y(trace.y[i]);
      pen.moveTo(px + 3.5, py);
      pen.arc(px, py, 3.5, 0, 7);
    }
    pen.fill();
    return;
  }
  let down = false, level = 0;
  for (let i = 0; i < n; i++) {
    if (trace.y[i] === null) { down = false; continue; }
    const px = x(trace.x[i]), py = y(trace.y[i]);
    if (down && trace.line.shape === "hv") pen.lineTo(px, level);
    down ? pen.lineTo(px, py) : pen.moveTo(px, py);
    down = true;
    level = py;
  }
  if (trace.fill === "toself") { pen.closePath(); pen.fill(); }
  pen.lineWidth = trace.line.width;
  pen.lineJoin = "bevel";
  pen.stroke();
}

/* The traces over the axes that are there, at a fraction of what new axes, hovering and elements take. */
function paint(id, view) {
  const chart = control(id), { _size: area, xaxis, yaxis } = chart._fullLayout, ratio = devicePixelRatio || 1;
  const { traces } = view.draw();
  if (yaxis.autorange && traces.some((trace) => trace.y.some((value) => value > yaxis.range[1]))) {
    plot(id, view); // it needs another axis
    return;
  }
  const canvas = chart.querySelector(":scope > canvas") ?? chart.appendChild(document.createElement("canvas"));
  canvas.width = Math.round(area.w * ratio);
  canvas.height = Math.round(area.h * ratio);
  canvas.style.cssText = `left:${area.l}px;top:${area.t}px;width:${area.w}px;height:${area.h}px`;
  const pen = canvas.getContext("2d"), x = axisTo(xaxis), y = axisTo(yaxis), base = [];
  pen.scale(ratio, ratio);
  for (const trace of traces) brush(pen, trace, x, y, base, area.h);
  chart.classList.add("painted");
  shown.set(id, { ...shown.get(id), painted: view.of });
  counted(traces, "painted");
}

function plot(id, view) {
  if (shown.get(id)?.plotted !== view.of) {
    const { traces, more } = view.draw();
    Plotly.react(id, traces, layout(more), { displayModeBar: false, responsive: true });
    counted(traces, "plotted");
  }
  control(id).classList.remove("painted");
  shown.set(id, { painted: view.of, plotted: view.of });
}

function counted(traces, what) {
  work[what]++;
  work.points += traces.reduce((sum, trace) => sum + trace.x.length, 0);
}

function onScreen(id) {
  const { top, bottom } = control(id).getBoundingClientRect();
  return top < innerHeight && bottom > 0;
}

/* Views by name: `of` says what they show, so that what has not changed is left as it is. While a slider moves,
   those on the screen are painted; once it rests all are plotted, one after the other, so that no move waits. */
function show(views, whole) {
  const ids = Object.keys(views), number = explorer.updates + 1;
  clearTimeout(later);
  if (whole) {
    for (const id of ids) plot(id, views[id]);
    explorer.complete = number;
    return;
  }
  for (const id of ids)
    if (!views[id].slow && shown.get(id).painted !== views[id].of && onScreen(id)) paint(id, views[id]);
  const rest = ids.filter((id) => shown.get(id).plotted !== views[id].of || shown.get(id).painted !== views[id].of
    || control(id).classList.contains("painted")).sort((a, b) => onScreen(b) - onScreen(a));
  const next = () => {
    if (rest.length) plot(rest[0], views[rest.shift()]);
    if (!rest.length) explorer.complete = number;
    else later = setTimeout(next, 0);
  };
  later = setTimeout(next, REST);
}

function tell(id, text) { if (control(id).textContent !== text) control(id).textContent = text; }

function tellSlider(id, text) {
  tell(`${id}-shown`, text);
  control(id).setAttribute("aria-valuetext", text);
}

/* Calls `update` in the next frame, once however often a slider moved, and takes the time from the first move. */
function whenMoved(parts, update) {
  let since = 0;
  const run = (whole) => {
    const began = performance.now();
    explorer.numbers = update(whole);
    const took = performance.now() - began, first = !explorer.updates;
    Object.assign(explorer, { updates: explorer.updates + 1, milliseconds: took,
      answered: since ? performance.now() - since : took, slowest: first ? 0 : Math.max(took, explorer.slowest) });
    since = 0;
  };
  const soon = (event) => {
    if (since) return;
    since = event.timeStamp;
    requestAnimationFrame(() => run(false));
  };
  for (const part of parts) part.addEventListener("input", soon);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); shown.clear(); run(true); });
  readColours();
  run(true);
}

/* Views along time zoom together. */
function zoomTogether(along) {
  let following = false;
  for (const id of along)
    control(id).on("plotly_relayout", (change) => {
      if (following || !Object.keys(change).some((key) => key.startsWith("xaxis."))) return;
      following = true;
      const x = control(id).layout.xaxis.range.slice();
      Promise.all(along.filter((other) => other !== id).map((other) => Plotly.relayout(other, { "xaxis.range": x.slice() })))
        .finally(() => { following = false; });
    });
}
