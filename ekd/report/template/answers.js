// Every answer of a benchmark: a place for each problem, filled as a reader comes near it and emptied when he has gone by.
// Data: ekd/report/answers_sheet.py.
const unpack = async (script) => {
  const bytes = Uint8Array.from(atob(script.textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
};
const element = (tag, name, ...inside) => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...inside);
  return made;
};
const answerText = (text, nats) => {
  if (!nats) return element("pre", "", text);
  const tokens = text.map((piece, i) => {
    const token = element("span", "token", piece);
    token.style.setProperty("--much", `${Math.round(100 * Math.min(nats[i] / 2, 1))}%`); // darkest from 2 nats on
    token.title = `${nats[i].toFixed(2)} nats`;
    return token;
  });
  return element("pre", "", ...tokens);
};
const answerColumn = (who, answer) => {
  if (!answer) return element("section", "", element("p", "soft", `${who}: was not asked`));
  const [verdict, detail, folded, text, nats] = answer;
  const head = element("p", "", element("strong", verdict === "right" ? "good" : "bad", `${who}: ${verdict}`), document.createElement("br"), element("span", "soft", detail));
  const body = answerText(text, nats);
  return element("section", "", head, folded ? element("details", "", element("summary", "", "the text"), body) : body);
};
for (const box of document.querySelectorAll("[data-answers]")) {
  const blocks = [...box.querySelectorAll("script[data-block]")], opened = [];
  const [right, ended, search, said, feed] = ["select[data-right]", "select[data-ended]", "input", "output", "[role=feed]"].map((one) => box.querySelector(one));
  let index, places;
  const problem = async (at) => (await (opened[Math.floor(at / index.block)] ??= unpack(blocks[Math.floor(at / index.block)])))[at % index.block];
  const fill = async (place, at) => {
    const [name, reference, question, answers] = await problem(at);
    if (place.far) return; // scrolled past meanwhile
    const columns = element("div", "beside", ...answers.map((answer, i) => answerColumn(index.who[i], answer)));
    place.replaceChildren(element("p", "", element("strong", "", name), element("span", "soft", `, the answer is ${reference}`)), element("pre", "asked", question), columns);
    place.style.minHeight = "";
    place.dataset.filled = "";
  };
  const leave = (place) => {
    place.style.minHeight = `${place.offsetHeight}px`;
    place.replaceChildren();
    delete place.dataset.filled;
  };
  const near = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      target.far = !isIntersecting;
      if (isIntersecting && !("filled" in target.dataset)) fill(target, places.indexOf(target));
      else if (!isIntersecting && "filled" in target.dataset && !target.hidden) leave(target);
    }
  }, { rootMargin: "800px" });
  const filter = async () => {
    const words = search.value.trim().toLowerCase();
    let shown = 0;
    for (const [at, place] of places.entries()) {
      const fits = (!right.value || index.right[at] === right.value) && (!ended.value || index.ends[at].includes(ended.value));
      place.hidden = !fits || (words !== "" && !JSON.stringify(flat(await problem(at))).toLowerCase().includes(words));
      shown += !place.hidden;
    }
    said.textContent = shown === places.length ? "" : `${shown} of ${places.length}`;
  };
  const flat = ([name, reference, question, answers]) => [name, reference, question, ...answers.map((one) => one && [one[1], typeof one[3] === "string" ? one[3] : one[3].join("")])];
  unpack(box.querySelector("script[data-index]")).then(async (found) => {
    index = found;
    places = index.right.map((_, at) => {
      const place = element("article", "answer");
      place.setAttribute("aria-posinset", at + 1);
      place.setAttribute("aria-setsize", index.right.length);
      place.tabIndex = 0;
      place.style.minHeight = "14rem";
      return place;
    });
    feed.append(...places);
    for (const place of places) near.observe(place);
    right.addEventListener("change", filter);
    ended.addEventListener("change", filter);
    search.addEventListener("input", filter);
    const example = document.querySelector("[data-example]");
    if (example) fill(example, 0);
    box.dataset.ready = "";
  });
}
