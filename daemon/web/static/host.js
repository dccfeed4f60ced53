// The host's own CPU, memory, disk and network. The daemon keeps the newest sample of each collector: the
// history shown is what came while the page was open.

import { Chart } from "./charts.js";
import { byId, setText } from "./dom.js";
import { bytes, percent, seconds } from "./format.js";

const KEPT = 720; // samples: two hours at the default ten seconds
const perSecond = (value) => `${bytes(value)}/s`;

class Tile {
  #chart;
  #data;
  #last = null;

  constructor(name, labels, text, top, binary = false) {
    this.name = name;
    this.#chart = new Chart(byId(`${name}-chart`), labels, text, top, binary);
    this.#data = [[], ...labels.map(() => [])];
  }

  /** A sample is drawn once, by its time; a gap of a cut connection or a restart stays a gap. */
  take(sample, values) {
    const at = seconds(sample.timestamp);
    if (at === null || (this.#last !== null && at <= this.#last)) return;
    const usual = this.#data[0].length > 1 ? this.#data[0][1] - this.#data[0][0] : Infinity;
    if (this.#last !== null && at - this.#last > 4 * Math.max(usual, 5)) this.#push(this.#last + 1, values.map(() => null));
    this.#push(at, values);
    this.#last = at;
    this.#chart.show(this.#data);
  }

  #push(at, values) {
    this.#data[0].push(at);
    values.forEach((value, n) => this.#data[n + 1].push(value ?? null));
    if (this.#data[0].length > KEPT) this.#data.forEach((column) => column.shift());
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
