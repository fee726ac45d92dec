// Units as a table: what a UCUM code (as in OpenTelemetry) looks like to a person.
// Promises: an unknown code is shown as it is, never guessed; `{packet}` annotations lose their braces.

export interface UnitRule {
  /** Written after the number, without the prefix. */
  symbol: string;
  /** `binary` = KiB steps of 1024, `decimal` = k M G steps of 1000, `none` = the number as it is. */
  scale: "binary" | "decimal" | "none" | "duration" | "percent";
  /** Charts of it start at zero: an amount or a share, where half the height must mean half as much. */
  fromZero: boolean;
}

const RULES: Record<string, UnitRule> = {
  "1": { symbol: "", scale: "none", fromZero: false },
  "%": { symbol: "%", scale: "none", fromZero: true },
  By: { symbol: "B", scale: "binary", fromZero: true },
  "By/s": { symbol: "B/s", scale: "binary", fromZero: true },
  bit: { symbol: "bit", scale: "decimal", fromZero: true },
  "bit/s": { symbol: "bit/s", scale: "decimal", fromZero: true },
  s: { symbol: "s", scale: "duration", fromZero: false },
  "s/s": { symbol: "s/s", scale: "none", fromZero: true },
  Hz: { symbol: "Hz", scale: "decimal", fromZero: false },
  W: { symbol: "W", scale: "decimal", fromZero: false },
  V: { symbol: "V", scale: "none", fromZero: false },
  A: { symbol: "A", scale: "none", fromZero: false },
  J: { symbol: "J", scale: "decimal", fromZero: true },
  Cel: { symbol: "°C", scale: "none", fromZero: false },
  K: { symbol: "K", scale: "none", fromZero: false },
  Pa: { symbol: "Pa", scale: "decimal", fromZero: false },
  deg: { symbol: "°", scale: "none", fromZero: false },
};

const PERCENT: UnitRule = { symbol: "%", scale: "percent", fromZero: true };
const RATIO_NAME = /(^|_)(utilization|ratio)$/;

export function unitRule(unit: string | null): UnitRule {
  if (unit === null || unit === "") return { symbol: "", scale: "none", fromZero: false };
  return RULES[unit] ?? { symbol: unit.replace(/\{([^}]*)\}/g, "$1"), scale: "none", fromZero: unit.startsWith("{") };
}

/** Unit `1` alone is no promise of a ratio (the load average has it too): the name decides, as docs/ has it. */
export function isRatio(path: string, unit: string | null): boolean {
  return unit === "1" && RATIO_NAME.test(path.slice(path.lastIndexOf("/") + 1));
}

export function metricRule(path: string, unit: string | null): UnitRule {
  return isRatio(path, unit) ? PERCENT : unitRule(unit);
}

/** The unit of a counter once it is a rate: `By` → `By/s`, a bare count → `/s`. */
export function rateUnit(unit: string | null): string {
  return unit === null || unit === "" || unit === "1" ? "/s" : `${unit}/s`;
}

/** The unit in words for captions and table headings; empty when there is nothing to say. */
export function unitWords(path: string, unit: string | null): string {
  const rule = metricRule(path, unit);
  return rule.scale === "binary" ? "" : rule.symbol; // KiB or MiB is chosen number by number
}
