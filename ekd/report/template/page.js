// A figure of many lines: pick a method, or point at its line, and the others step back. Without this it reads as well.
for (const figure of document.querySelectorAll("figure[data-lines]")) {
  const lines = [...figure.querySelectorAll("[data-series]")];
  const names = [...new Set(lines.map((line) => line.dataset.series))];
  const show = (name) => lines.forEach((line) => line.classList.toggle("dim", name !== "" && line.dataset.series !== name));
  const label = document.createElement("label");
  label.className = "pick";
  label.textContent = "Bring forward ";
  const select = document.createElement("select");
  for (const name of ["", ...names]) select.add(new Option(name || "all methods", name));
  label.append(select);
  figure.prepend(label);
  select.addEventListener("change", () => show(select.value));
  for (const line of lines) {
    line.addEventListener("pointerenter", () => show(line.dataset.series));
    line.addEventListener("pointerleave", () => show(select.value));
  }
}
// A figure whose parts tell their values: the nearest to the pointer, or to the finger.
for (const svg of document.querySelectorAll("svg.figure")) {
  const points = [...svg.querySelectorAll(".point")];
  if (points.length === 0) continue;
  const said = document.createElement("output");
  said.className = "said";
  said.textContent = "Point at a method for its value.";
  svg.closest("figure").querySelector("figcaption").before(said);
  const away = (one, x, y) => {
    const box = one.getBoundingClientRect();
    return Math.hypot(Math.max(box.left - x, 0, x - box.right), Math.max(box.top - y, 0, y - box.bottom) / 2);
  };
  const tell = (event) => {
    const near = points.map((one) => [away(one, event.clientX, event.clientY), one]).sort((a, b) => a[0] - b[0])[0];
    if (near[0] > 60) return;
    said.textContent = near[1].dataset.value;
    points.forEach((one) => one.classList.toggle("pointed", one.dataset.value === near[1].dataset.value));
  };
  svg.addEventListener("pointermove", tell);
  svg.addEventListener("pointerdown", tell);
}
// Rows by a column: the first number of a cell, else its words; what has none comes last.
const measure = (row, place) => row.cells[place].textContent.replaceAll("−", "-").replaceAll(",", "").trim();
for (const table of document.querySelectorAll("table[data-sorts]")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, place) => {
    if ("plain" in head.dataset) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falls = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const keyed = [...body.rows].map((row) => [measure(row, place), row]);
      const value = ([text]) => parseFloat(text.replace(/^[<~]\s*/, ""));
      const words = place === 0 || keyed.every((one) => Number.isNaN(value(one)));
      const known = keyed.filter((one) => words || !Number.isNaN(value(one)));
      known.sort((a, b) => (words ? a[0].localeCompare(b[0], undefined, { numeric: true }) : value(a) - value(b)));
      if (falls) known.reverse();
      body.append(...known.map((one) => one[1]), ...keyed.filter((one) => !known.includes(one)).map((one) => one[1]));
    });
  });
}
// Commands are copied by a button; where the browser forbids it, the command is marked, for the reader's own copy.
for (const pre of document.querySelectorAll("pre[data-copy]")) {
  const button = document.createElement("button");
  button.className = "copy";
  button.textContent = "Copy";
  pre.before(button);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(pre.textContent.trim());
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(pre);
      button.textContent = "Marked: press Ctrl-C";
    }
  });
}
