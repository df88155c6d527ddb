/* The beginning. */

function options(id, all, names) {
  $(id).append(make("option", { value: "" }, "all"), ...names.map(([value, label]) => make("option", { value }, `${label} (${count(all.filter(x => x === value).length)})`)));
}

function introduce() {
  const a = head.about;
  const others = head.traces.some(t => t.policy.startsWith("student"));
  const made = a.teacher ? `${a.mode === "score" || others ? "solutions read by" : "solved by"} ${a.teacher}` : "";
  const told = [a.name, a.dataset && made ? `${a.dataset}, ${made}` : made || a.dataset, a.draws ? `rows are shares of ${a.draws} draws` : "", a.align ? `teacher’s tokenizer: ${a.align}` : "", a.student ? `student: ${a.student}` : ""];
  $("about").textContent = told.filter(Boolean).join(" · ");
  document.title = `${a.name}: tokens`;
  $("cut").hidden = !a.rest;
  $("cut").textContent = a.rest;
  options("status", head.traces.map(t => t.status), a.graded ? [] : [["correct", "correct"], ["wrong", "wrong"], ["unparseable", "no answer found"], ...(head.traces.some(t => t.status === "unknown") ? [["unknown", "unknown"]] : [])]);
  $("status").disabled = Boolean(a.graded);
  $("status").setAttribute("aria-describedby", "why");
  $("why").hidden = !a.graded;
  $("why").textContent = a.graded;
  options("finish", head.traces.map(t => t.finish), [["stop", "by itself"], ["length", "cut off"]]);
  for (const id of ["shade", "worst"]) $(id).append(...a.shades.map(([name, words]) => make("option", { value: name }, words)));
  if (a.student) $("worst").value = "kl";
  for (const [sign, way] of [["-", "highest mean first"], ["", "lowest mean first"]]) {
    $("sort").append(make("optgroup", { label: way }, ...a.shades.map(([name, words]) => make("option", { value: sign + name }, words))));
  }
  $("token-kind").append(...head.kinds.map(kind => make("option", { value: kind }, kind)));
  for (const [name, id] of Object.entries(HELD)) usual[name] = $(id).value;
}

async function begin() {
  head = JSON.parse(new TextDecoder().decode(await unpack("head")));
  const [ids, forms, names, kinds] = head.tokens;
  spelt = ids.map((id, i) => ({ id, form: forms[i], name: names[i], kind: kinds[i] }));
  introduce();
  listen();
  await follow();
  await new Promise(painted => requestAnimationFrame(() => setTimeout(painted)));
  document.documentElement.dataset.ready = performance.now().toFixed(1);
}

begin().catch(error => {
  document.querySelector("main").replaceChildren(make("p", { id: "trouble" }, `This page could not be read (${error.message}). It needs a browser from 2023 or later: Chrome 111, Firefox 113, Safari 16.4.`));
  throw error;
});
