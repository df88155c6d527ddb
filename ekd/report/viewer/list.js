/* The list of solutions. */

function filter() {
  const words = $("search").value.trim().toLowerCase(), status = $("status").value, finish = $("finish").value, sort = $("sort").value;
  shown = head.traces.map((_, i) => i).filter(i => {
    const t = head.traces[i];
    t.hay ??= `${t.question}\n${t.response}\n${t.policy}`.toLowerCase();
    return (!words || t.hay.includes(words)) && (!status || t.status === status) && (!finish || t.finish === finish);
  });
  const sign = sort.startsWith("-") ? -1 : 1, by = sort.replace("-", "");
  const value = i => by === "rows" ? head.traces[i].rows : head.traces[i].means[by];
  const known = shown.filter(i => value(i) !== undefined);  // what has no mean comes last, whichever way
  if (by !== "order") shown = [...known.sort((a, b) => sign * (value(a) - value(b))), ...shown.filter(i => value(i) === undefined)];
  $("count").textContent = shown.length === head.traces.length ? `${count(shown.length)} traces` : `${count(shown.length)} of ${count(head.traces.length)} traces`;
  $("list").scrollTop = 0;
  render();
  turns();
  survey();
  return shown.length && !shown.includes(current) ? go(0) : null;
}

/** Only the lines in sight exist. */
function render() {
  const box = $("list"), from = Math.max(0, Math.floor(box.scrollTop / HEIGHT) - 4);
  const to = Math.min(shown.length, Math.ceil((box.scrollTop + box.clientHeight) / HEIGHT) + 4);
  $("inner").style.height = `${shown.length * HEIGHT}px`;
  const items = [];
  for (let at = from; at < to; at++) items.push(item(at));
  if (!shown.length) items.push(make("p", { id: "none" }, "No trace fits. Search for less, or choose “all”."));
  $("inner").replaceChildren(...items);
  const here = shown.indexOf(current);
  if (here >= from && here < to) box.setAttribute("aria-activedescendant", `item${here}`);
  else box.removeAttribute("aria-activedescendant");
}

function item(at) {
  const t = head.traces[shown[at]], status = STATUS[t.status];
  const [by, , most] = shading(), mean = t.means[by];
  const facts = make("div", { class: "facts" }, make("span", { class: "swatch", "--h": part(mean, most), "aria-hidden": true }),
    make("span", {}, mean === undefined ? "–" : `${mean.toFixed(2)} nats`), make("span", {}, `${count(t.rows)} tokens`));
  if (t.finish !== "stop") facts.append(make("span", {}, "cut off"));
  if (status) facts.append(make("span", { class: t.status, title: status }, status[0], make("span", { class: "unseen" }, status.slice(1))));
  facts.append(make("span", { class: "id" }, t.policy.includes("@") ? `${t.policy} · ${t.id}` : t.id));
  const node = make("div", { class: "item", role: "option", id: `item${at}`, "aria-selected": shown[at] === current, "aria-posinset": at + 1, "aria-setsize": shown.length },
    make("div", { class: "what" }, t.question || t.response.slice(0, 160)), facts);
  node.style.top = `${at * HEIGHT}px`;
  node.at = at;
  return node;
}

/** Opens the trace at a place of the list, and brings it into sight. */
function go(at) {
  if (at < 0 || at >= shown.length) return null;
  current = shown[at];
  const box = $("list"), top = at * HEIGHT;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + HEIGHT > box.scrollTop + box.clientHeight) box.scrollTop = top + HEIGHT - box.clientHeight;
  render();
  turns();
  if (!overviewOn()) document.querySelector("main").scrollTop = 0;
  return open(current);
}

function turns() {
  const here = shown.indexOf(current);
  $("previous").disabled = here <= 0;
  $("next").disabled = here < 0 || here >= shown.length - 1;
}

function onListKey(event) {
  const here = shown.indexOf(current), page = Math.max(1, Math.floor($("list").clientHeight / HEIGHT) - 1), last = shown.length - 1;
  const moves = { ArrowDown: here + 1, ArrowUp: here - 1, PageDown: here + page, PageUp: here - page, Home: 0, End: last };
  if (!(event.key in moves) || last < 0) return;
  event.preventDefault();
  go(Math.max(0, Math.min(last, moves[event.key])));
}
