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
const RETRY_MS = 2000;
const SLOW_ROUNDS = 3; // node, alerts and updates: every third round, and after an event about them
const HISTORY_ROUNDS = 6;
const HOST_ROUNDS = 12; // a minute: what came since is drawn as it comes
const OLD_S = 8; // a round, and three seconds in which its answer did not come
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
  onState: (way, why) => {
    const news = way !== eventsBy && (way === "cut" || eventsBy === "cut");
    eventsBy = way;
    cutWhy = why;
    if (news) soon(true); // a stream that broke off is often the first sign that the daemon is gone
    judge();
  },
});

let daemon = null; // which daemon answered last: pid and start
let pageVersion = "";
let lastEventId = "";
let eventsShown = false;
let eventsBy = "", cutWhy = ""; // "stream", "asked", "cut", or nothing yet
let answered = null, failed = "";
let round = 0, timer = 0, asking = false, again = false, slowToo = false;

// ---------------------------------------------------------------- what is true

const moment = () => ({ steady_ms: performance.now(), wall_ms: Date.now() });

/** The steady clock stands still while a computer sleeps, the other may be set: the older answer counts. */
const age_s = (since) => Math.max(performance.now() - since.steady_ms, Date.now() - since.wall_ms) / 1000;

/** Decides, from what is known now, whether the page shows the present, and says so. */
function judge() {
  const old = !answered || failed !== "" || age_s(answered) > OLD_S;
  const flowing = eventsBy === "stream" || eventsBy === "asked", live = !old && flowing, tried = answered || failed;
  document.body.classList.toggle("stale", old && answered !== null);
  byId("events").classList.toggle("idle", !flowing);
  const badge = byId("live");
  setClass(badge, `badge ${live ? "live" : tried && (old || cutWhy) ? "cut" : ""}`);
  setText(badge, live ? "live" : old ? (tried ? "cut off" : "connecting") : cutWhy ? "no events" : "connecting");
  setText(byId("events-said"), eventsBy === "asked" ? `asked for every ${ASK_MS / 1000} s: other windows of this page hold the streams` : "");
  let text = "";
  if (old && answered) {
    const since = clock(new Date(answered.wall_ms).toISOString());
    text = `Cut off: what is shown was true at ${since}. The daemon does not answer${failed && `: ${failed}`}. Trying again.`;
  } else if (old && failed) text = `The daemon does not answer: ${failed}. Trying again.`;
  else if (!old && eventsBy === "cut") text = `The stream of events is cut (${cutWhy}); state is still asked for every ${ASK_MS / 1000} s. Trying again.`;
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
  if (detail.id) detail.show(agents.get(detail.id), true);
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
  const begun = moment(), cut = failed !== "";
  try {
    await ask(slow);
    answered = begun;
    failed = "";
    round += 1;
    if (cut || round % HOST_ROUNDS === 1) host.history();
    if (detail.id && (round % HISTORY_ROUNDS === 0 || detail.empty)) detail.history();
    if (detail.id && cut) detail.follow(); // its connection may be as dead as the others, and says nothing
    if (!eventsShown) await firstEvents();
  } catch (error) {
    failed = error.message;
    slowToo = true;
  }
  asking = false;
  judge();
  const spent_ms = performance.now() - begun.steady_ms; // what answers slowly is not asked less often, or it would pass for cut
  if (!document.hidden) timer = setTimeout(tick, again ? SOON_MS : failed ? RETRY_MS : Math.max(SOON_MS, ASK_MS - spent_ms));
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
    detail.show(agents.get(id), answered !== null);
  } else if (before) agents.focus(before);
  agents.mark(id);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(timer);
    stream.stop();
    eventsBy = cutWhy = "";
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
  if (detail.id) detail.show(agents.get(detail.id), true);
}, 1000);

await tick();
route();
