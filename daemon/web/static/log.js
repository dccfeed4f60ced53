// The end of an agent's log, followed. Text only, in bounded pieces.

import { agentPath } from "./api.js";
import { byId, setText } from "./dom.js";
import { inPlace } from "./slots.js";

const LINES = 200;
const KEPT = 2000; // lines
const LINE_MAX = 8000; // characters
const RETRY_MS = 3000;
const ASK_MS = 5000;
const PIECE_MS = 100; // a busy log is written to the page ten times a second, not once a line

// C0 but for the tab, DEL, C1, line separators, and what turns the direction of text (Unicode 16, table 23-3).
const UNSEEN = /[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** `^[` as `cat -v` has it, for what fonts have always; a number for the rest. */
function picture(sign) {
  const code = sign.charCodeAt(0);
  return code < 0x80 ? `^${String.fromCharCode(code ^ 0x40)}` : `<U+${code.toString(16).toUpperCase().padStart(4, "0")}>`;
}

/** A line as it is: a terminal's escapes and what hides or turns text around are shown, and the overlong is cut. */
export function visible(line) {
  const text = line.endsWith("\r") ? line.slice(0, -1) : line, more = text.length - LINE_MAX;
  return text.slice(0, LINE_MAX).replace(UNSEEN, picture) + (more > 0 ? ` … and ${more} more characters` : "");
}

export class LogTail {
  #control = null;
  #timer = 0;
  #piece = 0;
  #waiting = "";
  #looked = "";

  start(id, grep) {
    this.stop();
    this.#clear();
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
    let why = "", wait_ms = RETRY_MS;
    try {
      const streamed = await inPlace(() => this.#follow(id, grep, control));
      if (streamed) why = "the log's stream ended; trying again";
      else if (!control.signal.aborted) {
        await this.#look(id, grep, control);
        why = `asked for every ${ASK_MS / 1000} s`;
        wait_ms = ASK_MS;
      }
    } catch (error) {
      why = `${error.message}; trying again`;
    }
    if (control.signal.aborted) return;
    setText(byId("log-said"), why);
    this.#timer = setTimeout(() => this.#run(id, grep, control), wait_ms);
  }

  async #get(id, grep, control, more) {
    const query = new URLSearchParams({ lines: LINES, ...more, ...(grep ? { grep } : {}) });
    const response = await fetch(`${agentPath(id, "/logs")}?${query}`, { cache: "no-store", credentials: "omit", signal: control.signal });
    if (response.status === 404) throw new Error("there is no such agent");
    if (!response.ok) throw new Error(`the log cannot be read: ${response.status} ${response.statusText}`);
    return response;
  }

  async #follow(id, grep, control) {
    if (control.signal.aborted) return;
    const response = await this.#get(id, grep, control, { follow: "true" });
    this.#clear(); // it begins with its last lines again
    setText(byId("log-said"), "followed");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      this.#waiting += value;
      if (!this.#piece) this.#piece = setTimeout(() => this.#write(), PIECE_MS);
    }
  }

  /** The end of the log once, where every place for a stream is taken. */
  async #look(id, grep, control) {
    const text = await (await this.#get(id, grep, control, {})).text();
    if (control.signal.aborted || text === this.#looked) return;
    const log = byId("log"), from = log.scrollTop, below = log.scrollHeight - from - log.clientHeight;
    this.#clear();
    this.#looked = this.#waiting = text;
    this.#write();
    if (below >= 40) log.scrollTop = from; // who reads further up is left there
  }

  #clear() {
    byId("log").replaceChildren();
    this.#waiting = this.#looked = "";
  }

  #write() {
    this.#piece = 0;
    const log = byId("log"), below = log.scrollHeight - log.scrollTop - log.clientHeight;
    const end = this.#waiting.lastIndexOf("\n") + 1;
    // Each line is a text node of its own, so that the oldest can go one by one.
    for (const line of this.#waiting.slice(0, end).split("\n").slice(0, -1).slice(-KEPT)) log.append(`${visible(line)}\n`);
    this.#waiting = this.#waiting.slice(end);
    while (log.childNodes.length > KEPT) log.firstChild.remove();
    if (below < 40) log.scrollTop = log.scrollHeight; // who reads further up is left there
  }
}
