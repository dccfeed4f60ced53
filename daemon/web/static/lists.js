// Alerts, updates and events as lists.

import { byId, make, setText } from "./dom.js";
import { clock } from "./format.js";

const EVENTS_KEPT = 200;
const UPDATES_SHOWN = 10;
const SEVERITIES = { error: "bad", critical: "bad", warn: "wait" };
const UPDATE_KINDS = { succeeded: "good", running: "wait", accepted: "wait", cancelled: "idle" };

function moment(text) {
  const made = make("time", "", clock(text));
  if (text) { made.dateTime = text; made.title = text; }
  return made;
}

/** Replaces a list only when something in it is different: what did not change is not touched or read out again. */
function fill(list, things, item) {
  const key = JSON.stringify(things);
  if (list.dataset.shown === key) return;
  list.dataset.shown = key;
  list.replaceChildren(...things.map(item));
}

export function showAlerts(alerts) {
  const item = (alert) => {
    const kind = make("strong", SEVERITIES[alert.severity] ?? "", alert.type.replaceAll("_", " "));
    const over = alert.cleared_at ? `, over ${clock(alert.cleared_at)}` : "";
    return make("li", alert.severity, "", moment(alert.timestamp), kind, make("span", "", ` ${alert.message}${over}`));
  };
  const mild = (alert) => Number(SEVERITIES[alert.severity] !== "bad"); // the list scrolls: what is worst is not below its edge
  const standing = alerts.filter((alert) => alert.cleared_at === null).sort((a, b) => mild(a) - mild(b));
  fill(byId("alerts"), standing, item);
  fill(byId("cleared"), alerts.filter((alert) => alert.cleared_at !== null).slice(0, 50), item);
  byId("alerts-section").hidden = !standing.length;
  setText(byId("alerts-title"), standing.length === 1 ? "1 alert" : `${standing.length} alerts`);
}

export function showUpdates(updates) {
  fill(byId("updates"), updates.slice(0, UPDATES_SHOWN), (update) => {
    const over = update.success !== null;
    const where = over ? update.state.replaceAll("_", " ") : `${update.step}, ${Math.round(update.progress * 100)} %`;
    const error = update.error ? `: ${update.code ? `${update.code} ` : ""}${update.error}` : "";
    const versions = update.old_version ? `${update.old_version} to ${update.version}` : update.version;
    return make("li", "", "", moment(update.started_at), make("strong", "", update.component), make("span", "", ` ${versions} `),
      make("span", UPDATE_KINDS[update.state] ?? "bad", where), make("span", "", error));
  });
}

function eventItem(event) {
  return make("li", "", "", moment(event.at), make("span", SEVERITIES[event.severity] ?? "idle", event.type),
    make("span", "", ` ${event.message}`));
}

/** The newest first; `events` come oldest first. */
export function showEvents(events) {
  byId("events").replaceChildren(...events.map(eventItem).reverse());
}

export function addEvent(event) {
  const list = byId("events");
  list.prepend(eventItem(event));
  while (list.childElementCount > EVENTS_KEPT) list.lastElementChild.remove();
}

export function addGap(lost) {
  byId("events").prepend(make("li", "wait", lost === null ? "events are missing here" : `${lost} events are missing here`));
}
