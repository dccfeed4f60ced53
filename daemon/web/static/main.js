// Wires the page: asks every few seconds, at once after an event, and never lets old state pass for live.

import { Agents } from "./agents.js";
import { get, now_s } from "./api.js";
import { Detail } from "./detail.js";
import { byId, say, setClass, setText } from "./dom.js";
import { clock } from "./format.js";
import { Host } from "./host.js";
import { addEvent, addGap, showAlerts, showEvents, showUpdates } from "./lists.js";
import { EventStream } from "./stream.js";

const ASK_MS = 5000;
const SLOW_ROUNDS = 3; // node, alerts and updates: every third round, and after an event about them
const HISTORY_ROUNDS = 6;
const OLD_S = 12; // two rounds that did not come
const SOON_MS = 150; // events come in flocks
const EVENTS_FIRST = 100;

const host = new Host();
const detail = new Detail(() => soon(true), () => { location.hash = ""; });
const agents = new Agents((id) => { location.hash = `agent=${encodeURIComponent(id)}`; });
const stream = new EventStream({
  onEvent: (event) => {
    lastEventId = event.id;
    addEvent(event);
    if (event.severity !== "info") say(event.message);
    soon(/^(alert|update|config|daemon|manager)\./.test(event.type));
  },
  onGap: (lost) => { addGap(lost); soon(true); },
  onState: (open, why) => {
    const news = open !== streamOpen;
    streamOpen = open;
    streamWhy = why;
    if (news) soon(true); // a stream that broke off is often the first sign that the daemon is gone
    judge();
  },
});

let daemon = null; // which daemon answered last: pid and start
let pageVersion = "";
let lastEventId = "";
let eventsShown = false;
let streamOpen = false, streamWhy = "";
let answered_s = 0, failed = "";
let round = 0, timer = 0, asking = false, again = false, slowToo = false;

// ---------------------------------------------------------------- what is true

/** Decides, from what is known now, whether the page shows the present, and says so. */
function judge() {
  const age = performance.now() / 1000 - answered_s;
  const old = !answered_s || failed !== "" || age > OLD_S;
  const live = !old && streamOpen;
  document.body.classList.toggle("stale", answered_s > 0 && old);
  byId("events").classList.toggle("idle", !streamOpen);
  const badge = byId("live");
  setClass(badge, `badge ${live ? "live" : answered_s || failed ? "cut" : ""}`);
  setText(badge, live ? "live" : old ? (answered_s || failed ? "cut off" : "connecting") : "no events");
  let text = "";
  if (old && answered_s) {
    const since = clock(new Date(Date.now() - age * 1000).toISOString());
    text = `Cut off: what is shown was true at ${since}. ${failed || "The daemon does not answer"}. Trying again.`;
  } else if (old && failed) text = `The daemon does not answer: ${failed}. Trying again.`;
  else if (!old && !streamOpen && streamWhy) text = `The stream of events is cut (${streamWhy}); state is still asked for every ${ASK_MS / 1000} s. Trying again.`;
  else if (pageVersion && daemon && daemon.daemon_version !== pageVersion) {
    text = `The daemon is now version ${daemon.daemon_version}, this page is of ${pageVersion}: load it again.`;
  }
  for (const id of ["banner", "detail-banner"]) { // on a phone the details cover the page, and so its banner
    setText(byId(id), text);
    byId(id).hidden = !text;
  }
  return !old;
}

// ---------------------------------------------------------------- asking

async function ask(slow) {
  const asked_at = now_s();
  const [list, metrics] = await Promise.all([get("/v1/agents"), get("/v1/metrics")]);
  agents.show(list.agents, asked_at);
  host.show(metrics);
  if (detail.id) detail.show(agents.get(detail.id));
  if (!slow) return;
  const [node, alerts, updates] = await Promise.all([get("/v1/node"), get("/v1/alerts"), get("/v1/updates")]);
  showNode(node);
  showAlerts(alerts.alerts);
  showUpdates(updates.updates);
}

function showNode(node) {
  if (daemon && (daemon.pid !== node.pid || daemon.started_at !== node.started_at)) {
    say("the daemon was started anew");
    detail.history();
  }
  daemon = node;
  pageVersion ||= node.daemon_version;
  document.title = `${node.hostname}: hostdaemon`;
  setText(byId("host"), node.hostname);
  const parts = [`hostdaemon ${node.daemon_version}`, `pid ${node.pid}`, `since ${clock(node.started_at)}`, `${node.os} ${node.arch}`, node.ip];
  for (const [name, value] of Object.entries(node.labels)) parts.push(`${name}=${value}`);
  if (node.manager.address) parts.push(node.manager.connected ? `Manager ${node.manager.address}` : `Manager ${node.manager.address} is away: ${node.manager.last_error ?? "connecting"}`);
  if (!node.config.ok) parts.push(`the configuration file is refused: ${node.config.error}`);
  if (node.storage_error) parts.push(`state cannot be saved: ${node.storage_error}`);
  setText(byId("node"), parts.filter(Boolean).join(" · "));
}

async function tick() {
  clearTimeout(timer);
  if (document.hidden) return;
  if (asking) { again = true; return; }
  asking = true;
  const slow = slowToo || round % SLOW_ROUNDS === 0;
  slowToo = false;
  const begun_s = performance.now() / 1000;
  try {
    await ask(slow);
    answered_s = begun_s;
    failed = "";
    round += 1;
    if (detail.id && round % HISTORY_ROUNDS === 0) detail.history();
    if (!eventsShown) await firstEvents();
  } catch (error) {
    failed = error.message;
    slowToo = true;
  }
  asking = false;
  judge();
  if (!document.hidden) timer = setTimeout(tick, again ? SOON_MS : failed ? 2000 : ASK_MS);
  again = false;
}

/** Asks soon; several wishes become one question. */
function soon(slow = false) {
  slowToo ||= slow;
  if (asking) { again = true; return; }
  clearTimeout(timer);
  timer = setTimeout(tick, SOON_MS);
}

async function firstEvents() {
  const { events } = await get(`/v1/events?once&limit=${EVENTS_FIRST}`);
  showEvents(events);
  eventsShown = true;
  lastEventId = events.at(-1)?.id ?? "";
  stream.start(lastEventId);
}

// ---------------------------------------------------------------- the page itself

function route() {
  const found = /^#agent=(.+)$/.exec(location.hash), before = detail.id;
  let id = "";
  try {
    id = found ? decodeURIComponent(found[1]) : "";
  } catch { /* a mistyped address names no agent */ }
  if (id === before) return;
  if (before) detail.close();
  if (id) {
    detail.open(id);
    detail.show(agents.get(id));
  } else if (before) agents.focus(before);
  agents.mark(id);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(timer);
    stream.stop();
    streamOpen = false;
    streamWhy = "";
    detail.pause();
    return;
  }
  judge(); // before anything else: what is shown is as old as the pause was long
  if (eventsShown) stream.start(lastEventId);
  if (detail.id) detail.follow();
  tick();
});
window.addEventListener("hashchange", route);
setInterval(() => {
  if (document.hidden || !judge()) return;
  agents.tick();
  if (detail.id) detail.show(agents.get(detail.id));
}, 1000);

await tick();
route();
