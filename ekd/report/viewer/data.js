"use strict";
const $ = id => document.getElementById(id);
const FORM = { TEXT: 0, BYTES: 1, SPECIAL: 2, UNKNOWN: 3 };
const STEPS = 2048, LEAST = 65535, HEIGHT = 78;  // as in ekd/report/viewer/page.py; CSS pixels of a line of the list
let head, spelt, shown = [], current = -1, trace = null, draw = 1, lit = null, closing = 0;

async function unpack(id) {
  const bytes = Uint8Array.from(atob($(id).textContent), c => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** The arrays of ekd.report.viewer.page.pack_trace. */
function read(buffer, about) {
  let at = 0;
  const take = (Kind, count) => { const a = new Kind(buffer, at, count); at += a.byteLength; return a; };
  const n = about.rows, real = () => take(Float32Array, n), student = Boolean(head.about.student);
  const t = { about, n, entropy: real(), logprob: real(), logTail: real(), hidden: real() };
  if (!about.exact) Object.assign(t, { least: real(), most: real() });
  if (student) Object.assign(t, { sEntropy: real(), kl: real(), sLogRest: real() });
  if (about.contrast) { t.contrast = real(); t.gap = t.contrast.map((p, i) => t.logprob[i] - p); }
  if (about.said) { t.logQ = real(); t.own = t.logQ.map((q, i) => q - t.logprob[i]); }
  t.named = take(Uint32Array, n);
  if (student) t.sFirst = take(Uint32Array, n);
  t.kept = take(Uint16Array, n);
  t.begin = new Uint32Array(n + 1);
  for (let i = 0; i < n; i++) t.begin[i + 1] = t.begin[i] + t.kept[i];
  const k = t.begin[n], low = take(Uint16Array, k), high = take(Uint16Array, k);
  t.token = Uint32Array.from(low, (x, i) => x + 65536 * high[i]);
  t.code = take(Uint16Array, k);
  if (student) t.sCode = take(Uint16Array, k);
  t.valid = take(Uint8Array, n);
  return t;
}

const mass = code => code === LEAST ? 0 : Math.exp(-code / STEPS);

/** The text of each token: a character that the tokenizer cut comes whole, with its last token. Joined: the response. */
function pieces(t) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true }), out = [];
  let cut = false, last = -1;
  for (let i = 0; i < t.n; i++) {
    const word = spelt[t.token[t.begin[i]]];
    if (word.form === FORM.SPECIAL || word.form === FORM.UNKNOWN) { out.push(""); continue; }
    last = i;
    if (word.form === FORM.TEXT && !cut) { out.push(word.name); continue; }
    cut = word.form === FORM.BYTES;
    out.push(decoder.decode(word.form === FORM.TEXT ? new TextEncoder().encode(word.name) : hex(word.name), { stream: true }));
  }
  if (cut) out[last] += decoder.decode();
  return out;
}

const hex = digits => Uint8Array.from(digits.match(/../g) ?? [], pair => parseInt(pair, 16));

/** Where a row stands among the valid rows of its sequence, 0 to 100; equal entropies share the middle of their places. */
function percentiles(t) {
  const rows = known(t).sort((a, b) => t.entropy[a] - t.entropy[b]), place = new Float64Array(t.n).fill(NaN);
  for (let from = 0; from < rows.length;) {
    let to = from;
    while (to + 1 < rows.length && t.entropy[rows[to + 1]] === t.entropy[rows[from]]) to++;
    for (let i = from; i <= to; i++) place[rows[i]] = rows.length > 1 ? 50 * (from + to) / (rows.length - 1) : 100;
    from = to + 1;
  }
  return place;
}
