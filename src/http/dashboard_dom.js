// Small things every part of the page uses. Text from the database goes in as text only, never as markup.

export const byId = (id) => document.getElementById(id);

/** The outbox that is shown: "" where there is only one. It stands in the address, so that a page can be bookmarked. */
let outbox = new URLSearchParams(location.search).get("outbox") ?? "";
export const shownOutbox = () => outbox;
export const showOutbox = (name) => { outbox = name; };

/** A path of the API, about the outbox that is shown. */
export function about(path) {
  if (!outbox) return path;
  return `${path}${path.includes("?") ? "&" : "?"}outbox=${encodeURIComponent(outbox)}`;
}

const SVG = "http://www.w3.org/2000/svg";

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const element = (name, properties = {}, ...children) => fill(document.createElement(name), properties, children);
export const shape = (name, properties = {}, ...children) => fill(document.createElementNS(SVG, name), properties, children);

/** Sets a text only when it differs, so that selections and screen readers are left in peace. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Builds `node`'s children anew only when what they show has changed. */
export function show(node, shown, build) {
  const key = JSON.stringify(shown);
  if (node.dataset.shown === key) return;
  node.dataset.shown = key;
  node.replaceChildren(...build());
}

const WHOLE = new Intl.NumberFormat("en");
export const whole = (count) => WHOLE.format(count);
export const messages = (count) => (count === 1 ? "1 message" : `${whole(count)} messages`);

/** Messages a second. */
export function rate(value) {
  if (value === 0) return "0";
  if (value < 0.1) return "<0.1";
  return value < 10 ? value.toFixed(1) : whole(Math.round(value));
}

/** A span of time as a person says it: two parts at most. */
export function span(seconds) {
  if (seconds === 0) return "0 s";
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1).replace(/\.0$/, "")} s`;
  const total = Math.round(seconds);
  if (total < 60) return `${total} s`;
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => total >= size);
  const [size, unit] = parts[first];
  const [next, small] = parts[first + 1];
  const rest = Math.floor((total % size) / next);
  return rest > 0 ? `${Math.floor(total / size)} ${unit} ${rest} ${small}` : `${Math.floor(total / size)} ${unit}`;
}

/** A span that grows while it is shown: no milliseconds. */
export const lasting = (seconds) => (seconds < 1 ? "a moment" : span(Math.floor(seconds)));

/** A latency, to two digits. */
export function latency(seconds) {
  const millis = seconds * 1000;
  if (millis < 9.95) return `${millis.toFixed(1)} ms`;
  return millis < 999.5 ? `${Math.round(millis)} ms` : span(seconds);
}

/** The time of day of an instant in seconds since the epoch. */
export const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

/** A table with a heading row. Columns: title and whether it holds numbers. */
export function table(columns, rows) {
  const kind = (number) => ({ class: number ? "number" : null });
  const head = columns.map(([title, number]) => element("th", { scope: "col", ...kind(number) }, title));
  const body = rows.map((row) =>
    element("tr", {}, ...row.map((cell, index) => element("td", kind(columns[index][1]), cell))));
  return element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
}
