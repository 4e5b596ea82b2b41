// Log-log plots in SVG that are changed in place: a point more moves one path, and nothing flickers.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 52, right: 12, top: 10, bottom: 40 };

// Viridis (matplotlib) at even steps, dark to light: told apart by lightness too, so by every eye.
const RAMP = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b"];

function colour(share) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const ramp = dark ? RAMP.slice(3) : RAMP.slice(0, 7); // what stands out from the page
  const at = Math.min(1, Math.max(0, share)) * (ramp.length - 1), low = Math.floor(at);
  const mix = at - low, [a, b] = [ramp[low], ramp[Math.min(low + 1, ramp.length - 1)]];
  const part = (hex, i) => parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16);
  return `rgb(${[0, 1, 2].map(i => Math.round(part(a, i) * (1 - mix) + part(b, i) * mix)).join(",")})`;
}

function short(value, digits = 3) {
  if (value === null || value === undefined || !isFinite(value)) return "";
  for (const [limit, suffix] of [[1e15, ""], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(value) >= limit)
      return suffix ? +(value / limit).toPrecision(digits) + suffix : value.toExponential(digits - 1);
  return String(+value.toPrecision(digits));
}

function make(parent, name, attributes = {}) {
  const element = document.createElementNS(SVG, name);
  set(element, attributes);
  if (parent) parent.append(element);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes))
    if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

// Where ticks stand between two values: whole decades, with 2 and 5, or finer where the span is narrow.
function ticks(low, high, most) {
  const within = steps => {
    const found = [];
    for (let k = Math.floor(Math.log10(low)); k <= Math.ceil(Math.log10(high)); k++)
      for (const step of steps) {
        const value = +(step * 10 ** k).toPrecision(6);
        if (value >= low * 0.9999 && value <= high * 1.0001) found.push(value);
      }
    return [...new Set(found)];
  };
  const tenths = [...Array(90).keys()].map(i => 1 + i / 10);
  const choices = [tenths, tenths.filter((_, i) => i % 2 === 0), [1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9],
                   [1, 2, 3, 4, 5, 7], [1, 2, 5], [1, 3], [1]];
  for (const steps of choices) {
    const found = within(steps);
    if (found.length <= most) return found;
  }
  const decades = within([1]);
  return decades.filter((_, i) => i % Math.ceil(decades.length / most) === 0);
}

class Plot {
  // `told(id)` is called with the series under the pointer, or null.
  constructor(place, title, xLabel, yLabel, told) {
    this.place = place; this.xLabel = xLabel; this.series = []; this.chosen = null; this.told = told;
    this.svg = make(null, "svg", { role: "img", "aria-label": title });
    place.append(this.svg);
    this.axes = make(this.svg, "g", { "aria-hidden": "true" });
    this.body = make(this.svg, "g");
    this.xText = make(this.svg, "text", { "text-anchor": "middle" });
    this.yText = make(this.svg, "text", { "text-anchor": "middle" });
    this.yText.textContent = yLabel;
    this.empty = make(this.svg, "text", { class: "empty", "text-anchor": "middle" });
    this.tip = document.createElement("div");
    this.tip.className = "tip"; this.tip.hidden = true;
    place.append(this.tip);
    this.elements = new Map();
    new ResizeObserver(() => this.redraw()).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
    this.svg.addEventListener("pointermove", event => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.choose(null));
  }

  // series: [{id, points: [[x, y]], shade: 0..1, kind: "line" | "dot" | "hollow", css, name}]; span: a range
  // of x that is shown whatever the points say, so that axes do not move while runs train.
  draw(series, empty, span = []) {
    this.series = series; this.said = empty; this.span = span;
    this.redraw();
  }

  redraw() {
    const width = this.place.clientWidth, height = this.svg.clientHeight;
    if (!width || !height) return;
    set(this.svg, { viewBox: `0 0 ${width} ${height}` });
    this.box = { x0: MARGIN.left, x1: width - MARGIN.right, y0: height - MARGIN.bottom, y1: MARGIN.top };
    const points = this.series.flatMap(one => one.points);
    this.empty.textContent = points.length ? "" : this.said || "";
    set(this.empty, { x: width / 2, y: height / 2 });
    if (points.length) {
      this.range = {
        x: this.round([...points.map(p => p[0]), ...(this.span || []).filter(v => v > 0)], 0.1),
        y: this.round(points.map(p => p[1]), 0.02),
      };
      this.drawAxes();
    }
    this.drawSeries();
    set(this.xText, { x: (this.box.x0 + this.box.x1) / 2, y: height - 4 });
    this.xText.textContent = this.xLabel;
    const middle = (this.box.y0 + this.box.y1) / 2;
    set(this.yText, { x: 12, y: middle, transform: `rotate(-90 12 ${middle})` });
  }

