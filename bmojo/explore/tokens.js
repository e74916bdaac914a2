const { tokens, labels, answers, layers, budgets, windows, constants, rules, limits, trained, pool } = data;
const count = tokens.length, time = tokens.map((_, t) => t), lags = Array.from({ length: Math.min(100, count - 1) }, (_, i) => i + 1);
const sliders = ["position", "layer", "budget", "window", "fading"].map(control);
const choices = ["rule", "head", "colour"].map(control), [rule, head, colour] = choices;
const strip = control("strip"), spans = [], marks = { window: [], eidetic: [], now: [] }, cursors = [];
const STEPS = 2000, NONE = 65535; // of a nat; where nothing was to be told
const WORDS = { top: "top: the most surprising", threshold: "threshold: beyond the χ² line", norm: "norm: the longest",
  fifo: "fifo: the latest", random: "random: any" };
const known = new Map();

/* An array of the pool, of that kind. */
function array(Kind, id) {
  if (!known.has(id)) known.set(id, new Kind(Uint8Array.from(atob(pool[id]), (c) => c.charCodeAt(0)).buffer));
  return known.get(id);
}

const runAt = (at) => data.runs[((at.budget * windows.length + at.window) * constants.length + at.fading) * rules.length + at.rule];
const asTrained = { budget: trained[0], window: trained[1], fading: trained[2], rule: trained[3] };
const losses = (run) => Array.from(array(Uint16Array, run[0]), (x) => (x === NONE ? null : x / STEPS));
const mean = (values) => {
  const there = values.filter((x) => x !== null);
  return there.reduce((sum, x) => sum + x, 0) / Math.max(1, there.length);
};

/* Attention of a layer to window, fading tokens and set at each token; of one head, or (-1) in the mean. */
function massOf(run, layer, which) {
  const kept = array(Uint8Array, run[3][layer]), heads = data.heads[layer];
  const of = which < 0 || which >= heads ? [...Array(heads).keys()] : [which];
  const mass = [new Float64Array(count), new Float64Array(count), new Float64Array(count)];
  for (const h of of)
    for (let t = 0; t < count; t++) {
      const near = kept[2 * (h * count + t)] / 255, set = kept[2 * (h * count + t) + 1] / 255;
      mass[0][t] += near / of.length;
      mass[2][t] += set / of.length;
      mass[1][t] += (data.reach[layer] ? Math.max(0, 1 - near - set) : 0) / of.length;
    }
  return mass;
}

function staysOf(run, layer) {
  const flat = array(Uint16Array, run[4][layer]), found = [];
  for (let i = 0; i < flat.length; i += 3) found.push([flat[i], flat[i + 1], flat[i + 2]]);
  return found;
}

function stateMemory(settings) {
  const state = data.states[settings.fading][settings.layer];
  if (!state) return null;
  const heads = data.heads[settings.layer];
  const own = settings.head >= 0 && settings.head < heads && state.memory.length === heads ? [settings.head] : state.memory.map((_, g) => g);
  const slowest = own.map((g) => state.slowest[g]);
  return { memory: lags.map((_, k) => own.reduce((sum, g) => sum + state.memory[g][k], 0) / own.length),
    slowest: slowest.includes(null) ? Infinity : Math.max(...slowest) };
}

/* Everything that the page shows, from its settings. */
function recall(settings) {
  const run = runAt(settings), { layer, position } = settings, stays = staysOf(run, layer);
  const width = data.reach[layer] && windows.length > 1 ? windows[settings.window] : data.reach[layer];
  const loss = losses(run), guess = array(Uint32Array, run[1]), scores = array(Float32Array, run[2][layer]);
  const set = stays.filter(([, from, to]) => from <= position && position < to).map(([j]) => j).sort((a, b) => a - b);
  return { run, loss, guess, scores, stays, set, width, mass: massOf(run, layer, settings.head), state: stateMemory(settings) };
}

const along = () => ({ range: [-0.5, count - 0.5] });

function headsView(settings) {
  const run = runAt(settings), x = [], parts = [[], [], []], ticks = [];
  for (let layer = 0; layer < layers; layer++)
    for (let h = 0; h < data.heads[layer]; h++) {
      x.push(x.length + 1 + layer);
      ticks.push(h ? `${h + 1}` : `${layer + 1}.1`);
      massOf(run, layer, h).forEach((values, i) => parts[i].push(values.reduce((sum, v) => sum + v, 0) / count));
    }
  return { traces: ["window", "fading", "eidetic"].map((name, i) => bars(x, parts[i], name, name)),
    more: { xaxis: { title: { text: "layer.head" }, tickvals: x, ticktext: ticks, range: [0.3, x[x.length - 1] + 0.7] }, yaxis: { range: [0, 1] } } };
}

