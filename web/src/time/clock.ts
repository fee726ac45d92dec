// What time it is at the collector.
// Ages compare the collector's stamps with "now"; a phone whose clock is minutes off must not call a healthy device stale.
// Promises: the browser's clock while it agrees with the answers' Date header, else corrected by the difference.
// Unit: unix milliseconds.

let offsetMs = 0;

/** Date headers have whole seconds: a smaller disagreement than this proves nothing. */
const RESOLUTION_MS = 1_500;

export function now(): number {
  return Date.now() + offsetMs;
}

export function observeServerTime(dateHeader: string | null, sentAt: number, receivedAt: number): void {
  const stamped = dateHeader === null ? NaN : Date.parse(dateHeader);
  if (Number.isNaN(stamped)) return;
  const difference = stamped + 500 - (sentAt + receivedAt) / 2;
  const doubt = RESOLUTION_MS + (receivedAt - sentAt) / 2;
  offsetMs = Math.abs(difference) <= doubt ? 0 : difference;
}
