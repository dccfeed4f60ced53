// Events by SSE (WHATWG HTML 9.2), read with fetch: EventSource hands named events only to who knows their
// names beforehand, and gives up for good at a 503, which is what a daemon answers that is about to restart.

import { get } from "./api.js";
import { inPlace } from "./slots.js";

const SILENCE_MS = 20000; // the daemon writes something every 15 s
const RETRY_MS = 2000;
const ASK_MS = 5000;
const ASK_LIMIT = 1000; // events of one answer, the most there are

/** Cuts a stream of text into frames; what is not complete stays for the next call. */
export class Frames {
  #rest = "";

  feed(text) {
    this.#rest += text;
    const parts = this.#rest.split("\n\n");
    this.#rest = parts.pop();
    return parts.map(frame).filter((found) => found.data !== "");
  }
}

function frame(text) {
  const found = { id: "", event: "message", data: "" };
  for (const line of text.split("\n")) {
    const at = line.indexOf(":");
    if (at < 1) continue; // a comment
    const name = line.slice(0, at), value = line.slice(at + 1).replace(/^ /, "");
    if (name === "data") found.data += found.data ? `\n${value}` : value;
    else if (name === "id" || name === "event") found[name] = value;
  }
  return found;
}

/** Keeps one stream open as long as it runs, or asks where no stream is to be had; resumes after the last event it saw. */
export class EventStream {
  #control = null;
  #timer = 0;
  #lastId = "";

  /** `onEvent(event)`, `onGap(lost)`, `onState(way, why)`: way is "stream", "asked" or, for a reason, "cut". */
  constructor(handlers) {
    this.handlers = handlers;
  }

  start(lastId = this.#lastId) {
    this.stop();
    this.#lastId = lastId;
    this.#control = new AbortController();
    this.#run(this.#control);
  }

  stop() {
    clearTimeout(this.#timer);
    this.#control?.abort();
    this.#control = null;
  }

  async #run(control) {
    let why = "";
    const streamed = await inPlace(async () => { why = await this.#read(control); });
    if (!streamed && !control.signal.aborted) why = await this.#ask(control);
    if (control.signal.aborted) return;
    if (why) this.handlers.onState("cut", why);
    this.#timer = setTimeout(() => this.#run(control), why ? RETRY_MS : ASK_MS);
  }

  /** Asks for what came since; returns why it could not. */
  async #ask(control) {
    try {
      const after = this.#lastId ? `&last_event_id=${encodeURIComponent(this.#lastId)}` : "";
      const { events } = await get(`/v1/events?once&limit=${ASK_LIMIT}${after}`);
      if (control.signal.aborted) return "";
      for (const event of events) {
        this.#lastId = event.id;
        this.handlers.onEvent(event);
      }
      this.handlers.onState("asked", "");
      return "";
    } catch (error) {
      if (error.status === 400) this.#lastId = ""; // of another daemon's journal: begin anew
      return error.message;
    }
  }

  /** Reads the stream to its end; returns why it ended. */
  async #read(control) {
    if (control.signal.aborted) return "";
    const mine = new AbortController(); // of this attempt; `control` is of all of them
    control.signal.addEventListener("abort", () => mine.abort());
    let watch = 0, why = "the stream ended";
    const heard = () => { clearTimeout(watch); watch = setTimeout(() => { why = "the stream is silent"; mine.abort(); }, SILENCE_MS); };
    try {
      heard();
      const headers = { Accept: "text/event-stream", ...(this.#lastId ? { "Last-Event-ID": this.#lastId } : {}) };
      const response = await fetch("/v1/events", { headers, cache: "no-store", credentials: "omit", signal: mine.signal });
      if (response.status === 400) this.#lastId = ""; // of another daemon's journal: begin anew
      if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
      this.handlers.onState("stream", "");
      const frames = new Frames(), reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        heard();
        for (const found of frames.feed(value)) this.#take(found);
      }
    } catch (error) {
      if (!mine.signal.aborted) why = error.message;
    }
    clearTimeout(watch);
    return why;
  }

  #take(found) {
    const data = JSON.parse(found.data);
    if (found.id) this.#lastId = found.id;
    if (found.event === "gap") this.handlers.onGap(data.lost);
    else if (found.event !== "error") this.handlers.onEvent(data);
  }
}