function curveView(settings) {
  const at = (budget, name) => mean(losses(runAt({ ...settings, budget, rule: name })));
  const latest = rules.indexOf("fifo"), own = budgets.map((_, i) => at(i, settings.rule));
  const traces = latest < 0 ? [] : [line(budgets, budgets.map((_, i) => at(i, latest)), "the latest", "baseline")];
  traces.push(line(budgets, own, "this rule", "eidetic", { line: { color: colours.eidetic, width: 2.2 } }),
    dots([budgets[settings.budget]], [own[settings.budget]], "now", "eidetic"));
  return { traces, more: { xaxis: { title: { text: "places" } }, yaxis: { title: { text: "nats" } } } };
}

function viewsOf(found, settings) {
  const { budget, window, fading, rule: name, layer } = settings, of = [budget, window, fading, name].join(), own = `${of} ${layer}`;
  const limit = limits[layer];
  return {
    loss: { of, draw: () => ({ traces: [
      line(time, losses(runAt(asTrained)), "as trained", "baseline", { mode: lossMode, line: { color: colours.baseline, width: 3 }, opacity: 0.45 }),
      line(time, found.loss, "loss", "prediction", { mode: lossMode })],
    more: { xaxis: along(), yaxis: { title: { text: "nats" }, rangemode: "tozero" } } }) },
    innovations: { of: own, draw: () => ({ traces: [stems(time, found.scores, "surprise", "innovation")],
      more: { xaxis: along(), yaxis: { title: { text: "Σ e²/r" }, rangemode: "tozero" }, shapes: limit === null ? [] : [limitLine(limit)] } }) },
    set: { of: own, draw: () => ({ traces: setTraces(time, found.stays, found.width),
      more: { xaxis: along(), yaxis: { title: { text: "kept from" }, range: [0, count] }, hovermode: "closest" } }) },
    attention: { of: `${own} ${settings.head}`, draw: () => ({ traces: stacked(time, found.mass),
      more: { xaxis: { ...along(), title: { text: "token", font: { size: 12 } } }, yaxis: { range: [0, 1], title: { text: "share" } } } }) },
    heads: { of, draw: () => headsView(settings) },
    memory: { of: `${own} ${settings.head}`, draw: () => ({ traces: memoryTraces(lags, found.width, found.state ? found.state.memory : lags.map(() => null), found.stays, count),
      more: { xaxis: { type: "log", title: { text: "age, tokens" }, dtick: 1 }, yaxis: { range: [-0.02, 1.05] } } }) },
    curve: { of, draw: () => curveView(settings) },
  };
}

/* Tokens as text; how dark each is, is its rank among all, cubed. */
function colourStrip(values) {
  const ranked = Float64Array.from(values, (x) => x ?? 0).sort(), rank = new Map();
  ranked.forEach((x, i) => { if (!rank.has(x)) rank.set(x, i / (count - 1)); });
  spans.forEach((part, t) => part.style.setProperty("--s", `${(60 * rank.get(values[t] ?? 0) ** 3).toFixed(0)}%`));
}

function mark(name, positions) {
  for (const t of marks[name]) spans[t].classList.remove(name);
  for (const t of positions) spans[t].classList.add(name);
  marks[name] = positions;
}

let coloured = "";
function showStrip(found, settings) {
  const { position } = settings, key = colour.value === "loss" ? `loss ${found.run[0]}` : `${found.run[2][settings.layer]}`;
  if (coloured !== key) colourStrip(colour.value === "loss" ? found.loss : Array.from(found.scores));
  coloured = key;
  mark("window", time.slice(Math.max(0, position - found.width + 1), position + 1));
  mark("eidetic", found.set);
  mark("now", [position]);
  const { offsetTop: top, offsetHeight: tall } = spans[position];
  if (top < strip.scrollTop || top + tall > strip.scrollTop + strip.clientHeight) strip.scrollTop = top - strip.clientHeight / 2;
}

/* Where the position is in the charts along time: a line of its own, for which nothing is drawn anew. */
function showCursors(position) {
  for (const [chart, cursor] of cursors) {
    const { _size: area, xaxis } = chart._fullLayout, x = axisTo(xaxis)(position);
    cursor.hidden = x < 0 || x > area.w;
    cursor.style.cssText = `transform:translateX(${area.l + x}px);top:${area.t}px;height:${area.h}px`;
  }
}

const written = (token) => (data.text ? `“${name(token)}”` : `${token}`);
const name = (token) => (token > 32 && token < 127 ? String.fromCharCode(token) : token === 32 ? " " : token === 10 ? "↵" : `byte ${token}`);
const percent = (shares) => shares.map((x) => `${(100 * x).toFixed(0)} %`).join(", ");

