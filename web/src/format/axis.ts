// Labels of a value axis: one prefix and one number of decimals for all ticks, so that they can be compared at a glance.
import type { UnitRule } from "./units";
import { formatSeconds, groupDigits } from "./value";

const STEPS: Record<"binary" | "decimal", [number, string[]]> = {
  binary: [1024, ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]],
  decimal: [1000, ["", "k", "M", "G", "T", "P", "E"]],
};

export function axisLabels(ticks: readonly number[], rule: UnitRule): string[] {
  if (rule.scale === "duration") return ticks.map((tick) => (tick === 0 ? "0" : formatSeconds(tick)));
  const [divisor, symbol] = commonUnit(ticks, rule);
  const shown = ticks.map((tick) => tick / divisor);
  const decimals = decimalsFor(shown);
  return shown.map((n) => groupDigits(n.toFixed(decimals)) + (symbol === "" ? "" : `\u00a0${symbol}`));
}

function commonUnit(ticks: readonly number[], rule: UnitRule): [number, string] {
  if (rule.scale === "percent") return [0.01, "%"];
  const largest = Math.max(0, ...ticks.map(Math.abs));
  // An axis of bare counts in the millions needs a prefix as much as one of bytes; a rate of them too.
  const bare = rule.scale === "none" && largest >= 100_000 ? "decimal" : rule.scale;
  if (bare !== "binary" && bare !== "decimal") return [1, rule.symbol];
  const [base, prefixes] = STEPS[bare];
  let step = 0;
  while (largest >= base ** (step + 1) && step < prefixes.length - 1) step += 1;
  return [base ** step, `${prefixes[step] ?? ""}${rule.symbol}`];
}

/** The fewest decimals that keep neighbouring ticks apart. */
function decimalsFor(values: readonly number[]): number {
  for (let decimals = 0; decimals < 6; decimals += 1) {
    const exact = values.every((n) => Math.abs(Number(n.toFixed(decimals)) - n) <= Math.abs(n) * 1e-6);
    if (exact) return decimals;
  }
  return 2;
}

/** Tick distances: powers of two for bytes, so that labels are whole KiB and GiB; `null` leaves the chart's own 1-2-5. */
export function axisIncrements(rule: UnitRule): number[] | null {
  if (rule.scale !== "binary") return null;
  return Array.from({ length: 60 }, (_, power) => 2 ** power);
}