  // Least and largest in log10, to whole `steps`: an axis moves in steps, not with every point.
  round(values, step) {
    let low = Infinity, high = -Infinity;
    for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
    const range = [Math.floor(Math.log10(low) / step - 0.2) * step, Math.ceil(Math.log10(high) / step + 0.2) * step];
    return range;
  }

  at(x, y) {
    const { x0, x1, y0, y1 } = this.box, { x: [a, b], y: [c, d] } = this.range;
    return [x0 + (Math.log10(x) - a) / (b - a) * (x1 - x0), y0 + (Math.log10(y) - c) / (d - c) * (y1 - y0)];
  }

  drawAxes() {
    const { x0, x1, y0, y1 } = this.box, key = JSON.stringify([this.range, this.box]);
    if (key === this.drawn) return;
    this.drawn = key;
    this.axes.replaceChildren();
    const [xs, ys] = ["x", "y"].map(axis => this.range[axis].map(v => 10 ** v));
    for (const value of ticks(xs[0], xs[1], Math.max(3, Math.floor((x1 - x0) / 60)))) {
      const [x] = this.at(value, ys[0]);
      make(this.axes, "line", { class: "grid", x1: x, x2: x, y1: y0, y2: y1 });
      make(this.axes, "text", { x, y: y0 + 16, "text-anchor": "middle" }).textContent = short(value);
    }
    for (const value of ticks(ys[0], ys[1], Math.max(3, Math.floor((y0 - y1) / 34)))) {
      const [, y] = this.at(xs[0], value);
      make(this.axes, "line", { class: "grid", x1: x0, x2: x1, y1: y, y2: y });
      make(this.axes, "text", { x: x0 - 6, y: y + 4, "text-anchor": "end" }).textContent = short(value);
    }
    make(this.axes, "rect", { class: "frame", x: x0, y: y1, width: x1 - x0, height: y0 - y1 });
  }

  drawSeries() {
    const seen = new Set();
    for (const one of this.series) {
      if (!one.points.length) continue;
      const key = `${one.kind}:${one.id}`, line = one.kind === "line", tint = colour(one.shade);
      seen.add(key);
      let element = this.elements.get(key);
      if (!element) this.elements.set(key, element = make(this.body, line ? "path" : "circle"));
      const on = one.id === this.chosen ? " on" : "";
      set(element, { class: `series ${one.css || ""}${on}`, "data-id": one.id, "data-points": one.points.length });
      if (line) {
        const path = one.points.map(([x, y]) => this.at(x, y).map(v => v.toFixed(1)).join(" ")).join("L");
        set(element, { d: `M${path}`, stroke: tint });
      } else {
        const [x, y] = this.at(...one.points[one.points.length - 1]);
        set(element, { cx: x.toFixed(1), cy: y.toFixed(1), r: one.kind === "dot" ? 4 : 5, stroke: tint, "stroke-width": 1.6,
                       fill: one.kind === "dot" ? tint : "none" });
      }
    }
    for (const [key, element] of this.elements)
      if (!seen.has(key)) { element.remove(); this.elements.delete(key); }
    this.body.setAttribute("class", this.chosen ? "chosen" : "");
  }

  point(event) {
    if (!this.range || !this.series.length) return;
    const box = this.svg.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
    let best = null, least = 30 ** 2;
    for (const one of this.series)
      for (const [x, y] of one.points) {
        const [a, b] = this.at(x, y), distance = (a - px) ** 2 + (b - py) ** 2;
        if (distance < least) { least = distance; best = { one, x, y, a, b }; }
      }
    this.choose(best ? best.one.id : null);
    if (!best) return;
    this.tip.textContent = `${best.one.name}\n${short(best.x)}: ${best.y.toFixed(4)}`;
    this.tip.hidden = false;
    this.tip.style.left = `${Math.min(best.a + 12, box.width - this.tip.offsetWidth - 4)}px`;
    this.tip.style.top = `${Math.max(0, best.b - this.tip.offsetHeight - 10)}px`;
  }

  // One series stands out, the others step back; from the table or the pointer.
  choose(id) {
    if (id === null) this.tip.hidden = true;
    if (id === this.chosen) return;
    this.chosen = id;
    if (this.range) this.drawSeries();
    if (this.told) this.told(id);
  }
}
