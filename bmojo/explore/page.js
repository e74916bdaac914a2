const data = JSON.parse(document.getElementById("data").textContent);
const { count, outputs, time, y, states } = data;
const control = (id) => document.getElementById(id);
const sliders = ["window", "budget", "fading"].map(control), rule = control("rule"), output = control("output");
const budgets = [0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128].filter((m) => m <= +control("budget").max);
const floor = [];
let colours = {}, drawn = null, later = 0;
window.explorer = { updates: 0, complete: 0, milliseconds: 0, slowest: 0, numbers: {} };

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ink", "soft", "rule", "paper", "data", "window", "fading", "eidetic", "prediction",
    "innovation", "baseline"]) colours[name] = style.getPropertyValue(`--${name}`).trim();
}

function ranksOf(state, name) {
  if (name === "top") return state.scores;
  if (name === "fifo") return time.map((_, t) => t);
  if (name === "threshold") return state.scores.map((s, t) => (s > data.limit ? t : -Infinity));
  return data.ranks[name];
}

/* Everything that the page shows, from the four settings. */
function remember(settings, withViews = true) {
  const state = states[settings.fading], mass = [[], [], []];
  const each = (t, set) => attentionAt(t, set, settings.window, data.standard, state.predicted, outputs)
    .forEach((x, i) => mass[i].push(x));
  const found = eideticSet(ranksOf(state, settings.rule), settings.budget, settings.window, withViews && each);
  const kept = heldAtEnd(found.set, settings.window, count);
  const lost = forgotten(state, kept, count, outputs);
  const held = kept.reduce((sum, x) => sum + x, 0), share = (100 * dot(lost, lost)) / dot(state.white, state.white);
  return { ...found, state, kept, held, lost, share, mass };
}

function fitOf(wrong) {
  let sum = 0;
  for (let q = 0; q < outputs; q++) {
    let square = 0;
    for (let t = 0; t < count; t++) square += wrong[t * outputs + q] ** 2;
    sum += 100 * (1 - Math.sqrt(square) / data.spread[q]);
  }
  return sum / outputs;
}

function shareAt(settings, budget, name) {
  const state = states[settings.fading], key = `${settings.window} ${budget} ${name}`;
  state.shares ??= new Map();
  if (!state.shares.has(key))
    state.shares.set(key, remember({ ...settings, budget, rule: name }, false).share);
  return state.shares.get(key);
}

