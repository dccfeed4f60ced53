// Values as people read them. What is not known is a dash.

export const DASH = "–";

/** Seconds as `12 s`, `3 min`, `5 h`, `9 d`. */
export function span(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return DASH;
  const s = Math.max(0, seconds);
  if (s < 90) return `${Math.floor(s)} s`;
  if (s < 5400) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

/** Bytes in powers of 1024. */
export function bytes(count) {
  if (count === null || count === undefined || !Number.isFinite(count)) return DASH;
  let value = count, unit = 0;
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  while (value >= 1023.5 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function percent(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return DASH;
  return `${value >= 99.95 ? Math.round(value) : value.toFixed(1)} %`;
}

/** RFC 3339 to Unix seconds, null for never. */
export function seconds(text) {
  const at = text ? Date.parse(text) : NaN;
  return Number.isNaN(at) ? null : at / 1000;
}

/** A moment in this browser's time; the day only where it is not today. */
export function clock(text) {
  const at = seconds(text);
  if (at === null) return DASH;
  const when = new Date(at * 1000);
  const time = when.toLocaleTimeString([], { hour12: false });
  return when.toDateString() === new Date().toDateString() ? time : `${when.toLocaleDateString()} ${time}`;
}
