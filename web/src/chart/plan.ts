// How a metric over a range is asked from the collector, and how it is shown.
// In: what is known of the metric, the span, the pixels there are. Out: a request shape; pure.
//   raw      every sample: when the screen can show them about one by one
//   buckets  avg (with min and max for the band), rate for counters, last for states and texts
// Promises: never more points than twice the pixels, never buckets finer than the source's interval (they would be mostly
// empty and look like gaps), never a counter drawn as its raw total.
import type { MetricKind, Scalar } from "../api/types";

export type Shape = "line" | "changes";

export type Plan =
  | { mode: "raw"; limit: number; /** what to do when there is more than `limit` */ orElse: Plan | null }
  | { mode: "buckets"; agg: "avg" | "rate" | "last"; points: number | null; stepMs: number | null; band: boolean };

export interface PlanInput {
  shape: Shape;
  kind: MetricKind | null;
  spanMs: number;
  /** `null`: a publisher that does not say. */
  intervalMs: number | null;
  widthPx: number;
  /** Bands of several lines would hide each other. */
  alone: boolean;
}

const MOST_POINTS = 10_000; // the API's limit on `points`
const MOST_CHANGES = 5_000;
const RATE_SAMPLES = 4; // a rate over fewer samples shows the jitter of the clock rather than the device

// Steps a person can name; the API takes any.
const NICE_STEPS_MS = [1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400].map((s) => s * 1000);

/** Words and switches have changes, numbers have lines. Without a descriptor the newest value decides. */
export function shapeOf(kind: MetricKind | null, value: Scalar | undefined): Shape {
  if (kind === "text" || kind === "state") return "changes";
  return typeof value === "string" || typeof value === "boolean" ? "changes" : "line";
}

export function planFor(input: PlanInput): Plan {
  const { shape, kind, spanMs, intervalMs, alone } = input;
  const pixels = Math.min(MOST_POINTS, Math.max(100, Math.round(input.widthPx)));
  if (shape === "changes") {
    return rawOr(MOST_CHANGES, input, { mode: "buckets", agg: "last", points: 2_000, stepMs: null, band: false });
  }
  if (kind === "counter") {
    const finest = Math.max(spanMs / pixels, RATE_SAMPLES * (intervalMs ?? 1_000));
    return { mode: "buckets", agg: "rate", points: null, stepMs: niceStep(finest), band: false };
  }
  const buckets: Plan = { mode: "buckets", agg: "avg", points: pixels, stepMs: null, band: alone };
  if (intervalMs === null) return { mode: "raw", limit: 2 * pixels, orElse: buckets };
  return rawOr(2 * pixels, input, buckets);
}

/** Raw when the expected number of samples fits, with the fallback at hand for sources that send more than they say. */
function rawOr(limit: number, input: PlanInput, buckets: Plan): Plan {
  const expected = input.spanMs / (input.intervalMs ?? 1_000);
  return expected <= limit ? { mode: "raw", limit: limit + Math.ceil(limit / 10), orElse: buckets } : buckets;
}

export function niceStep(atLeastMs: number): number {
  return NICE_STEPS_MS.find((step) => step >= atLeastMs) ?? Math.ceil(atLeastMs / 86_400_000) * 86_400_000;
}
