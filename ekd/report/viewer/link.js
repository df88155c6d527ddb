/* The URL's fragment holds what is shown: the problem, the token, the shade, the filters, the order, the selector. */

const HELD = { shade: "shade", answer: "status", finish: "finish", sort: "sort", search: "search", kind: "token-kind",
  percent: "percent", lower: "lower", upper: "upper", worst: "worst" };  // name in the link -> id of the control
const usual = {};  // what a control says where a link is silent
let remembering = 0, held = null;

/** Which trace: its problem and sample, and its key where several are of the same. */
function placeOf(index) {
  const { id, sample, key } = head.traces[index];
  const twins = head.traces.filter(t => t.id === id && t.sample === sample).length > 1;
  return { problem: id, sample: sample || "", trace: twins ? key : "" };
}

function state() {
  const controls = Object.entries(HELD).map(([name, id]) => [name, $(id).value === usual[name] ? "" : $(id).value]);
  return { ...(current < 0 ? {} : placeOf(current)), at: trace?.reached ?? "", ...Object.fromEntries(controls),
    select: picked() === "vanilla" ? "" : picked(), draw: draw === 1 ? "" : draw,
    view: overviewOn() ? "overview" : "", only: only === null ? "" : spelt[only].id };
}

/** What is shown now, but for some changes, as a link; what is as usual is left out. */
function link(changes = {}) {
  const told = Object.entries({ ...state(), ...changes }).filter(([, value]) => value !== "");
  return `#${new URLSearchParams(told)}`;
}

/** Soon, so that a slider does not write a hundred times. */
function remember() {
  clearTimeout(remembering);
  remembering = setTimeout(rememberNow, 120);
}

function rememberNow() {
  clearTimeout(remembering);
  held = link();
  history.replaceState(null, "", held);
}

/** Shows what the fragment says, and says what of it the page does not have. */
async function follow() {
  const told = new URLSearchParams(location.hash.slice(1)), missing = [];
  const put = (name, value, set) => { if (!set(value)) missing.push(`${name}=${value}`); };
  for (const [name, id] of Object.entries(HELD)) {
    const value = told.get(name) ?? usual[name];
    put(name, value, wanted => { $(id).value = wanted; const fits = $(id).value === wanted; if (!fits) $(id).value = usual[name]; return fits; });
  }
  for (const [name, group, plain] of [["select", "kind", "vanilla"], ["view", "view", "solution"]]) {
    const radio = value => [...document.querySelectorAll(`[name=${group}]`)].find(one => one.value === value);
    put(name, told.get(name) ?? plain, value => { (radio(value) ?? radio(plain)).checked = true; return radio(value); });
  }
  draw = Number(told.get("draw")) || 1;
  only = null;
  if (told.has("only")) put("only", told.get("only"), id => { const at = spelt.findIndex(word => String(word.id) === id); only = at < 0 ? null : at; return at >= 0; });
  if (told.has("problem")) put("problem", told.get("problem"), () => (current = sought(told)) >= 0);
  $("missing").hidden = !missing.length;
  $("missing").textContent = `This page has no ${missing.join(", ")}: it may have been made anew since the link was kept.`;
  const first = filter();  // opens one itself where the list lacks what is open
  await (first ?? go(shown.indexOf(current)));
  if (trace && told.has("at") && !overviewOn()) focusOn(Number(told.get("at")));
}

function sought(told) {
  const fits = t => t.id === told.get("problem") && t.sample === Number(told.get("sample") ?? 0) && (!told.has("trace") || t.key === told.get("trace"));
  return head.traces.findIndex(fits);
}

/** Not for a fragment that is no link of ours: the way past the lists, for a keyboard, is one. */
function onAddress() {
  clearTimeout(remembering);  // of what was shown before
  const names = [...new URLSearchParams(location.hash.slice(1)).keys()];
  if (names.some(name => name in { ...HELD, problem: 0, view: 0, select: 0, only: 0 })) follow();
}
