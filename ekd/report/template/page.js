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
// Answers of one kind.
for (const select of document.querySelectorAll("select[data-filter]")) {
  select.addEventListener("change", () => {
    for (const one of document.querySelectorAll(`[data-list="${select.dataset.filter}"] article`)) one.hidden = select.value !== "" && one.dataset.kind !== select.value;
  });
}
