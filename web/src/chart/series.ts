// From the API's answers to what is drawn.
// In: SeriesReply documents, one path each. Out: lines, and the columns uPlot wants, all on one time axis.
// Promises: gaps stay null; times of other lines become undefined (bridged), so that metrics of two sources with
// different clocks can share a chart without cutting each other up. Pure.
import type { Aggregate, MetricKind, Scalar, SeriesReply } from "../api/types";
import { rateUnit } from "../format/units";
import { gapLimitMs, insertGaps } from "./gaps";
import type { Cell, Sparse } from "./gaps";

export interface Line {
  path: string;
  /** As drawn: a counter's line has its rate's unit. */
  unit: string | null;
  kind: MetricKind | null;
  agg: Aggregate | null;
  t: number[];
  v: Cell[];
  /** Lowest and highest of each bucket, on the same times as `v`. */
  band: { low: Cell[]; high: Cell[] } | null;
}

export interface Columns {
  t: number[];
  values: Sparse[][];
}

export function toNumber(value: Scalar | null | undefined): Cell {
  if (value === null || value === undefined || typeof value === "string") return null;
  return Number(value); // booleans as 0 and 1, bigints rounded: a pixel cannot tell
}

export function lineOf(reply: SeriesReply, intervalMs: number | null): Line {
  const column = reply.series[0];
  if (column === undefined) throw new Error("a series answer without a series");
  const raw = column.v.map(toNumber);
  const rate = column.agg === "rate";
  const drawn =
    reply.step_ms === null
      ? insertGaps(reply.t, raw, gapLimitMs(reply.t, intervalMs))
      : { t: reply.t, v: raw }; // buckets carry their own nulls
  const line: Line = { path: column.path, unit: rate ? rateUnit(column.unit) : column.unit, kind: column.kind, agg: column.agg, ...drawn, band: null };
  return rate ? withoutOpenBucket(line, reply) : line;
}

/** The newest bucket of a rate is still filling: drawn, it would look like a drop at every refresh. */
function withoutOpenBucket(line: Line, reply: SeriesReply): Line {
  const newest = line.t.at(-1);
  if (newest === undefined || reply.step_ms === null || newest + reply.step_ms <= reply.to) return line;
  return { ...line, t: line.t.slice(0, -1), v: line.v.slice(0, -1) };
}

/** Adds the band if both answers lie on the line's own times (a bucket may have been added between the requests). */
export function withBand(line: Line, low: SeriesReply, high: SeriesReply): Line {
  const pick = (reply: SeriesReply): Cell[] => {
    const at = new Map(reply.t.map((t, i) => [t, toNumber(reply.series[0]?.v[i])]));
    return line.t.map((t) => at.get(t) ?? null);
  };
  return { ...line, band: { low: pick(low), high: pick(high) } };
}

export function joinLines(lines: readonly { t: readonly number[]; v: readonly Cell[] }[]): Columns {
  if (lines.length === 1) return { t: [...lines[0]!.t], values: [[...lines[0]!.v]] };
  const t = [...new Set(lines.flatMap((line) => line.t))].sort((a, b) => a - b);
  const slot = new Map(t.map((at, i) => [at, i]));
  const values = lines.map((line) => {
    const column = new Array<Sparse>(t.length).fill(undefined);
    line.t.forEach((at, i) => (column[slot.get(at)!] = line.v[i] ?? null));
    return column;
  });
  return { t, values };
}

/** Newest time with a value on any line, and how many values there are; what a test or a person asks first. */
export function extent(lines: readonly Line[]): { lastTs: number | null; points: number } {
  let lastTs: number | null = null;
  let points = 0;
  for (const line of lines) {
    line.v.forEach((value, i) => {
      if (value === null) return;
      points += 1;
      if (lastTs === null || line.t[i]! > lastTs) lastTs = line.t[i]!;
    });
  }
  return { lastTs, points };
}

export interface Statistics {
  min: number;
  max: number;
  mean: number;
  last: number;
}

export function statistics(line: Line): Statistics | null {
  const seen = line.v.filter((value): value is number => value !== null);
  if (seen.length === 0) return null;
  // the band knows extremes that the mean has smoothed away
  const extreme = (cells: readonly Cell[] | undefined, best: (a: number, b: number) => number) =>
    (cells ?? seen).reduce<number>((a, b) => (b === null ? a : best(a, b)), seen[0]!);
  return {
    min: extreme(line.band?.low, Math.min),
    max: extreme(line.band?.high, Math.max),
    mean: seen.reduce((a, b) => a + b, 0) / seen.length,
    last: seen.at(-1)!,
  };
}
