// What the cursor says, in the tooltip, in the legend and to a screen reader. Pure.
import type { UnitRule } from "../format/units";
import { ABSENT, formatValue } from "../format/value";
import { formatDateTime } from "../time/age";
import type { Sparse } from "./gaps";

export interface Reading {
  name: string;
  text: string;
}

/**
 * The value of a line at an index of the common axis: where the line has no sample of its own (undefined), the one before
 * it, as long as no gap lies between.
 */
export function valueAt(values: readonly Sparse[], index: number): number | null {
  for (let i = index; i >= 0; i -= 1) {
    const value = values[i];
    if (value !== undefined) return value;
  }
  return null;
}

export interface ReadableLine {
  name: string;
  rule: UnitRule;
  values: readonly Sparse[];
  band: { low: readonly Sparse[]; high: readonly Sparse[] } | null;
}

export function readings(lines: readonly ReadableLine[], index: number): Reading[] {
  return lines.map(({ name, rule, values, band }) => {
    const value = valueAt(values, index);
    if (value === null) return { name, text: "no data" };
    const low = band?.low[index] ?? null;
    const high = band?.high[index] ?? null;
    const range = low === null || high === null ? "" : ` (${formatValue(low, rule)} to ${formatValue(high, rule)})`;
    return { name, text: formatValue(value, rule) + range };
  });
}

/** One sentence for aria-live. */
export function spoken(ts: number | undefined, rows: readonly Reading[]): string {
  if (ts === undefined) return "";
  return `${formatDateTime(ts)}: ${rows.map((row) => (rows.length === 1 ? row.text : `${row.name} ${row.text}`)).join(", ")}`.replace(ABSENT, "no data");
}

/** Left edge of a box of `boxWidth` beside the cursor, kept inside `width`. */
export function placeBeside(cursorX: number, boxWidth: number, width: number): number {
  const right = cursorX + 12;
  const left = right + boxWidth <= width ? right : cursorX - 12 - boxWidth;
  return Math.max(0, Math.min(left, width - boxWidth));
}
