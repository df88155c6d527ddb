/* Keys and pointers. */

function focusOn(i) {
  if (!trace || i < 0 || i >= trace.n) return;
  trace.nodes[i].focus({ preventScroll: true });
  trace.nodes[i].scrollIntoView({ block: "nearest" });
}

/** Tab comes back to the token that had the focus last. */
function stopAt(i) {
  trace.nodes[trace.stop].tabIndex = -1;
  trace.stop = trace.reached = i;
  trace.nodes[i].tabIndex = 0;
  show(i);
  remember();
}

/** The token in the line above or below whose middle is nearest. */
function across(i, sign) {
  const box = node => node.getClientRects()[0] ?? node.getBoundingClientRect();
  const here = box(trace.nodes[i]), x = (here.left + here.right) / 2;
  let best = i, found = null, far = Infinity;
  for (let j = i + sign; j >= 0 && j < trace.n; j += sign) {
    const there = box(trace.nodes[j]);
    if (sign * (there.top - here.top) < here.height / 2) continue;
    if (found === null) found = there.top;
    if (Math.abs(there.top - found) > here.height / 2) break;
    const gap = Math.abs((there.left + there.right) / 2 - x);
    if (gap < far) [best, far] = [j, gap];
  }
  return best;
}

function nextChosen(i, sign) {
  for (let j = i + sign; j >= 0 && j < trace.n; j += sign) if (trace.chosen.has(j) && ofKind(trace.token[trace.begin[j]])) return j;
  return i;
}

function onTokenKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const i = trace.stop, moves = { ArrowRight: () => i + 1, ArrowLeft: () => i - 1, ArrowDown: () => across(i, 1), ArrowUp: () => across(i, -1),
    Home: () => 0, End: () => trace.n - 1, n: () => nextChosen(i, 1), p: () => nextChosen(i, -1) };
  if (!(event.key in moves)) return;
  event.preventDefault();
  focusOn(Math.max(0, Math.min(trace.n - 1, moves[event.key]())));
}

function listen() {
  const tokenOf = event => event.target.closest?.(".token")?.row;
  $("tokens").addEventListener("pointerover", e => { const i = tokenOf(e); if (i !== undefined && e.pointerType !== "touch") show(i); });
  $("tokens").addEventListener("pointerout", e => { if (e.pointerType !== "touch") later(); });
  $("tokens").addEventListener("focusin", e => { const i = tokenOf(e); if (i !== undefined) stopAt(i); });
  $("tokens").addEventListener("focusout", later);
  $("tokens").addEventListener("click", e => { const i = tokenOf(e); if (i !== undefined) { focusOn(i); show(i); } });
  $("tokens").addEventListener("keydown", onTokenKey);
  $("card").addEventListener("pointerenter", () => clearTimeout(closing));
  $("card").addEventListener("pointerleave", later);
  document.addEventListener("keydown", e => { if (e.key === "Escape") close(); });
  document.querySelector("main").addEventListener("scroll", () => { if (lit !== null && !wide.matches && document.activeElement !== trace.nodes[lit]) close(); });
  for (const radio of document.querySelectorAll("[name=kind]")) radio.addEventListener("change", chosenAnew);
  $("percent").addEventListener("input", chosenAnew);
  $("again").addEventListener("click", () => { draw++; chosenAnew(); });
  $("token-kind").addEventListener("change", chosenAnew);
  for (const radio of document.querySelectorAll("[name=view]")) radio.addEventListener("change", survey);
  $("worst").addEventListener("change", survey);
  $("worst-list").addEventListener("click", rememberNow);  // before a link is followed, so that the way back is known
  $("all-tokens").addEventListener("click", () => { only = null; survey(); });
  // a handle stops one step before the other: a bucket needs lower < upper
  $("lower").addEventListener("input", () => { $("lower").value = Math.min(+$("lower").value, +$("upper").value - 1); chosenAnew(); });
  $("upper").addEventListener("input", () => { $("upper").value = Math.max(+$("upper").value, +$("lower").value + 1); chosenAnew(); });
  $("shade").addEventListener("change", () => { shade(); render(); remember(); });
  $("search").addEventListener("input", filter);
  for (const id of ["status", "finish", "sort"]) $(id).addEventListener("change", filter);
  $("list").addEventListener("scroll", render);
  $("list").addEventListener("keydown", onListKey);
  $("list").addEventListener("click", e => { const at = e.target.closest(".item")?.at; if (at !== undefined) { go(at); fold(true); } });
  $("previous").addEventListener("click", () => go(shown.indexOf(current) - 1));
  $("next").addEventListener("click", () => go(shown.indexOf(current) + 1));
  $("open").addEventListener("click", () => fold(!$("side").classList.contains("closed")));
  addEventListener("popstate", onAddress);
  addEventListener("resize", () => { close(); render(); });
}

/** Another selector, or another kind of token. */
function chosenAnew() {
  select();
  survey();
}

function fold(closed) {
  $("side").classList.toggle("closed", closed);
  $("open").setAttribute("aria-expanded", !closed);
  if (!closed) render();
}
