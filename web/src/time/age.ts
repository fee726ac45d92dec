// Times and ages as text.
// Promises: local time, 24 hours, year first; ages rounded down, never in the future (clocks differ by a little).
// In: unix milliseconds.

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

export function formatAge(ageMs: number): string {
  const ms = Math.max(0, ageMs);
  if (ms < 2 * SECOND) return "just now";
  if (ms < MINUTE) return `${Math.floor(ms / SECOND)} s ago`;
  if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min ago`;
  if (ms < 2 * DAY) return `${Math.floor(ms / HOUR)} h ago`;
  return `${Math.floor(ms / DAY)} d ago`;
}

const two = (n: number) => String(n).padStart(2, "0");

export function formatTime(ts: number): string {
  const d = new Date(ts);
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

export function formatDate(ts: number): string {
  const d = new Date(ts);
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
}

export function formatDateTime(ts: number): string {
  return `${formatDate(ts)} ${formatTime(ts)}`;
}

/** The time alone when it is today's, else with its date. */
export function formatMoment(ts: number, nowMs: number): string {
  return formatDate(ts) === formatDate(nowMs) ? formatTime(ts) : formatDateTime(ts);
}

/** `UTC`, `UTC+1`, `UTC−3:30`: the zone all times on the page are in. */
export function formatZone(offsetMinutes: number): string {
  if (offsetMinutes === 0) return "UTC";
  const minutes = Math.abs(offsetMinutes);
  const rest = minutes % 60;
  // getTimezoneOffset counts westward
  return `UTC${offsetMinutes < 0 ? "+" : "−"}${Math.floor(minutes / 60)}${rest === 0 ? "" : `:${two(rest)}`}`;
}

/**
 * A sample older than three intervals of its source is old news; never sooner than 15 s.
 * The collector uses the same rule for `stale` (docs/rest-api.md).
 */
export function isOld(ageMs: number, intervalMs: number | null): boolean {
  return ageMs > Math.max(15_000, 3 * (intervalMs ?? 0));
}
