/* What is known of one token. */

function show(i) {
  clearTimeout(closing);
  if (lit !== null) trace.nodes[lit]?.classList.remove("lit");
  lit = i;
  const node = trace.nodes[i], card = $("card");
  node.classList.add("lit");
  card.replaceChildren(...details(trace, i));
  card.hidden = false;
  node.setAttribute("aria-describedby", "card");
  const box = (node.getClientRects()[0] ?? node.getBoundingClientRect()), width = card.offsetWidth, height = card.offsetHeight;
  const below = box.bottom + 8, above = box.top - 8 - height;
  card.style.left = `${Math.max(8, Math.min(box.left - 12, innerWidth - width - 8))}px`;
  card.style.top = `${below + height <= innerHeight - 8 ? below : Math.max(8, above)}px`;
  const covered = box.bottom + 12 - card.getBoundingClientRect().top;  // on a phone the card lies at the bottom
  if (narrow.matches && covered > 0) scrollBy(0, covered);
}

function close() {
  clearTimeout(closing);
  if (lit !== null && trace) { trace.nodes[lit]?.classList.remove("lit"); trace.nodes[lit]?.removeAttribute("aria-describedby"); }
  lit = null;
  $("card").hidden = true;
}

const narrow = matchMedia("(max-width: 52rem)");
const wide = matchMedia("(min-width: 68rem)");
const later = () => { clearTimeout(closing); if (!wide.matches) closing = setTimeout(close, 140); };  // beside the text it is in nobody's way

function details(t, i) {
  const first = t.begin[i], at = t.token[first], student = Boolean(head.about.student), draws = head.about.draws;
  const title = make("div", {}, make("span", { class: "name" }, name(at)));
  if (t.chosen?.has(i)) title.append("  ", make("span", { class: "pill" }, "chosen"));
  const facts = [["position", `${count(i + 1)} of ${count(t.n)}`], ["id", `${spelt[at].id}`]];
  if (t.valid[i]) {
    facts.push(draws ? ["drawn", `${percent(Math.exp(t.logprob[i]))} of ${draws} draws`]
      : ["probability", percent(Math.exp(t.logprob[i]))]);
    if (!draws) facts.push(["logprob", t.logprob[i].toFixed(4).replace("-", "−")]);
    if (t.gap && Number.isFinite(t.gap[i])) facts.push(["under the second prompt", percent(Math.exp(t.contrast[i]))], ["prompt gap", nats(t.gap[i])]);
    facts.push(["entropy", nats(t.entropy[i])], ["percentile in its sequence", t.place[i].toFixed(1)]);
    facts.push(["row", t.about.exact ? "entropy exact" : `entropy between ${t.least[i].toFixed(3)} and ${t.most[i].toFixed(3)} nats`]);
  } else facts.push(["row", "unmatched: no teacher distribution"]);
  if (t.logQ) facts.push([`${t.about.policy || "writer"}: probability`, percent(Math.exp(t.logQ[i]))]);
  if (t.logQ && t.valid[i]) facts.push(["writer less teacher, ln q − ln p", nats(t.own[i])]);
  if (student) {
    facts.push(["student: entropy", nats(t.sEntropy[i])], ["student: probability", percent(mass(t.sCode[first]))]);
    facts.push(["student: first choice", name(t.sFirst[i])]);
    if (t.valid[i]) facts.push([draws ? "KL, estimated" : "KL to the teacher", nats(t.kl[i])]);
  }
  const list = make("dl", {}, ...facts.flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, value)]));
  const out = [title, list];
  if (t.valid[i] || student) out.push(bars(t, i));
  if (!t.valid[i]) out.push(make("p", { class: "foot" }, "In no percentile, never chosen. An unmatched end token is learned by cross entropy all the same (student.unmatched)."));
  else if (!t.about.exact) out.push(make("p", { class: "foot" }, "The server named only these ids, so the entropy is the middle of its bounds."));
  return out;
}

/** Alternatives by falling probability, then what the row names beyond them, then what it does not name. */
function bars(t, i) {
  const student = Boolean(head.about.student), rows = [...Array(t.kept[i]).keys()].map(k => t.begin[i] + k);
  const p = e => !t.valid[i] ? null : e === t.begin[i] ? Math.exp(t.logprob[i]) : mass(t.code[e]);
  const table = make("table"), all = rows.sort((a, b) => p(b) - p(a));
  for (const e of all) {
    const what = name(t.token[e]);
    table.append(make("tr", { class: e === t.begin[i] ? "next" : "" }, make("th", { scope: "row", title: what }, what),
      make("td", {}, ...line(p(e), student ? mass(t.sCode[e]) : null))));
  }
  const more = t.named[i] - t.kept[i];
  const tail = t.valid[i] ? Math.exp(t.logTail[i]) : null, rest = student ? Math.exp(t.sLogRest[i]) : null;
  const others = student ? Math.max(0, 1 - rest - all.reduce((sum, e) => sum + mass(t.sCode[e]), 0)) : null;
  if (more) table.append(other(`${count(more)} more named`, t.hidden[i], others));
  if (!head.about.draws || student) table.append(other("not named (tail)", tail, rest));
  table.prepend(student ? make("caption", {}, make("span", { class: "key" }), "teacher", make("span", { class: "key student" }), "student")
    : make("caption", {}, "the teacher’s alternatives; ▸ came next"));
  return table;
}

const other = (what, teacher, student) => make("tr", { class: "more" }, make("th", { scope: "row" }, what), make("td", {}, ...line(teacher, student)));

function line(teacher, student) {
  const bar = (p, whose) => make("div", { class: `line ${whose}` }, make("i", { "--p": Math.min(p, 1).toFixed(5), "aria-hidden": true }), make("span", {}, percent(p)));
  return [...(teacher === null ? [] : [bar(teacher, "teacher")]), ...(student === null ? [] : [bar(student, "student")])];
}
