// The host's own CPU, memory, disk and network: what the daemon keeps of the time before, and what came since.

import { get, now_s } from "./api.js";
import { Chart } from "./charts.js";
import { byId, setText } from "./dom.js";
import { bytes, percent, seconds } from "./format.js";

const POINTS = 240; // a chart has about as many pixels
const KEPT = 720; // samples that came while the page was open: two hours at the default ten seconds
const GAP = 4; // samples that did not come make a gap, as of a restart or a cut connection
const perSecond = (value) => `${bytes(value)}/s`;
const share = (part, whole) => (part === null || !whole ? null : (100 * part) / whole);

/** The least time between two samples of a row of them; of one alone a minute. */
function pace(samples) {
  let least = Infinity;
  for (let n = 1; n < samples.length; n += 1) least = Math.min(least, samples[n].at - samples[n - 1].at);
  return Number.isFinite(least) ? Math.max(5, least) : 60;
}

class Tile {
  #chart;
  #lines;
  #past = [];
  #since = [];
  #from = 0;

  constructor(name, labels, text, top, binary = false) {
    this.name = name;
    this.#lines = labels.length;
    this.#chart = new Chart(byId(`${name}-chart`), labels, text, top, binary);
  }

  /** Takes what was before, from a moment on; `samples` are `{ at, values }`. */
  before(samples, from) {
    this.#past = samples;
    this.#from = from;
    this.#draw();
  }

  /** Takes the newest sample, once. */
  take(sample, values) {
    const at = seconds(sample.timestamp);
    if (at === null || at <= (this.#since.at(-1)?.at ?? -Infinity)) return;
    this.#since.push({ at, values });
    if (this.#since.length > KEPT) this.#since.shift();
    this.#draw();
  }

  #draw() {
    const known = this.#past.at(-1)?.at ?? -Infinity;
    const recent = this.#since.filter(({ at }) => at > known && at >= this.#from);
    const slow_s = GAP * pace(this.#past), quick_s = GAP * pace(recent);
    const data = [[], ...Array.from({ length: this.#lines }, () => [])];
    let last = null;
    const put = (at, values, gap_s) => {
      if (last !== null && at - last > gap_s) data.forEach((column, n) => column.push(n ? null : last + 1));
      data.forEach((column, n) => column.push(n ? values[n - 1] ?? null : at));
      last = at;
    };
    for (const { at, values } of this.#past) put(at, values, slow_s);
    recent.forEach(({ at, values }, n) => put(at, values, n ? quick_s : Math.max(slow_s, quick_s)));
    this.#chart.show(data);
  }

  say(now, more) {
    setText(byId(`${this.name}-now`), now);
    setText(byId(`${this.name}-more`), more);
  }
}

export class Host {
  #cpu = new Tile("cpu", ["CPU"], (v) => `${Math.round(v)} %`, 100);
  #memory = new Tile("memory", ["memory"], (v) => `${Math.round(v)} %`, 100);
  #disk = new Tile("disk", ["read", "written"], perSecond, 1024, true);
  #network = new Tile("network", ["received", "sent"], perSecond, 1024, true);
  #io = null;
  #asking = 0;

  constructor() {
    byId("host-range").addEventListener("change", () => this.history());
  }

  /** Asks for the time before. */
  async history() {
    const duration_s = Number(byId("host-range").value), mine = this.#asking += 1;
    let points;
    try {
      points = (await get(`/v1/metrics/history?duration=${duration_s}&step=${Math.round(duration_s / POINTS)}`)).data_points;
    } catch (error) {
      if (mine === this.#asking) setText(byId("host-said"), `the history cannot be read: ${error.message}`);
      return;
    }
    if (mine !== this.#asking) return; // somebody asked for another time meanwhile
    setText(byId("host-said"), points.length ? "" : "nothing is kept of this time yet");
    const from = now_s() - duration_s;
    const of = (values) => points.map((point) => ({ at: seconds(point.timestamp), values: values(point) }));
    this.#cpu.before(of((p) => [p.cpu]), from);
    this.#memory.before(of((p) => [share(p.memory_used, p.memory_total)]), from);
    this.#disk.before(of((p) => [p.disk_read_per_second, p.disk_written_per_second]), from);
    this.#network.before(of((p) => [p.network_received_per_second, p.network_sent_per_second]), from);
  }

  show(metrics) {
    const { cpu, memory, disk, network } = metrics;
    for (const tile of [this.#cpu, this.#memory, this.#disk, this.#network]) {
      if (!metrics[tile.name]) tile.say("not measured", "its collector is off or has no sample yet");
    }
    if (cpu) {
      const v = cpu.values;
      this.#cpu.take(cpu, [v.usage_percent]);
      this.#cpu.say(percent(v.usage_percent), `load ${[v.load1, v.load5, v.load15].map((l) => l?.toFixed(2)).join(" ")}, ${v.cores} cores`);
    }
    if (memory) {
      const v = memory.values;
      this.#memory.take(memory, [v.usage_percent]);
      const swap = v.swap_total ? `, swap ${bytes(v.swap_used)} of ${bytes(v.swap_total)}` : "";
      this.#memory.say(percent(v.usage_percent), `${bytes(v.used_bytes)} of ${bytes(v.total_bytes)}${swap}`);
    }
    if (disk) this.#showDisk(disk);
    if (network) {
      const v = network.values;
      this.#network.take(network, [v.bytes_recv_per_second, v.bytes_sent_per_second]);
      this.#network.say(
        `${perSecond(v.bytes_recv_per_second)} in`,
        `${perSecond(v.bytes_sent_per_second)} out, ${v.interfaces?.length ?? 0} interfaces, ${v.errin + v.errout} errors`,
      );
    }
  }

  #showDisk(disk) {
    const v = disk.values, at = seconds(disk.timestamp), before = this.#io;
    if (before === null || at > before.at) {
      const rate = (key) => before && v[key] >= before[key] ? (v[key] - before[key]) / (at - before.at) : null;
      this.#disk.take(disk, [rate("read_bytes"), rate("write_bytes")]);
      this.#io = { at, read_bytes: v.read_bytes, write_bytes: v.write_bytes };
    }
    const fullest = [...(v.disks ?? [])].sort((a, b) => b.used_percent - a.used_percent).slice(0, 3);
    this.#disk.say(
      `${percent(v.usage_percent)} used`, fullest.map((d) => `${d.mountpoint} ${percent(d.used_percent)}, ${bytes(d.free)} free`).join("; "),
    );
  }
}
