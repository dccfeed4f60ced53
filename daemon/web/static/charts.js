// Line charts over time, drawn by uPlot, with a sentence for who cannot see them.

import { span } from "./format.js";

const uPlot = window.uPlot; // a classic script that has run before this module

const SHORT_S = 60; // a chart of a few samples is no narrower than this
const TWOS = Array.from({ length: 45 }, (_none, n) => 2 ** n); // steps of an axis of bytes

const colour = (name) => () => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The span of the time axis; uPlot's own guess for a single sample is a day. */
function spread(times) {
  const end = times.at(-1) ?? Date.now() / 1000;
  return [Math.min(times[0] ?? end, end - SHORT_S), end];
}

function moment(at, of_s) {
  const seconds = of_s < 300 ? { second: "2-digit" } : {};
  return new Date(at * 1000).toLocaleTimeString([], { hour12: false, hour: "2-digit", minute: "2-digit", ...seconds });
}

export class Chart {
  #plot = null;
  #data;
  #labels;
  #text;
  #host;

  /** `labels`: one per line; `text(value)`: a value as people read it; `top`: the least upper end of the scale; `binary`: of bytes. */
  constructor(host, labels, text, top, binary = false) {
    this.#host = host;
    this.#labels = labels;
    this.#text = text;
    this.#data = [[], ...labels.map(() => [])];
    host.setAttribute("role", "img");
    host.setAttribute("aria-label", `${labels.join(" and ")}: no samples yet`);
    const axis = { stroke: colour("--dim"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    this.#plot = new uPlot({
      width: Math.max(80, host.clientWidth), height: host.clientHeight || 110,
      legend: { show: false }, cursor: { show: false }, padding: [6, 18, 0, 0],
      scales: { x: { range: (plot) => spread(plot.data[0]) }, y: { range: (_plot, _least, most) => [0, Math.max(top, (most ?? 0) * 1.1)] } },
      axes: [
        { ...axis, size: 20, space: 62, values: (_plot, at) => at.map((s) => moment(s, at.at(-1) - at[0])) },
        { ...axis, size: 62, space: 28, values: (_plot, at) => at.map(text), ...(binary ? { incrs: TWOS } : {}) },
      ],
      series: [{}, ...labels.map((label, n) => ({
        label, stroke: colour(n ? "--two" : "--one"), width: 1.5, points: { size: 4 }, spanGaps: false,
        ...(labels.length === 1 ? { fill: () => `${colour("--one")()}22` } : {}),
      }))],
    }, this.#data, host);
    new ResizeObserver(() => {
      if (host.clientWidth) this.#plot.setSize({ width: host.clientWidth, height: host.clientHeight });
    }).observe(host);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#plot.redraw());
  }

  /** Replaces everything: `[times, values, ...]`, times in Unix seconds, null for a gap. */
  show(data) {
    this.#data = data;
    this.#plot.setData(data);
    this.#host.setAttribute("aria-label", this.#sentence());
  }

  #sentence() {
    const times = this.#data[0];
    if (!times.length) return `${this.#labels.join(" and ")}: no samples`;
    const parts = this.#labels.map((label, n) => {
      const known = this.#data[n + 1].filter((value) => value !== null);
      if (!known.length) return `${label}: not known`;
      const [least, most] = known.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
      return `${label}: last ${this.#text(known[known.length - 1])}, from ${this.#text(least)} to ${this.#text(most)}`;
    });
    return `${parts.join("; ")}; over ${span(times[times.length - 1] - times[0])}`;
  }
}
