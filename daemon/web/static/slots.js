// A browser opens six connections to one daemon for all its windows together (HTTP/1.1), and a stream holds its own
// for good: three windows with details open would leave none to ask for the state. So streams share a few places
// among all windows, by locks of the browser, and who finds none asks instead.

const PLACES = 4; // the other two connections are for questions and operations

/** Does `work` while it holds a place; false, and nothing done, where all are taken. */
export async function inPlace(work) {
  // Browsers have locks on loopback and under TLS, which is wherever the daemon listens; a plain proxy has none.
  if (!navigator.locks) return work().then(() => true);
  for (let n = 0; n < PLACES; n += 1) {
    const had = await navigator.locks.request(`hostdaemon-stream-${n}`, { ifAvailable: true }, async (lock) => {
      if (lock) await work();
      return lock !== null;
    });
    if (had) return true;
  }
  return false;
}
