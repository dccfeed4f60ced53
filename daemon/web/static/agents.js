// The table of agents. Rows are made once and kept; each answer writes the cells that differ, no others, so a
// hundred agents cost no layout while nothing happens, and focus and reading position stay where they are.

import { now_s } from "./api.js";
import { byId, make, setClass, setText } from "./dom.js";
import { DASH, bytes, percent, seconds, span } from "./format.js";

const STATES = { running: "good", stopped: "idle", failed: "bad" };
const HEALTHS = { healthy: "good", dead: "bad", starting: "wait" };

/** Whether somebody should look: it is not what is wanted, or not healthy. */
export function isIll(agent) {
  if (agent.wanted === "stopped") return agent.status !== "stopped";
  return agent.enabled && (agent.status !== "running" || !["healthy", "starting"].includes(agent.health.status));
}

export const stateKind = (agent) => STATES[agent.status] ?? "wait";

export function healthKind(agent) {
  return agent.status === "stopped" ? "idle" : HEALTHS[agent.health.status] ?? "bad";
}

export const healthText = (agent) => agent.status === "stopped" && agent.wanted === "stopped" ? DASH : agent.health.status.replaceAll("_", " ");

/** Uptime goes on between two answers; `asked_at` is when the answer was true. */
export const uptime = (agent, asked_at) => agent.pid === null ? DASH : span(agent.uptime_seconds + Math.max(0, now_s() - asked_at));

export function heartbeat(agent) {
  const at = seconds(agent.last_heartbeat);
  return at === null ? "never" : `${span(now_s() - at)} ago`;
}

class Row {
  constructor(id, open) {
    this.id = id;
    this.button = make("button", "", id);
    this.button.type = "button";
    this.button.addEventListener("click", () => open(id));
    this.note = make("small", "narrow");
    const head = make("th", "c-id", "", this.button, this.note);
    head.scope = "row";
    this.cells = {};
    this.element = make("tr", "", "", head);
    for (const [name, kind] of [
      ["state", "c-state"], ["health", "c-health wide"], ["why", "c-why wide"], ["pid", "c-n wide"], ["uptime", "c-n mid"],
      ["restarts", "c-n mid"], ["cpu", "c-n"], ["rss", "c-n"], ["version", "c-n mid"], ["heartbeat", "c-n wide"],
    ]) {
      const text = make("span");
      this.cells[name] = text;
      this.element.append(make("td", kind, "", text));
    }
  }

  show(agent, asked_at) {
    this.agent = agent;
    this.asked_at = asked_at;
    const cells = this.cells;
    setText(cells.state, agent.enabled ? agent.status : "disabled");
    setClass(cells.state, agent.enabled ? stateKind(agent) : "idle");
    setText(cells.health, healthText(agent));
    setClass(cells.health, healthKind(agent));
    setText(cells.why, agent.why);
    if (cells.why.title !== agent.why) cells.why.title = agent.why;
    setText(cells.pid, agent.pid === null ? DASH : String(agent.pid));
    setText(cells.restarts, String(agent.restart_count));
    setText(cells.cpu, percent(agent.cpu_percent));
    setText(cells.rss, bytes(agent.memory_bytes));
    setText(cells.version, agent.version || DASH);
    setText(this.note, isIll(agent) ? agent.why : "");
    this.tick();
  }

  tick() {
    setText(this.cells.uptime, uptime(this.agent, this.asked_at));
    setText(this.cells.heartbeat, heartbeat(this.agent));
  }
}

export class Agents {
  #rows = new Map();
  #open;
  #opened = "";

  /** `open(id)` is called when somebody wants an agent's details. */
  constructor(open) {
    this.#open = open;
    byId("find").addEventListener("input", () => this.#filter());
    byId("ill").addEventListener("change", () => this.#filter());
  }

  get(id) {
    const row = this.#rows.get(id);
    return row ? { agent: row.agent, asked_at: row.asked_at } : null;
  }

  show(agents, asked_at) {
    const body = byId("rows"), there = new Set(agents.map((agent) => agent.id));
    for (const [id, row] of this.#rows) {
      if (!there.has(id)) { row.element.remove(); this.#rows.delete(id); }
    }
    let place = body.firstElementChild;
    for (const agent of agents) {
      let row = this.#rows.get(agent.id);
      if (!row) this.#rows.set(agent.id, row = new Row(agent.id, this.#open));
      row.show(agent, asked_at);
      if (row.element === place) place = place.nextElementSibling;
      else body.insertBefore(row.element, place);
    }
    this.#filter();
  }

  /** Once a second, while what is shown is true. */
  tick() {
    for (const row of this.#rows.values()) if (!row.element.hidden) row.tick();
  }

  mark(id) {
    this.#rows.get(this.#opened)?.element.classList.remove("open");
    this.#opened = id;
    this.#rows.get(id)?.element.classList.add("open");
  }

  focus(id) {
    (this.#rows.get(id)?.button ?? byId("agents-title")).focus();
  }

  #filter() {
    const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean), onlyIll = byId("ill").checked;
    let shown = 0, running = 0, ill = 0;
    for (const { agent, element } of this.#rows.values()) {
      const text = `${agent.id} ${agent.name} ${agent.type} ${agent.status} ${agent.health.status} ${agent.version}`.toLowerCase();
      const bad = isIll(agent), fits = words.every((word) => text.includes(word)) && (bad || !onlyIll);
      if (element.hidden === fits) element.hidden = !fits;
      shown += fits; ill += bad; running += agent.status === "running";
    }
    const all = this.#rows.size;
    setText(byId("agents-count"), `${running} of ${all} running${ill ? `, ${ill} not well` : ""}${shown < all ? `; ${shown} shown` : ""}`);
    byId("no-agents").hidden = shown > 0;
  }
}
