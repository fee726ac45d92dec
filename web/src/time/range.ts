// The chart's time range: a live preset, or a fixed window that a person dragged.
// Promises: live ranges are asked relative to the collector's clock, so a wrong browser clock cannot shift them.

export const PRESETS = {
  "5m": 300_000,
  "15m": 900_000,
  "1h": 3_600_000,
  "6h": 21_600_000,
  "24h": 86_400_000,
  "7d": 604_800_000,
  "30d": 2_592_000_000,
} as const;

export type Preset = keyof typeof PRESETS;
export const DEFAULT_PRESET: Preset = "15m";

export interface TimeWindow {
  from: number;
  to: number;
}

export interface TimeRange {
  /** What reset returns to; live while `window` is null. */
  preset: Preset;
  window: TimeWindow | null;
}

export function isPreset(text: string | null): text is Preset {
  return text !== null && Object.hasOwn(PRESETS, text);
}

export function presetWords(preset: Preset): string {
  return `the last ${preset.replace(/([mhd])$/, (unit) => ({ m: " minutes", h: " hours", d: " days" })[unit] ?? unit)}`.replace("1 hours", "hour");
}

export function spanMs(range: TimeRange): number {
  return range.window === null ? PRESETS[range.preset] : range.window.to - range.window.from;
}

export function rangeQuery(range: TimeRange): { from: number | string; to: number | string } {
  if (range.window !== null) return { from: range.window.from, to: range.window.to };
  return { from: `-${PRESETS[range.preset] / 1000}s`, to: "now" };
}

/** How often a live chart is worth asking again: when it would move by about a pixel, between 2 s and a minute. */
export function refreshEveryMs(range: TimeRange, widthPx: number): number {
  return Math.min(60_000, Math.max(2_000, spanMs(range) / Math.max(1, widthPx)));
}

const SHORTEST_WINDOW_MS = 2_000; // below, a 1 s source shows one point and the axis repeats itself

/** A dragged selection as a window of whole milliseconds; `null` if it was a click rather than a drag. */
export function windowFrom(a: number, b: number): TimeWindow | null {
  const from = Math.round(Math.min(a, b));
  const to = Math.round(Math.max(a, b));
  return to - from < SHORTEST_WINDOW_MS ? null : { from, to };
}
