/* One solution. */

async function open(index) {
  const about = head.traces[index], buffer = await unpack(`trace${index}`);
  if (index !== current) return;  // another was opened meanwhile
  close();
  trace = read(buffer, about);
  trace.place = percentiles(trace);
  trace.pieces = pieces(trace);
  $("title").textContent = about.id + (about.sample ? ` · sample ${about.sample + 1}` : "");
  const facts = [`${count(about.rows)} tokens`, about.means.entropy === undefined ? "no teacher distribution" : `mean entropy ${about.means.entropy.toFixed(3)} nats`,
    about.finish === "stop" ? "ended by itself" : "cut off at the length limit"];
  if (about.policy) facts.push(`written by ${about.policy}`);
  $("facts").replaceChildren(facts.join(" · "));
  if (STATUS[about.status]) {
    const told = about.extracted && about.answer && about.status === "wrong" ? `${STATUS.wrong}: ${about.extracted}, not ${about.answer}` : STATUS[about.status];
    $("facts").append(" · ", make("b", { class: about.status }, told));
  }
  $("question").textContent = about.question;
  $("prompt").textContent = about.prompt;
  $("reads").textContent = about.read ? "The prompt that the student read" : "The whole prompt";
  $("teacher-reads").hidden = !about.read;
  $("read").textContent = about.read;
  trace.nodes = Array.from({ length: trace.n }, (_, i) => span(trace, i));
  $("tokens").replaceChildren(...trace.nodes);
  trace.stop = 0;  // where Tab comes to; reached: where somebody was
  if (trace.n) trace.nodes[0].tabIndex = 0;
  shade();
  select();
  remember();
}

const shading = () => head.about.shades.find(([name]) => name === $("shade").value);

/** Shades the tokens by what was picked; a value below 0 counts as far as it goes. A trace without it stays plain. */
function shade() {
  const [by, words, most] = shading();
  $("darkest").textContent = `${most} nats or more`;
  $("legend").setAttribute("aria-label", `${sentence(words)}: from 0 nats, no shade, to ${most} nats and more, the darkest shade`);
  if (!trace) return;
  for (const [i, node] of trace.nodes.entries()) node.style.setProperty("--h", part(trace[by]?.[i], most));
}

const sentence = words => words[0].toUpperCase() + words.slice(1);
const part = (nats, most) => Math.min(1, Math.abs(nats || 0) / most).toFixed(4);

function span(t, i) {
  const at = t.token[t.begin[i]], word = spelt[at], piece = t.pieces[i];
  const node = make("span", { class: t.valid[i] ? "token" : "token unmatched", role: "option", tabindex: -1, "aria-selected": false });
  node.setAttribute("aria-label", `${spoken(at)}, ${t.valid[i] ? `${t.entropy[i].toFixed(2)} nats` : "unmatched row"}`);
  node.row = i;
  if (word.form === FORM.SPECIAL) node.dataset.mark = word.name;
  else if (word.form === FORM.UNKNOWN) node.dataset.mark = name(at);
  else if (piece === "") node.dataset.mark = "▪";  // the first part of a character: it is shown with the last
  else if (/^[\p{Cc}\p{Cf}]+$/u.test(piece.replace(/[\n\t]/g, "")) && !/[\n\t ]/.test(piece)) node.dataset.mark = visible(piece);
  const lines = piece.split("\n");
  lines.forEach((text, l) => { node.append(text); if (l < lines.length - 1) node.append(make("span", { class: "nl", "aria-hidden": true }), "\n"); });
  return node;
}
