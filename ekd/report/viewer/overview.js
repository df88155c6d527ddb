/* All solutions of the list at once: which tokens are chosen, how often, and where a number is highest. */

const FORKS = 100, WORST = 100, AROUND = 6;  // rows of the two tables; tokens of context on each side
const columns = [];  // of each trace what an overview needs; filled by the first one
let only = null, forkOrder = "chosen", asked = 0;

const overviewOn = () => document.querySelector("[name=view]:checked").value === "overview";
const firstTokens = t => Uint32Array.from({ length: t.n }, (_, i) => t.token[t.begin[i]]);

async function columnsOf(index) {
  if (columns[index]) return columns[index];
  const t = read(await unpack(`trace${index}`), head.traces[index]);
  const kept = { about: t.about, index, n: t.n, valid: t.valid, token: firstTokens(t) };
  for (const [name] of head.about.shades) if (t[name]) kept[name] = Float32Array.from(t[name]);
  return columns[index] = kept;
}

/** Shows the overview of the list as it is now, or the solution. */
async function survey() {
  document.body.classList.toggle("overview", overviewOn());
  $("overview").hidden = !overviewOn();
  document.querySelector("article").hidden = overviewOn();
  remember();
  if (!overviewOn()) return;
  close();
  const mine = ++asked, some = [];
  for (const [at, index] of shown.entries()) {
    if (!columns[index] && at % 50 === 0) $("survey").textContent = `Reading ${count(at)} of ${count(shown.length)} …`;
    some.push(await columnsOf(index));
    if (mine !== asked) return;  // something else was asked for meanwhile
  }
  $("survey").textContent = `Over the ${count(some.length)} ${some.length === 1 ? "solution" : "solutions"} of the list${$("token-kind").value ? `, ${$("token-kind").value} only` : ""}.`;
  forks(some);
  worst(some);
}

/* ---- forks ---- */

/** By token: how often it is chosen, how often it stands anywhere, and the entropy where it is chosen. */
function counted(some, kind) {
  const found = new Map();
  for (const t of some) {
    const chosen = choose(t, kind);
    for (const i of known(t)) {
      const at = t.token[i];
      if (!ofKind(at)) continue;
      const one = found.get(at) ?? found.set(at, { at, chosen: 0, of: 0, nats: 0 }).get(at);
      one.of++;
      if (chosen.has(i)) { one.chosen++; one.nats += t.entropy[i]; }
    }
  }
  return [...found.values()].filter(one => one.chosen);
}

const FORK_VALUES = { chosen: one => one.chosen, share: one => one.chosen / one.of, nats: one => one.nats / one.chosen };

function forks(some) {
  const kind = picked() === "vanilla" ? "topk" : picked(), value = FORK_VALUES[forkOrder];
  const words = { topk: `the ${$("percent").value}% of each solution with the highest teacher entropy`, random: `a random ${$("percent").value}% of each solution`,
    bucket: `percentiles ${$("lower").value} to ${$("upper").value} of teacher entropy` };
  $("forks-title").textContent = `${kind === "random" ? "Chosen by chance" : "Forks"}: ${words[kind]}`;
  $("forks-note").textContent = picked() === "vanilla" ? "vanilla chooses every token; this is what topk would choose." : "";
  const found = counted(some, kind), all = found.reduce((sum, one) => sum + one.chosen, 0);
  const rows = found.sort((a, b) => value(b) - value(a) || b.chosen - a.chosen).slice(0, FORKS);
  const heads = [["chosen", "chosen"], ["", "of"], ["share", "share"], ["nats", "entropy"]];
  $("forks").replaceChildren(
    make("caption", {}, `${count(all)} chosen, ${count(found.length)} different tokens${found.length > rows.length ? `; the first ${FORKS}` : ""}`),
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "token"), make("th", { scope: "col" }, "kind"), ...heads.map(forkHead))),
    make("tbody", {}, ...rows.map(forkRow)));
}

function forkHead([order, words]) {
  if (!order) return make("th", { scope: "col" }, words);
  const button = make("button", { type: "button" }, words);
  button.addEventListener("click", () => { forkOrder = order; survey(); });
  return make("th", { scope: "col", ...(order === forkOrder ? { "aria-sort": "descending" } : {}) }, button);
}

function forkRow(one) {
  const button = make("button", { type: "button", "aria-pressed": only === one.at, title: "see where" }, name(one.at));
  button.addEventListener("click", () => { only = only === one.at ? null : one.at; survey(); });
  const cells = [head.kinds[spelt[one.at].kind], count(one.chosen), count(one.of), `${(100 * one.chosen / one.of).toFixed(one.chosen === one.of ? 0 : 1)}%`, (one.nats / one.chosen).toFixed(2)];
  return make("tr", {}, make("th", { scope: "row" }, button), ...cells.map((text, place) => make("td", place === 3 ? { class: "share", "--p": one.chosen / one.of } : {}, text)));
}

/* ---- where it is highest ---- */

function worst(some) {
  const [by, words] = head.about.shades.find(([known]) => known === $("worst").value), found = [];
  for (const t of some) {
    if (!t[by]) continue;
    for (const i of known(t)) {
      const size = Math.abs(t[by][i]);
      if (Number.isFinite(size) && ofKind(t.token[i]) && (only === null || t.token[i] === only)) found.push([size, t, i]);
    }
  }
  const least = Float32Array.from(found, one => one[0]).sort().at(-WORST) ?? 0;
  const rows = found.filter(one => one[0] >= least).sort((a, b) => b[0] - a[0]).slice(0, WORST);
  $("all-tokens").hidden = only === null;
  $("all-tokens").textContent = only === null ? "" : `only ${name(only)} ✕`;
  $("worst-list").replaceChildren(
    make("caption", {}, rows.length < found.length ? `the highest ${count(rows.length)} of ${count(found.length)}` : `all ${count(rows.length)}`),
    make("thead", {}, make("tr", {}, ...["nats", "where", "solution"].map(text => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...rows.map(one => worstRow(by, ...one))));
}

function worstRow(by, size, t, i) {
  const piece = j => spelt[t.token[j]].form === FORM.BYTES ? "▪" : visible(spelt[t.token[j]].name || `⟨${spelt[t.token[j]].id}⟩`).replace(/␣/g, " ");
  const text = (from, to) => Array.from({ length: Math.max(0, to - from) }, (_, k) => piece(from + k)).join("");
  const place = make("a", { href: link({ view: "", at: i, shade: by, ...placeOf(t.index) }) },
    text(Math.max(0, i - AROUND), i), make("mark", {}, piece(i)), text(i + 1, Math.min(t.n, i + 1 + AROUND)));
  return make("tr", {}, make("td", {}, size.toFixed(2)), make("td", { class: "where" }, place), make("td", { class: "id", title: t.about.id }, t.about.id.length > 16 ? `…${t.about.id.slice(-15)}` : t.about.id));
}
