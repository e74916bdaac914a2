const { count, outputs, time, y, states } = data;
const sliders = ["window", "budget", "fading"].map(control), rule = control("rule"), output = control("output");
const budgets = [0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128].filter((m) => m <= +control("budget").max);

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

const shade = () => (data.learned ? [{ type: "rect", xref: "x", yref: "paper", x0: time[0],
  x1: time[Math.min(data.learned, count) - 1], y0: 0, y1: 1, fillcolor: colours.rule, opacity: 0.35, line: { width: 0 }, layer: "below" }] : []);
const span = () => ({ range: [time[0], time[count - 1]] });

/* Seconds, in the largest unit of which there is more than one and a half. */
function duration(seconds) {
  const [word, length] = [["days", 86400], ["h", 3600], ["min", 60]].find(([, unit]) => seconds > 1.5 * unit) ?? ["s", 1];
  return `${+(seconds / length).toPrecision(3)} ${word}`;
}

function signalView(found, rebuilt, settings) {
  const q = settings.output, values = time.map((_, t) => y[t * outputs + q]);
  const inWindow = time.map((_, t) => t).filter((t) => t > count - settings.window);
  return { traces: [
    line(...thinned(time, values), "measured", "data", { line: { color: colours.data, width: 3.5 }, opacity: 0.35 }),
    line(...thinned(time, time.map((_, t) => rebuilt[t * outputs + q])), "rebuilt", "prediction"),
    dots(inWindow.map((t) => time[t]), inWindow.map((t) => values[t]), "window", "window"),
    dots(found.set.map((t) => time[t]), found.set.map((t) => values[t]), "set", "eidetic"),
  ], more: { xaxis: span(), yaxis: { title: { text: data.names[q] } }, shapes: shade() } };
}

/* From a state of zero the first samples may be news that dwarf the rest: then they run off the top. */
function surpriseAxis(scores) {
  const later = scores.slice(Math.min(20, Math.floor(count / 4))).reduce((most, s) => Math.max(most, s), data.limit);
  return scores.some((s) => s > 3 * later) ? { range: [0, 1.25 * later] } : { rangemode: "tozero" };
}

function innovationsView(found) {
  const { scores } = found.state;
  return { traces: [stems(time, scores, "surprise", "innovation"),
    dots(found.set.map((t) => time[t]), found.set.map((t) => scores[t]), "set", "eidetic")],
  more: { xaxis: span(), yaxis: { title: { text: "e²/Re" }, ...surpriseAxis(scores) }, shapes: [...shade(), limitLine(data.limit)] } };
}

function hankelView(found) {
  return { traces: [bars(found.state.hsv.map((_, i) => i + 1), found.state.hsv, "σ", "fading")],
    more: { xaxis: { title: { text: "number" }, dtick: found.state.order > 12 ? 4 : 1 },
      yaxis: { type: "log", dtick: 1, exponentformat: "power", range: floor } } };
}

function curveView(found, settings) {
  return { traces: [
    line(budgets, budgets.map((m) => shareAt(settings, m, "fifo")), "the latest", "baseline"),
    line(budgets, budgets.map((m) => shareAt(settings, m, settings.rule)), "this rule", "eidetic",
      { line: { color: colours.eidetic, width: 2.2 } }),
    dots([settings.budget], [found.share], "now", "eidetic"),
  ], more: { xaxis: { title: { text: "places" } }, yaxis: { range: [0, 104], ticksuffix: " %" } } };
}

function viewsOf(found, settings) {
  const wrong = response(found.state, found.lost, count, outputs), rebuilt = y.map((value, s) => value - wrong[s]);
  const { output: shownOutput, ...memories } = settings, of = JSON.stringify(memories);
  return { wrong, views: {
    signal: { of: of + shownOutput, draw: () => signalView(found, rebuilt, settings) },
    innovations: { of, draw: () => innovationsView(found) },
    set: { of, draw: () => ({ traces: setTraces(time, found.spans, settings.window),
      more: { xaxis: span(), yaxis: { title: { text: "kept from" } }, hovermode: "closest" } }) },
    attention: { of, draw: () => ({ traces: stacked(time, found.mass),
      more: { xaxis: { ...span(), title: { text: data.unit, font: { size: 12 } } }, yaxis: { range: [0, 1], title: { text: "share" } } } }) },
    memory: { of, draw: () => ({ traces: memoryTraces(data.lags, settings.window, found.state.memory, found.spans, count),
      more: { xaxis: { type: "log", title: { text: "age, steps" }, dtick: 1 }, yaxis: { range: [-0.02, 1.05] } } }) },
    hankel: { of: `${settings.fading}`, draw: () => hankelView(found) },
    curve: { of, slow: true, draw: () => curveView(found, settings) },
  } };
}

function update(whole) {
  const settings = { window: +sliders[0].value, budget: +sliders[1].value, fading: +sliders[2].value, rule: rule.value,
    output: +output.value || 0 };
  const found = remember(settings), { state } = found, { wrong, views } = viewsOf(found, settings);
  const mean = found.mass.map((part) => part.reduce((sum, x) => sum + x, 0) / count);
  const numbers = { kept: found.held, error: found.share, fit: fitOf(wrong), effective: state.effective,
    floats: 2 * state.order + found.held * (outputs + 1), mass: mean, set: found.set };
  const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
  tellSlider("window", plural(settings.window, "sample"));
  tellSlider("budget", plural(settings.budget, "place"));
  tellSlider("fading", state.constant === null ? "as identified" : `${state.constant} steps`);
  tell("kept", `${found.held} of ${count}`);
  tell("error", `${numbers.error.toFixed(1)} %`);
  tell("fit", `${numbers.fit.toFixed(1)} %`);
  tell("floats", `${numbers.floats}`);
  tell("effective", numbers.effective.toFixed(2));
  tell("slowest", state.slowest === null ? "endless" : data.unit.endsWith(", s") ? duration(state.slowest) : `${+state.slowest.toPrecision(3)}`);
  tell("mass", mean.map((x) => `${(100 * x).toFixed(0)} %`).join(", "));
  show(views, whole);
  return numbers;
}

data.names.forEach((name, q) => output.add(new Option(name, q)));
control("which").hidden = outputs === 1;
const every = states.flatMap((state) => state.hsv).filter((x) => x > 0), highest = Math.log10(Math.max(...every));
const floor = [Math.max(Math.log10(Math.min(...every)), highest - 6) - 0.1, highest + 0.1];
whenMoved([...sliders, rule, output], update);
zoomTogether(["signal", "innovations", "set", "attention"]);
