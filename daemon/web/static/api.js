// Questions to the daemon. Reading needs nothing; what changes something shows the token.

const PATIENCE_MS = 10000;
const OPERATION_PATIENCE_MS = 100000; // the daemon answers after 90 s at most
const KEY = "hostdaemon.token";

/** The daemon's clock minus ours, in seconds, by the Date header (whole seconds). */
export let skew_s = 0;

/** Raised for an answer that is no success; `status` is 0 where none came. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function problem(response) {
  let text = `${response.status} ${response.statusText}`;
  try {
    const body = await response.json();
    if (typeof body.detail === "string") text = body.code ? `${body.code}: ${body.detail}` : body.detail;
  } catch { /* not every refusal has a body of ours; its status says enough */ }
  return new Refused(response.status, text);
}

async function ask(path, options, patience_ms) {
  const patience = AbortSignal.timeout(patience_ms);
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "omit", signal: patience, ...options });
  } catch (error) {
    throw new Refused(0, patience.aborted ? `no answer within ${patience_ms / 1000} s` : `no connection`);
  }
  if (!response.ok) throw await problem(response);
  const date = Date.parse(response.headers.get("date") ?? "");
  if (!Number.isNaN(date)) {
    const found = (date - Date.now()) / 1000;
    if (Math.abs(found - skew_s) > 1.5) skew_s = found;
  }
  try {
    return await response.json();
  } catch (error) {
    throw new Refused(0, `the answer broke off (${error.message})`);
  }
}

export const get = (path) => ask(path, {}, PATIENCE_MS);

/** Now, by the daemon's clock. */
export const now_s = () => Date.now() / 1000 + skew_s;

export const agentPath = (id, rest = "") => `/v1/agents/${encodeURIComponent(id)}${rest}`;

/** Changes something: with the token this tab knows; where there is none or it is wrong, `askToken` is asked once. */
export async function post(path, askToken) {
  const once = () => {
    const token = sessionStorage.getItem(KEY);
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    return ask(path, { method: "POST", headers }, OPERATION_PATIENCE_MS);
  };
  try {
    return await once();
  } catch (error) {
    if (error.status !== 401) throw error;
    const wrong = sessionStorage.getItem(KEY) !== null;
    sessionStorage.removeItem(KEY);
    const token = await askToken(wrong);
    if (!token) throw new Refused(401, "nothing was done: there was no token");
    if (!/^[\x21-\x7e]+$/.test(token)) throw new Refused(401, "nothing was done: a token has letters, digits and signs of ASCII alone");
    sessionStorage.setItem(KEY, token);
  }
  try {
    return await once();
  } catch (error) {
    if (error.status === 401) sessionStorage.removeItem(KEY);
    throw error;
  }
}