function layout(more) {
  const axis = { gridcolor: colours.rule, linecolor: colours.rule, zeroline: false,
    tickfont: { size: 11 }, title: { font: { size: 12 } } };
  const { xaxis, yaxis, ...rest } = more;
  return {
    margin: { l: 52, r: 8, t: 6, b: 30 }, showlegend: false, hovermode: "x unified", dragmode: "zoom",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", uirevision: "same", bargap: 0.25,
    font: { color: colours.soft, family: "system-ui, sans-serif" },
    hoverlabel: { bgcolor: colours.paper, bordercolor: colours.rule, font: { color: colours.ink } },
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}

const line = (x, values, name, colour, more = {}) =>
  ({ type: "scatter", mode: "lines", x, y: values, name, line: { color: colours[colour], width: 1.5 }, hoverinfo: "y+name", ...more });
const dots = (x, values, name, colour) =>
  ({ type: "scatter", mode: "markers", x, y: values, name, marker: { color: colours[colour], size: 7 }, hoverinfo: "name" });
const shade = () => (data.learned ? [{ type: "rect", xref: "x", yref: "paper", x0: time[0],
  x1: time[Math.min(data.learned, count) - 1], y0: 0, y1: 1, fillcolor: colours.rule, opacity: 0.35, line: { width: 0 }, layer: "below" }] : []);
const span = () => ({ range: [time[0], time[count - 1]] });
const options = { displayModeBar: false, responsive: true };

function draw(id, traces, more) { Plotly.react(id, traces, layout(more), options); }

function drawSignal(found, rebuilt, settings) {
  const q = +output.value || 0, values = time.map((_, t) => y[t * outputs + q]);
  const inWindow = time.map((_, t) => t).filter((t) => t > count - settings.window);
  draw("signal", [
    line(time, values, "measured", "data", { line: { color: colours.data, width: 3.5 }, opacity: 0.35 }),
    line(time, time.map((_, t) => rebuilt[t * outputs + q]), "rebuilt", "prediction"),
    dots(inWindow.map((t) => time[t]), inWindow.map((t) => values[t]), "window", "window"),
    dots(found.set.map((t) => time[t]), found.set.map((t) => values[t]), "set", "eidetic"),
  ], { xaxis: span(), yaxis: { title: { text: data.names[q] } }, shapes: shade() });
}

function drawInnovations(found) {
  const { scores } = found.state; // stems in one path: bars would be an element each
  draw("innovations", [
    line(time.flatMap((x) => [x, x, null]), scores.flatMap((s) => [0, s, null]), "surprise", "innovation",
      { line: { color: colours.innovation, width: count > 500 ? 1 : 2 } }),
    dots(found.set.map((t) => time[t]), found.set.map((t) => found.state.scores[t]), "set", "eidetic"),
  ], { xaxis: span(), yaxis: { title: { text: "e²/Re" }, rangemode: "tozero" }, shapes: [...shade(), { type: "line", xref: "paper", x0: 0, x1: 1,
    y0: data.limit, y1: data.limit, line: { color: colours.ink, width: 1.2, dash: "dash" } }] });
}

function drawSet(found, settings) {
  const x = [], heights = [], last = time[count - 1];
  for (const [j, from, to] of found.spans) {
    x.push(time[Math.min(from, count - 1)], time[Math.min(to, count - 1)], null);
    heights.push(time[j], time[j], null);
  }
  const edge = Math.max(0, count - 1 - settings.window);
  draw("set", [
    { type: "scatter", mode: "lines", x: [time[0], last, last, time[Math.min(settings.window, count - 1)]],
      y: [time[0], last, time[edge], time[0]], fill: "toself", fillcolor: colours.window, opacity: 0.45, line: { width: 1, color: colours.window }, hoverinfo: "skip" },
    line(x, heights, "kept", "eidetic", { line: { color: colours.eidetic, width: 1.7 }, hoverinfo: "y" }),
  ], { xaxis: span(), yaxis: { title: { text: "kept from" } }, hovermode: "closest" });
}

function drawAttention(found) {
  draw("attention", ["window", "fading", "eidetic"].map((name, i) => line(time, found.mass[i], name, name,
    { stackgroup: "one", fillcolor: colours[name], line: { width: 0 } })),
  { xaxis: { ...span(), title: { text: data.unit, font: { size: 12 } } }, yaxis: { range: [0, 1], title: { text: "share" } } });
}

function drawMemory(found, settings) {
  const held = new Float64Array(data.lags.length + 1), seen = new Float64Array(data.lags.length + 1);
  for (const [j, from, to] of found.spans)
    for (let age = from - j; age <= to - j && age < held.length; age++) if (j + age < count) held[age]++;
  for (let age = 1; age < seen.length; age++) seen[age] = Math.max(1, count - age);
  draw("memory", [
    line(data.lags, data.lags.map((k) => (k <= settings.window - 1 ? 1 : 0)), "window", "window", { line: { shape: "hv", color: colours.window, width: 1.5 } }),
    line(data.lags, found.state.memory, "state", "fading", { line: { color: colours.fading, width: 2.2 } }),
    line(data.lags, data.lags.map((k) => held[k] / seen[k]), "set", "eidetic"),
  ], { xaxis: { type: "log", title: { text: "age, steps" }, dtick: 1 }, yaxis: { range: [-0.02, 1.05] } });
}

function drawHankel(found) {
  draw("hankel", [{ type: "bar", x: found.state.hsv.map((_, i) => i + 1), y: found.state.hsv, name: "σ", marker: { color: colours.fading }, hoverinfo: "y+name" }],
    { xaxis: { title: { text: "number" }, dtick: found.state.order > 12 ? 4 : 1 }, yaxis: { type: "log", dtick: 1, exponentformat: "power",
      range: floor } });
}

function drawCurve(found, settings) {
  const own = budgets.map((m) => shareAt(settings, m, settings.rule));
  draw("curve", [
    line(budgets, budgets.map((m) => shareAt(settings, m, "fifo")), "the latest", "baseline"),
    line(budgets, own, "this rule", "eidetic", { line: { color: colours.eidetic, width: 2.2 } }),
    dots([settings.budget], [found.share], "now", "eidetic"),
  ], { xaxis: { title: { text: "places" } }, yaxis: { range: [0, 104], ticksuffix: " %" } });
}

function tell(id, text) { if (control(id).textContent !== text) control(id).textContent = text; }

function onScreen(id) {
  const { top, bottom } = control(id).getBoundingClientRect();
  return top < innerHeight && bottom > 0;
}

function update(whole = false) {
  const began = performance.now();
  const settings = { window: +sliders[0].value, budget: +sliders[1].value, fading: +sliders[2].value, rule: rule.value };
  const found = remember(settings), { state } = found;
  const wrong = response(state, found.lost, count, outputs), rebuilt = y.map((value, s) => value - wrong[s]);
  const mean = found.mass.map((part) => part.reduce((sum, x) => sum + x, 0) / count);
  const numbers = { kept: found.held, error: found.share, fit: fitOf(wrong), effective: state.effective,
    floats: 2 * state.order + found.held * (outputs + 1), mass: mean, set: found.set };
  const constant = state.constant === null ? "as identified" : `${state.constant} steps`;
  const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
  for (const [id, text] of [["window", plural(settings.window, "sample")], ["budget", plural(settings.budget, "place")], ["fading", constant]]) {
    tell(`${id}-shown`, text);
    control(id).setAttribute("aria-valuetext", text);
  }
  tell("kept", `${found.held} of ${count}`);
  tell("error", `${numbers.error.toFixed(1)} %`);
  tell("fit", `${numbers.fit.toFixed(1)} %`);
  tell("floats", `${numbers.floats}`);
  tell("effective", numbers.effective.toFixed(2));
  tell("slowest", state.slowest === null ? "endless" : `${state.slowest.toPrecision(3)}${data.unit.endsWith(", s") ? " s" : ""}`);
  tell("mass", mean.map((x) => `${(100 * x).toFixed(0)} %`).join(", "));
  const views = { signal: () => drawSignal(found, rebuilt, settings), innovations: () => drawInnovations(found),
    set: () => drawSet(found, settings), attention: () => drawAttention(found), memory: () => drawMemory(found, settings),
    hankel: () => { if (state !== drawn) drawHankel(found); drawn = state; }, curve: () => drawCurve(found, settings) };
  // What is on the screen answers at once; the rest, and the curve of all budgets, once the slider rests.
  const all = Object.keys(views), now = whole ? all : all.filter((id) => id !== "curve" && onScreen(id));
  const rest = all.filter((id) => !now.includes(id));
  clearTimeout(later);
  for (const id of now) views[id]();
  const number = window.explorer.updates + 1;
  later = setTimeout(() => {
    for (const id of rest) views[id]();
    window.explorer.complete = number;
  }, 80);
  const took = performance.now() - began, first = !window.explorer.updates;
  Object.assign(window.explorer, { updates: window.explorer.updates + 1, milliseconds: took, numbers,
    slowest: first ? 0 : Math.max(took, window.explorer.slowest) });
}

let waiting = false;
function soon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; update(); });
}

data.names.forEach((name, q) => output.add(new Option(name, q)));
control("which").hidden = outputs === 1;
const every = states.flatMap((state) => state.hsv).filter((x) => x > 0);
floor.push(Math.max(Math.log10(Math.min(...every)), Math.log10(Math.max(...every)) - 6) - 0.1, Math.log10(Math.max(...every)) + 0.1);
readColours();
for (const part of [...sliders, rule, output]) part.addEventListener("input", soon);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); drawn = null; update(true); });
update(true);

/* Views along time zoom together. */
const along = ["signal", "innovations", "set", "attention"];
let following = false;
for (const id of along)
  control(id).on("plotly_relayout", (change) => {
    if (following || !Object.keys(change).some((key) => key.startsWith("xaxis."))) return;
    following = true;
    const x = control(id).layout.xaxis.range.slice();
    Promise.all(along.filter((other) => other !== id).map((other) => Plotly.relayout(other, { "xaxis.range": x.slice() })))
      .finally(() => { following = false; });
  });
