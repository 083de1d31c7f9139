// Line charts of the last quarter of an hour: one axis from zero, at most two lines, the figures in the legend.

import { clock, element, say, shape } from "./dashboard_dom.js";

const SECONDS = 900;
const HEIGHT = 130;
const TOP = 8;
const BOTTOM = 20;
const MARKS = [[-900, "−15 min"], [-600, "−10"], [-300, "−5"], [0, "now"]];

/** The least 1, 2 or 4 times a power of ten that is not below `value`: its half is a round number too. */
export function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 10].find((factor) => factor * power >= value * 0.9999) * power;
}

/** The same for seconds, as clocks divide them. */
export function roundUpSpan(value) {
  const steps = [30, 60, 120, 600, 1800, 3600, 7200, 21600, 43200, 86400];
  if (value <= 10) return roundUp(value);
  return [20, ...steps].find((step) => step >= value) ?? 86400 * roundUp(value / 86400);
}

export class Chart {
  /** `lines`: name and the sample's property; `least`: the axis ends no lower, and where `ceiling` says; `format`: a value as text. */
  constructor(parent, title, lines, { least, format, ceiling = roundUp }) {
    this.title = title;
    this.lines = lines.map(([name, property], index) => ({ name, property, class: index === 1 ? "b" : "" }));
    this.least = least;
    this.format = format;
    this.ceiling = ceiling;
    this.samples = [];
    this.values = this.lines.map((line) => ({ line, value: element("b", {}, "–") }));
    const legend = this.values.map(({ line, value }) =>
      element("span", { class: `key ${line.class}` }, `${line.name} `, value));
    this.when = element("span", {});
    this.svg = shape("svg", { role: "img", onpointermove: (event) => this.point(event), onpointerleave: () => this.leave() });
    const caption = element("figcaption", {}, title, element("span", { class: "legend" }, ...legend, this.when));
    parent.append(element("figure", {}, caption, this.svg));
    new ResizeObserver(() => this.paint()).observe(this.svg);
  }

  draw(samples, now) {
    this.samples = samples;
    this.now = now;
    this.paint();
  }

  paint() {
    this.width = this.svg.clientWidth;
    if (!this.width || this.now === undefined) return;
    const known = this.samples.flatMap((sample) => this.lines.map((line) => sample[line.property] ?? 0));
    const highest = Math.max(0, ...known);
    this.top = this.ceiling(Math.max(highest, this.least));
    const labels = [this.top, this.top / 2, 0].map((value) => [value, value === 0 ? "0" : this.format(value)]);
    this.left = 10 + Math.max(...labels.map(([, text]) => text.length)) * 6.2;
    this.svg.replaceChildren(...this.grid(labels), ...this.lines.flatMap((line, index) => this.line(line, index)));
    this.cursor = shape("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    this.svg.append(this.cursor);
    const current = this.samples.at(-1);
    const described = this.lines.map((line) => `${line.name} ${this.text(current?.[line.property])}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.title}: now ${described}; highest in 15 minutes ${this.format(highest)}`);
    if (this.held === undefined) this.tell(current);
    else this.hold(this.held);
  }

  text(value) {
    return value === null || value === undefined ? "–" : this.format(value);
  }

  x(at) {
    return this.left + (1 - (this.now - at) / SECONDS) * (this.width - this.left - 2);
  }

  y(value) {
    return TOP + (1 - value / this.top) * (HEIGHT - TOP - BOTTOM);
  }

  grid(labels) {
    const across = labels.flatMap(([value, text]) => {
      const y = Math.round(this.y(value));
      return [
        shape("line", { class: "grid", x1: this.left, x2: this.width, y1: y, y2: y }),
        shape("text", { x: this.left - 6, y: y + 4, "text-anchor": "end" }, text),
      ];
    });
    const along = MARKS.map(([offset, text], index) => {
      const anchor = index === 0 ? "start" : index === MARKS.length - 1 ? "end" : "middle";
      return shape("text", { x: this.x(this.now + offset), y: HEIGHT - 4, "text-anchor": anchor }, text);
    });
    return [...across, ...along];
  }

  /** One path; it breaks where nothing is known. The first line's area is filled. */
  line(line, index) {
    let path = "";
    let area = "";
    let before;
    let first = 0;
    const close = () => {
      if (!before) return;
      const x = this.x(before.at).toFixed(1);
      path += "h.1";
      area += `L${x},${this.y(0)}L${first},${this.y(0)}Z`;
    };
    for (const sample of this.samples) {
      const value = sample[line.property];
      if (value === null || value === undefined || (before && sample.at - before.at > 10)) {
        close();
        before = undefined;
        if (value === null || value === undefined) continue;
      }
      const x = Math.max(this.left, this.x(sample.at)).toFixed(1);
      if (!before) first = x;
      const step = `${before ? "L" : "M"}${x},${this.y(value).toFixed(1)}`;
      path += step;
      area += step;
      before = sample;
    }
    close();
    const shapes = [shape("path", { class: `line ${line.class}`, d: path })];
    if (index === 0) shapes.unshift(shape("path", { class: "area", d: area }));
    return shapes;
  }

  point(event) {
    const along = (event.clientX - this.svg.getBoundingClientRect().left - this.left) / (this.width - this.left - 2);
    this.hold((1 - along) * SECONDS);
  }

  leave() {
    this.held = undefined;
    this.cursor?.setAttribute("visibility", "hidden");
    this.tell(this.samples.at(-1));
  }

  /** Shows the sample nearest to `ago` seconds before now, and stays there while time goes on. */
  hold(ago) {
    const at = this.now - Math.min(Math.max(ago, 0), SECONDS);
    const distance = (sample) => Math.abs(sample.at - at);
    const nearest = this.samples.reduce((best, sample) => (best && distance(best) <= distance(sample) ? best : sample), undefined);
    if (!nearest) return;
    this.held = ago;
    const x = Math.round(Math.max(this.left, this.x(nearest.at)));
    for (const [name, value] of [["x1", x], ["x2", x], ["visibility", "visible"]]) this.cursor.setAttribute(name, value);
    this.tell(nearest, clock(nearest.at));
  }

  tell(sample, when = "") {
    for (const { line, value } of this.values) say(value, this.text(sample?.[line.property]));
    say(this.when, when);
  }
}
