// The end of an agent's log, followed. Text only, in bounded pieces.

import { agentPath } from "./api.js";
import { byId, setText } from "./dom.js";

const LINES = 200;
const KEPT = 2000; // lines
const RETRY_MS = 3000;
const PIECE_MS = 100; // a busy log is written to the page ten times a second, not once a line

export class LogTail {
  #control = null;
  #timer = 0;
  #piece = 0;
  #waiting = "";

  start(id, grep) {
    this.stop();
    byId("log").replaceChildren();
    this.#control = new AbortController();
    this.#run(id, grep, this.#control);
  }

  stop() {
    clearTimeout(this.#timer);
    clearTimeout(this.#piece);
    this.#piece = 0;
    this.#waiting = "";
    this.#control?.abort();
    this.#control = null;
  }

  async #run(id, grep, control) {
    let why = "the log's stream ended";
    try {
      const query = new URLSearchParams({ lines: LINES, follow: "true", ...(grep ? { grep } : {}) });
      const response = await fetch(`${agentPath(id, "/logs")}?${query}`, { cache: "no-store", credentials: "omit", signal: control.signal });
      if (!response.ok) throw new Error(`the log cannot be read: ${response.status} ${response.statusText}`);
      byId("log").replaceChildren(); // it begins with its last lines again
      setText(byId("log-said"), "followed");
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        this.#waiting += value;
        if (!this.#piece) this.#piece = setTimeout(() => this.#write(), PIECE_MS);
      }
    } catch (error) {
      why = error.message;
    }
    if (control.signal.aborted) return;
    setText(byId("log-said"), `${why}; trying again`);
    this.#timer = setTimeout(() => this.#run(id, grep, control), RETRY_MS);
  }

  #write() {
    this.#piece = 0;
    const log = byId("log"), below = log.scrollHeight - log.scrollTop - log.clientHeight;
    const end = this.#waiting.lastIndexOf("\n") + 1;
    // Each line is a text node of its own, so that the oldest can go one by one.
    for (const line of this.#waiting.slice(0, end).split("\n").slice(0, -1).slice(-KEPT)) log.append(`${line}\n`);
    this.#waiting = this.#waiting.slice(end);
    while (log.childNodes.length > KEPT) log.firstChild.remove();
    if (below < 40) log.scrollTop = log.scrollHeight; // who reads further up is left there
  }
}
