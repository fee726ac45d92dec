// Moving the chart's cursor by keyboard. Pure.

const LEAP = 10;

/** The index a key leads to; `null` hides the cursor; `undefined` when the key is not the chart's. */
export function cursorAfter(key: string, leap: boolean, index: number | null, length: number): number | null | undefined {
  if (length === 0) return undefined;
  const last = length - 1;
  const by = leap ? LEAP : 1;
  switch (key) {
    case "ArrowLeft":
      return index === null ? last : Math.max(0, index - by);
    case "ArrowRight":
      return index === null ? last : Math.min(last, index + by);
    case "PageUp":
      return index === null ? last : Math.max(0, index - LEAP);
    case "PageDown":
      return index === null ? last : Math.min(last, index + LEAP);
    case "Home":
      return 0;
    case "End":
      return last;
    case "Escape":
      return null;
    default:
      return undefined;
  }
}

/** The index whose time is nearest; `null` on an empty axis. */
export function nearestIndex(t: readonly number[], ts: number): number | null {
  if (t.length === 0) return null;
  let low = 0;
  let high = t.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (t[middle]! < ts) low = middle + 1;
    else high = middle;
  }
  return low > 0 && ts - t[low - 1]! <= t[low]! - ts ? low - 1 : low;
}
