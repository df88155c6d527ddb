/* Numbers and tokens in words. */

const count = n => n.toLocaleString("en");
const visible = text => text.replace(/ /g, "␣").replace(/\r?\n/g, "↵").replace(/\t/g, "⇥").replace(/[\p{Cc}\p{Cf}]/gu, c => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

function percent(p) {
  if (!(p > 0)) return "0%";
  if (p < 1e-6) return "<0.0001%";
  const value = 100 * p;
  return `${value >= 99.95 ? value.toFixed(3) : value >= 10 ? value.toFixed(1) : value >= 0.1 ? value.toFixed(2) : value.toPrecision(1)}%`;
}

/** How a token is written in the card; a piece of a cut character by its bytes. */
function name(at) {
  const word = spelt[at];
  if (word.form === FORM.BYTES) return `bytes ${word.name.toUpperCase().match(/../g).join(" ")}`;
  if (word.form === FORM.UNKNOWN) return `⟨${word.id}⟩`;
  return word.name === "" ? "(empty)" : visible(word.name);
}

/** How a token is said: a screen reader passes over marks for spaces. */
function spoken(at) {
  const word = spelt[at];
  if (word.form !== FORM.TEXT) return name(at);
  if (/^\s*$/.test(word.name)) return word.name.includes("\n") ? "line break" : word.name ? "space" : "empty";
  return word.name.trim();
}

const nats = x => `${x.toFixed(4).replace("-", "−")} nats`;

function make(tag, attributes = {}, ...inside) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("--")) node.style.setProperty(key, value);
    else node.setAttribute(key, value);
  }
  node.append(...inside);
  return node;
}

const STATUS = { correct: "✓ correct", wrong: "✗ wrong", unparseable: "∅ no answer found", unknown: "" };