function tellHere(found, settings, massHere) {
  const { position: t } = settings, limit = limits[settings.layer], parts = [`Token ${t}: ${written(tokens[t])}`];
  if (answers[t] >= 0) {
    const right = found.guess[t] === answers[t];
    parts.push(data.ahead ? (right ? "foretold" : `${written(found.guess[t])} was likelier`)
      : `${written(answers[t])} is the answer, ${right ? "and is told" : `${written(found.guess[t])} is told`}`);
    parts.push(`loss ${found.loss[t].toFixed(2)} nats`);
  }
  if (limit !== null) parts.push(`innovation ${found.scores[t].toFixed(0)} (line ${limit.toFixed(0)})`);
  tell("here", `${parts.join("; ")}.`);
  tell("mass-here", percent(massHere));
}

function update(whole) {
  const [position, layer, budget, window, fading] = sliders.map((part) => +part.value);
  const settings = { position, layer: layer - 1, budget, window, fading, rule: rules.indexOf(rule.value), head: +head.value };
  const found = recall(settings), limit = limits[settings.layer];
  const told = (value, unit, own) => (own ? `${value}, as trained` : `${value} ${unit}`);
  tellSlider("position", `${position} of ${count - 1}`);
  tellSlider("layer", `${layer} of ${layers}`);
  tellSlider("budget", told(budgets[budget], "places", budget === asTrained.budget));
  tellSlider("window", told(windows[window], "tokens", window === asTrained.window));
  tellSlider("fading", constants[fading] === null ? "as trained" : `${constants[fading]} tokens`);
  const asked = answers.filter((a) => a >= 0).length, right = answers.filter((a, t) => a >= 0 && found.guess[t] === a).length;
  const massMean = found.mass.map((part) => part.reduce((sum, x) => sum + x, 0) / count), massHere = found.mass.map((part) => part[position]);
  const beyond = limit === null ? null : found.scores.reduce((sum, s) => sum + (s > limit), 0) / count;
  const numbers = { loss: mean(found.loss), right, asked, set: found.set, beyond, mass: massMean, massHere,
    slowest: found.state?.slowest ?? null };
  tell("loss-mean", numbers.loss.toFixed(3));
  tell("loss-trained", mean(losses(runAt(asTrained))).toFixed(3));
  tell("right", `${right} of ${asked}`);
  tell("kept", limit === null ? "no set" : `${found.set.length} of ${budgets[budget]}`);
  tell("beyond", beyond === null ? "no set" : `${(100 * beyond).toFixed(1)} %`);
  tell("slowest", !found.state ? "no state" : found.state.slowest === Infinity ? "endless" : found.state.slowest.toPrecision(3));
  tell("mass", percent(massMean));
  tellHere(found, settings, massHere);
  showStrip(found, settings);
  show(viewsOf(found, settings), whole);
  showCursors(position);
  return numbers;
}

/* Answers that are due here and there are dots, a loss at every token is a line. */
const lossMode = data.ahead ? "lines" : "markers";
labels.forEach((label, t) => {
  const part = document.createElement("span");
  part.textContent = label;
  part.dataset.t = t;
  spans.push(part);
  strip.append(part, data.text ? (tokens[t] === 10 ? "\n" : "") : " ");
});
strip.classList.toggle("numbers", !data.text);
rules.forEach((key) => rule.add(new Option(WORDS[key], key)));
const heads = Math.max(...data.heads);
head.add(new Option("all, in the mean", -1));
for (let h = 0; h < heads; h++) head.add(new Option(`${h + 1}`, h));
[sliders[2].value, sliders[3].value, sliders[4].value, rule.value] = [...trained.slice(0, 3), rules[trained[3]]];
for (const [part, of] of [["layer", layers], ["budget", budgets.length], ["window", windows.length], ["fading", constants.length], ["rule", rules.length], ["head", heads]])
  control(part).parentElement.hidden = of < 2;

function goTo(position) {
  sliders[0].value = position;
  sliders[0].dispatchEvent(new Event("input", { bubbles: true }));
}
strip.addEventListener("click", (event) => { if (event.target.dataset.t) goTo(event.target.dataset.t); });
strip.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1, Home: -count, End: count }[event.key];
  if (!step) return;
  event.preventDefault();
  goTo(+sliders[0].value + step);
});
whenMoved([...sliders, ...choices], update);
const alongTime = ["loss", "innovations", "set", "attention"];
for (const id of alongTime) {
  const cursor = document.createElement("i");
  cursor.className = "cursor";
  control(id).append(cursor);
  cursors.push([control(id), cursor]);
  control(id).on("plotly_click", ({ points }) => goTo(Math.round(points[0].x)));
  control(id).on("plotly_afterplot", () => showCursors(+sliders[0].value));
}
showCursors(+sliders[0].value);
zoomTogether(alongTime);
