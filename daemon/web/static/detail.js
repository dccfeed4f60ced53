// One agent: facts, what it used, its log, and the three operations.

import { agentPath, get, post } from "./api.js";
import { healthText, heartbeat, uptime } from "./agents.js";
import { Chart } from "./charts.js";
import { byId, make, say, setText } from "./dom.js";
import { DASH, bytes, clock, percent, seconds, span } from "./format.js";
import { LogTail } from "./log.js";
import { askToken } from "./token.js";

const POINTS = 240; // a chart has about as many pixels
const COVERS = matchMedia("(max-width:38rem)"); // as wide as the panel is in the stylesheet
const VERBS = ["start", "stop", "restart"];

function lastExit(agent) {
  return agent.last_exit === null ? "none" : `${agent.last_exit.reason} (${clock(agent.last_exit.at)})`;
}

export class Detail {
  id = "";
  empty = false; // no sample has come yet, though the agent runs
  #facts = new Map();
  #tail = new LogTail();
  #charts = null;
  #busy = new Map(); // id to the verb that is under way
  #outcomes = new Map();
  #agent = null;
  #changed;
  #asking = 0;
  #every_s = 0; // between two samples; 0: not asked yet

  /** `changed()` is called when an operation may have changed something; `close()` when the panel is to go. */
  constructor(changed, close) {
    this.#changed = changed;
    for (const verb of VERBS) byId(`do-${verb}`).addEventListener("click", () => this.#operate(verb));
    byId("detail-close").addEventListener("click", close);
    document.addEventListener("keydown", (event) => {
      // What has its own Escape comes first: the dialog, and a search that holds words.
      if (event.key !== "Escape" || !this.id || byId("ask").open || (event.target.type === "search" && event.target.value)) return;
      close();
    });
    COVERS.addEventListener("change", () => this.#cover());
    byId("range").addEventListener("change", () => this.history());
    let pause = 0;
    byId("grep").addEventListener("input", () => {
      clearTimeout(pause);
      pause = setTimeout(() => { if (this.id) this.follow(); }, 400);
    });
  }

  open(id) {
    this.id = id;
    this.#agent = null;
    document.body.classList.add("detailed");
    byId("detail").hidden = false;
    this.#cover();
    byId("detail").scrollTop = 0;
    setText(byId("detail-title"), id);
    byId("grep").value = "";
    this.#charts ??= [
      new Chart(byId("agent-cpu"), ["CPU"], (value) => `${Math.round(value)} %`, 5),
      new Chart(byId("agent-memory"), ["resident memory"], bytes, 1 << 20, true),
    ];
    this.#charts.forEach((chart) => chart.show([[], []]));
    this.#every_s = 0;
    this.empty = false;
    setText(byId("history-said"), "");
    this.#say();
    this.follow();
    this.history();
    byId("detail-title").focus();
  }

  close() {
    this.#tail.stop();
    this.id = "";
    document.body.classList.remove("detailed");
    byId("detail").hidden = true;
    this.#cover();
  }

  /** Nobody's focus goes to what the panel covers. */
  #cover() {
    byId("main").inert = this.id !== "" && COVERS.matches;
  }

  /** Streams end while nobody looks: a browser has six connections for all its tabs. */
  pause() {
    this.#tail.stop();
    if (this.id) setText(byId("log-said"), "paused");
  }

  follow() {
    this.#tail.start(this.id, byId("grep").value);
  }

  /** `known`: whether the daemon has said which agents there are. */
  show(found, known) {
    this.#agent = found?.agent ?? null;
    this.#buttons();
    if (!found) {
      if (this.#facts.size > 1) { // what it was must not pass for what is
        byId("facts").replaceChildren();
        this.#facts.clear();
      }
      this.#fact("state", known ? "there is no such agent in the configuration (any more)" : "not known yet");
      return;
    }
    const { agent, asked_at } = found;
    const facts = {
      state: agent.enabled ? `${agent.status}, wanted ${agent.wanted}` : "disabled in the configuration", why: agent.why,
      health: `${healthText(agent)}: ${agent.health.reason}`, pid: agent.pid === null ? DASH : String(agent.pid),
      uptime: uptime(agent, asked_at), heartbeat: heartbeat(agent), version: agent.version || DASH,
      CPU: percent(agent.cpu_percent), RSS: bytes(agent.memory_bytes),
      restarts: `${agent.restart_count} since the last reset, ${agent.lifetime_restarts} ever`,
      "next try": clock(agent.next_try), "last exit": lastExit(agent), type: agent.type, binary: agent.binary_path || DASH,
      "config file": agent.config_file || DASH, "log file": agent.log_file,
    };
    for (const [name, text] of Object.entries(facts)) this.#fact(name, text);
  }

  #fact(name, text) {
    let value = this.#facts.get(name);
    if (!value) {
      value = make("dd");
      this.#facts.set(name, value);
      byId("facts").append(make("dt", "", name), value);
    }
    setText(value, text);
  }

  async history() {
    if (!this.id) return;
    const id = this.id, duration = Number(byId("range").value), mine = this.#asking += 1;
    try {
      const query = `?duration=${duration}&step=${Math.max(1, Math.round(duration / POINTS))}`;
      const points = (await get(agentPath(id, `/metrics${query}`))).data_points;
      if (mine !== this.#asking || id !== this.id) return; // somebody asked for something else meanwhile
      const at = points.map((point) => seconds(point.timestamp));
      this.#charts[0].show([at, points.map((point) => point.cpu)]);
      this.#charts[1].show([at, points.map((point) => point.memory_rss)]);
      this.empty = !points.length && this.#agent !== null && this.#agent.pid !== null;
      const why = points.length ? "" : await this.#whyEmpty();
      if (mine === this.#asking && id === this.id) setText(byId("history-said"), why);
    } catch (error) {
      if (mine === this.#asking) setText(byId("history-said"), `the history cannot be read: ${error.message}`);
    }
  }

  async #whyEmpty() {
    if (!this.empty) return "no samples of this time: the agent does not run";
    this.#every_s ||= (await get("/v1/config")).resources.interval;
    return `no samples of this time yet: one is taken every ${span(this.#every_s)}`;
  }

  #buttons() {
    const busy = this.#busy.has(this.id), agent = this.#agent;
    for (const verb of VERBS) {
      const button = byId(`do-${verb}`);
      const off = busy || !agent || !agent.enabled || (verb === "start" && agent.status === "running");
      if (button.disabled !== off) button.disabled = off;
    }
  }

  #say() {
    const busy = this.#busy.get(this.id);
    setText(byId("outcome"), busy ? `${busy} is under way` : this.#outcomes.get(this.id) ?? "");
    this.#buttons();
  }

  async #operate(verb) {
    const id = this.id;
    this.#busy.set(id, verb);
    this.#outcomes.delete(id);
    this.#say();
    let outcome;
    try {
      const done = await post(agentPath(id, `/${verb}`), askToken);
      const notes = [done.message, ...(done.warnings ?? [])].filter(Boolean);
      outcome = `${verb}: ${notes.length ? notes.join("; ") : `done, it is ${done.status}`}`;
    } catch (error) {
      outcome = `${verb} refused or failed: ${error.message}`;
    }
    this.#busy.delete(id);
    this.#outcomes.set(id, outcome);
    if (id === this.id) this.#say();
    else say(`${id}: ${outcome}`);
    this.#changed();
  }
}
