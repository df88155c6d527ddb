/* Selectors, as ekd/selector/{topk,bucket}.py with scope=sequence; unmatched rows are in no percentile. */

const known = t => [...t.valid.keys()].filter(i => t.valid[i]);

const picked = () => document.querySelector("[name=kind]:checked").value;

function choose(t, kind = picked()) {
  const rows = known(t);
  if (kind === "vanilla" || !rows.length) return new Set(rows);
  if (kind === "topk") return new Set(topk(rows, Array.from(rows, i => t.entropy[i]), +$("percent").value));
  if (kind === "random") return new Set(topk(rows, rows.map(chance(t.about.key)), +$("percent").value));
  return new Set(bucket(rows, Array.from(rows, i => t.entropy[i]), +$("lower").value, +$("upper").value));
}

function topk(rows, score, percent) {
  const order = [...rows.keys()].sort((a, b) => score[b] - score[a]);  // stable: ties go to the earliest position
  const share = Math.max(1, Math.ceil(percent * rows.length / 100 - 1e-9));
  return order.slice(0, share).map(i => rows[i]);
}

function bucket(rows, score, lower, upper) {
  const ascending = [...score].sort((a, b) => a - b), low = quantile(ascending, lower), high = quantile(ascending, upper);
  const inside = rows.filter((_, i) => low <= score[i] && score[i] <= high);
  if (inside.length) return inside;
  const middle = (low + high) / 2, far = score.map(s => Math.abs(s - middle)), closest = Math.min(...far);
  const near = (f, i) => f <= closest * (1 + 1e-9) + 1e-12 * (Math.abs(score[i]) + Math.abs(middle));  // a tie is one
  return [rows[far.findIndex(near)]];
}

function quantile(ascending, percent) {
  const place = percent * (ascending.length - 1) / 100, floor = Math.floor(place);
  return ascending[floor] + (ascending[Math.ceil(place)] - ascending[floor]) * (place - floor);
}

/** Numbers in [0, 1), the same whenever a trace is looked at again until another draw is asked for (mulberry32). */
function chance(key) {
  let state = parseInt(key.slice(0, 8), 16) + draw * 0x9e3779b9 | 0;
  return () => {
    state = state + 0x6d2b79f5 | 0;
    let x = Math.imul(state ^ state >>> 15, 1 | state);
    x = x + Math.imul(x ^ x >>> 7, 61 | x) ^ x;
    return ((x ^ x >>> 14) >>> 0) / 4294967296;
  };
}

/** Whether a token is of the kind that is looked at. */
const ofKind = at => $("token-kind").value === "" || head.kinds[spelt[at].kind] === $("token-kind").value;

/** Underlines what the selector would choose now, dims the rest, and says how many. */
function select() {
  const kind = picked(), percent = +$("percent").value;
  $("percents").hidden = kind !== "topk" && kind !== "random";
  $("again").hidden = kind !== "random";
  $("bands").hidden = kind !== "bucket";
  $("percent-out").textContent = `${percent} %`;
  $("band-out").textContent = `${$("lower").value} to ${$("upper").value}`;
  $("dual").style.setProperty("--from", $("lower").value / 100);
  $("dual").style.setProperty("--to", $("upper").value / 100);
  const words = { topk: ` selector.k_percent=${percent}`, random: ` selector.k_percent=${percent}`,
    bucket: ` selector.lower=${$("lower").value} selector.upper=${$("upper").value}`, vanilla: "" };
  $("command").textContent = `python -m ekd.train selector=${kind}${words[kind]}`;
  $("note").textContent = kind === "random" ? "A draw like the selector’s, not the same draw: it draws anew at each step." : "";
  if (!trace) return;
  trace.chosen = choose(trace);
  for (const [i, node] of trace.nodes.entries()) {
    const chosen = trace.chosen.has(i);
    node.classList.toggle("dim", kind !== "vanilla" && !chosen || !ofKind(trace.token[trace.begin[i]]));
    if (node.classList.contains("chosen") === chosen) continue;
    node.classList.toggle("chosen", chosen);
    node.setAttribute("aria-selected", chosen);
  }
  const all = known(trace), unmatched = trace.n - all.length, of = all.filter(i => ofKind(trace.token[trace.begin[i]]));
  const share = (some, whole) => `${count(some)} of ${count(whole)}`;
  $("outcome").textContent = `${share(trace.chosen.size, all.length)} tokens (${all.length ? (100 * trace.chosen.size / all.length).toFixed(1) : 0}%)`
    + ($("token-kind").value ? `, of ${$("token-kind").value} ${share(of.filter(i => trace.chosen.has(i)).length, of.length)}` : "")
    + (unmatched ? `, ${count(unmatched)} unmatched` : "");
  if (lit !== null) show(lit);
}
