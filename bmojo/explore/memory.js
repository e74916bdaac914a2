"use strict";

/* The set at every step: a sample is eligible once it has left the window, the largest ranks keep a place, ties
   to the older. `each(t, set)` sees it before step t; the spans say from when to when each sample was in it. */
function eideticSet(ranks, budget, window, each) {
  const count = ranks.length, set = [], entered = new Map(), spans = [];
  for (let t = 0; t <= count; t++) {
    const j = t - window;
    if (j >= 0 && budget > 0 && ranks[j] > -Infinity) {
      if (set.length < budget) {
        set.push(j);
        entered.set(j, t);
      } else {
        let least = 0;
        for (let i = 1; i < budget; i++) if (ranks[set[i]] <= ranks[set[least]]) least = i;
        if (ranks[j] > ranks[set[least]]) {
          spans.push([set[least], entered.get(set[least]), t]);
          set.splice(least, 1);
          set.push(j);
          entered.set(j, t);
        }
      }
    }
    if (each && t < count) each(t, set);
  }
  for (const j of set) spans.push([j, entered.get(j), count]);
  return { set: set.slice().sort((a, b) => a - b), spans };
}

/* A^(T-1-t) K for every t, row by row: reach[i][t * p + q]. */
function reachOf(state, count, outputs) {
  const n = state.order, p = outputs;
  const reach = Array.from({ length: n }, () => new Float64Array(count * p));
  let block = Float64Array.from(state.K);
  for (let t = count - 1; t >= 0; t--) {
    for (let i = 0; i < n; i++) for (let q = 0; q < p; q++) reach[i][t * p + q] = block[i * p + q];
    const next = new Float64Array(n * p);
    for (let i = 0; i < n; i++)
      for (let k = 0; k < n; k++)
        for (let q = 0; q < p; q++) next[i * p + q] += state.A[i * n + k] * block[k * p + q];
    block = next;
  }
  return reach;
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/* An orthonormal basis of the rows' span, singular values below 1e-13 of the largest left out. */
function basisOf(rows) {
  const size = rows.map((row) => Math.sqrt(dot(row, row)));
  const vectors = rows.filter((_, i) => size[i] > 0).map((row) => {
    const length = Math.sqrt(dot(row, row));
    return row.map((x) => x / length);
  });
  const n = vectors.length, Q = [];
  const columns = Array.from({ length: n }, () => new Float64Array(n)); // of R
  for (let k = 0; k < n; k++) {
    const v = Float64Array.from(vectors[k]);
    for (let pass = 0; pass < 2; pass++)
      for (let i = 0; i < k; i++) {
        const along = dot(Q[i], v);
        columns[k][i] += along;
        for (let s = 0; s < v.length; s++) v[s] -= along * Q[i][s];
      }
    const left = Math.sqrt(dot(v, v));
    columns[k][k] = left;
    Q.push(left > 0 ? v.map((x) => x / left) : v);
  }
  for (let sweep = 0, turned = true; turned && sweep < 40; sweep++) { // one-sided Jacobi
    turned = false;
    for (let i = 0; i < n; i++)
      for (let k = i + 1; k < n; k++) {
        const a = dot(columns[i], columns[i]), b = dot(columns[k], columns[k]), c = dot(columns[i], columns[k]);
        if (Math.abs(c) <= 1e-15 * Math.sqrt(a * b)) continue;
        turned = true;
        const zeta = (b - a) / (2 * c);
        const tangent = Math.sign(zeta || 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
        const cosine = 1 / Math.hypot(1, tangent), sine = cosine * tangent;
        for (let s = 0; s < n; s++) {
          const x = columns[i][s], y = columns[k][s];
          columns[i][s] = cosine * x - sine * y;
          columns[k][s] = sine * x + cosine * y;
        }
      }
  }
  const singular = columns.map((column) => Math.sqrt(dot(column, column)));
  const largest = Math.max(...singular, 0);
  return columns.filter((_, i) => singular[i] > 1e-13 * largest).map((column) => {
    const length = Math.sqrt(dot(column, column));
    const direction = new Float64Array(Q[0].length);
    for (let i = 0; i < n; i++)
      for (let s = 0; s < direction.length; s++) direction[s] += (column[i] / length) * Q[i][s];
    return direction;
  });
}

/* What window, set and both end states do not tell of the white innovations: shape (T * p). */
function forgotten(state, kept, count, outputs) {
  const p = outputs, missing = [];
  for (let t = 0; t < count; t++) if (!kept[t]) for (let q = 0; q < p; q++) missing.push(t * p + q);
  state.reach ??= reachOf(state, count, p);
  const lost = new Float64Array(count * p);
  if (!missing.length) return lost;
  const white = Float64Array.from(missing, (s) => state.white[s]);
  const rows = state.reach.map((row) => Float64Array.from(missing, (s) => row[s]));
  const rest = Float64Array.from(white);
  for (const direction of state.order ? basisOf(rows) : []) {
    const along = dot(direction, white);
    for (let s = 0; s < rest.length; s++) rest[s] -= along * direction[s];
  }
  missing.forEach((s, i) => { lost[s] = rest[i]; });
  return lost;
}

/* The response of the outputs to innovations that are wrong. */
function response(state, white, count, outputs) {
  const n = state.order, p = outputs, y = new Float64Array(count * p);
  let x = new Float64Array(n);
  for (let t = 0; t < count; t++) {
    const next = new Float64Array(n);
    for (let q = 0; q < p; q++) {
      for (let i = 0; i < n; i++) y[t * p + q] += state.C[q * n + i] * x[i];
      for (let r = 0; r < p; r++) y[t * p + q] += state.root[q * p + r] * white[t * p + r];
    }
    for (let i = 0; i < n; i++) {
      for (let k = 0; k < n; k++) next[i] += state.A[i * n + k] * x[k];
      for (let q = 0; q < p; q++) next[i] += state.K[i * p + q] * white[t * p + q];
    }
    x = next;
  }
  return y;
}

/* Which samples are held after the last one: the window's, and the set's. */
function heldAtEnd(set, window, count) {
  const kept = new Uint8Array(count);
  for (const j of set) kept[j] = 1;
  for (let t = Math.max(0, count - window + 1); t < count; t++) kept[t] = 1;
  return kept;
}

/* Attention of query t to window, fading tokens and set, under one softmax. */
function attentionAt(t, set, window, z, predicted, outputs) {
  const p = outputs, logits = [[], [], []];
  const product = (other, j) => {
    let sum = 0;
    for (let q = 0; q < p; q++) sum += z[t * p + q] * other[j * p + q];
    return sum;
  };
  for (let j = Math.max(0, t - window + 1); j <= t; j++) logits[0].push(product(z, j));
  for (let j = Math.max(0, t - 2 * window + 1); j <= t - window; j++) logits[1].push(product(predicted, j));
  for (const j of set) logits[2].push(product(z, j));
  let largest = -Infinity;
  for (const part of logits) for (const x of part) if (x > largest) largest = x;
  const mass = logits.map((part) => part.reduce((sum, x) => sum + Math.exp(x - largest), 0));
  const whole = mass[0] + mass[1] + mass[2];
  return mass.map((x) => x / whole);
}

/* Of each age 1, 2, ... the share of times at which one of that age was in the set. */
function setMemory(spans, lags, count) {
  const held = new Float64Array(lags + 1);
  for (const [j, from, to] of spans)
    for (let age = from - j; age <= to - j && age < held.length; age++) if (j + age < count) held[age]++;
  return Array.from({ length: lags }, (_, i) => held[i + 1] / Math.max(1, count - i - 1));
}
