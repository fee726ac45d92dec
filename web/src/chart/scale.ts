// The value axis' range. Pure.
// Promises: amounts and shares start at zero; a share reaches 100 % once it is past half, so that "nearly full" looks it;
// a flat line lies inside, not on an edge.
import type { UnitRule } from "../format/units";

export function valueRange(min: number | null, max: number | null, rule: UnitRule): [number, number] {
  if (min === null || max === null || !Number.isFinite(min) || !Number.isFinite(max)) return [0, 1];
  if (rule.fromZero && min >= 0) {
    if (rule.scale === "percent") return [0, max > 0.5 ? Math.max(1, max * 1.05) : Math.max(0.05, max * 1.15)];
    return [0, max === 0 ? 1 : max * 1.1];
  }
  if (min === max) {
    const room = Math.abs(min) * 0.1 || 1;
    return [min - room, max + room];
  }
  const room = (max - min) * 0.1;
  // a value that never went below zero should not get an axis that does
  return [min >= 0 ? Math.max(0, min - room) : min - room, max + room];
}
