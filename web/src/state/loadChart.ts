// The chart's part of a round: plans, asks, and turns answers into lines or changes.
// Promises: a live chart is asked again only when it would move by a pixel; a fixed window once; a refusal (too many
// points, an unknown path) belongs to the chart and does not count as an unreachable collector.
import { getSeries } from "../api/calls";
import type { SeriesQuery } from "../api/calls";
import { ApiProblem } from "../api/client";
import type { MetricKind, SeriesReply, Source } from "../api/types";
import { changesOf } from "../chart/changes";
import { planFor, shapeOf } from "../chart/plan";
import type { Plan, Shape } from "../chart/plan";
import { lineOf, withBand } from "../chart/series";
import type { Line } from "../chart/series";
import { now } from "../time/clock";
import { rangeQuery, refreshEveryMs, spanMs } from "../time/range";
import { getState, setState } from "./store";
import type { ChartState, DeviceState } from "./store";
import { splitPath } from "./tree";

export function chartKey(): string {
  const { url, chartWidth } = getState();
  return JSON.stringify([url.device, url.metrics, url.range, chartWidth]);
}

/** A source's name is the first segment of its paths. */
export function intervalOf(sources: readonly Source[] | undefined, path: string): number | null {
  const name = splitPath(path)[0];
  return sources?.find((source) => source.name === name)?.interval_ms ?? null;
}

export function metricFacts(device: DeviceState, path: string): { kind: MetricKind | null; shape: Shape; unit: string | null } {
  const latest = device.latest.find((item) => item.path === path);
  const info = device.catalogue.get(path);
  const kind = latest?.kind ?? info?.kind ?? null;
  const shape = latest === undefined && (info?.type === "text" || info?.type === "boolean") ? "changes" : shapeOf(kind, latest?.value);
  return { kind, shape, unit: latest?.unit ?? info?.unit ?? null };
}

export async function loadChart(id: string, signal: AbortSignal): Promise<void> {
  const { url, chart, device } = getState();
  if (url.metrics.length === 0 || device === null || device.id !== id) return;
  const key = chartKey();
  if (chart?.key === key && !isDue(chart)) return;
  const shape = metricFacts(device, url.metrics[0]!).shape;
  try {
    const paths = shape === "changes" ? url.metrics.slice(0, 1) : url.metrics;
    const answers = await Promise.all(paths.map((path) => loadOne(id, device, path, shape, signal)));
    if (signal.aborted || key !== chartKey()) return;
    const first = answers[0]!.reply;
    setState({
      chart: {
        key,
        shape,
        lines: answers.flatMap((answer) => answer.line ?? []),
        changes: shape === "changes" ? changesOf(first, intervalOf(device.detail?.sources, first.series[0]?.path ?? "")) : [],
        from: first.from,
        to: first.to,
        tier: first.tier,
        stepMs: first.step_ms,
        loadedAt: Date.now(),
        problem: null,
      },
    });
  } catch (error) {
    if (!(error instanceof ApiProblem) || error.status === 401 || error.status === 503) throw error;
    const empty: ChartState = { key, shape, lines: [], changes: [], from: 0, to: 0, tier: "", stepMs: null, loadedAt: 0, problem: null };
    setState({ chart: { ...(chart?.key === key ? chart : empty), loadedAt: Date.now(), problem: error.message } });
  }
}

function isDue(chart: ChartState): boolean {
  const { range } = getState().url;
  if (range.window !== null && range.window.to < now() - 60_000) return chart.problem !== null; // late samples may still land in the last minute
  return Date.now() - chart.loadedAt >= refreshEveryMs(range, getState().chartWidth) - 500;
}

async function loadOne(id: string, device: DeviceState, path: string, shape: Shape, signal: AbortSignal): Promise<{ reply: SeriesReply; line: Line | null }> {
  const { url, chartWidth } = getState();
  const intervalMs = intervalOf(device.detail?.sources, path);
  const { kind } = metricFacts(device, path);
  const plan = planFor({ shape, kind, spanMs: spanMs(url.range), intervalMs, widthPx: chartWidth, alone: url.metrics.length === 1 });
  const base: SeriesQuery = { path, ...rangeQuery(url.range) };
  const [reply, used] = await follow(id, base, plan, signal);
  if (shape === "changes") return { reply, line: null };
  const line = lineOf(reply, intervalMs);
  if (used.mode !== "buckets" || !used.band) return { reply, line };
  const fixed = { ...base, from: reply.from, to: reply.to, ...bucketsOf(used) };
  const [low, high] = await Promise.all([
    getSeries(id, { ...fixed, agg: "min" }, signal),
    getSeries(id, { ...fixed, agg: "max" }, signal),
  ]);
  return { reply, line: withBand(line, low, high) };
}

/** Asks as planned; raw with more rows than the plan foresaw falls back to buckets. */
async function follow(id: string, base: SeriesQuery, plan: Plan, signal: AbortSignal): Promise<[SeriesReply, Plan]> {
  if (plan.mode === "buckets") return [await getSeries(id, { ...base, ...bucketsOf(plan), agg: plan.agg }, signal), plan];
  const reply = await getSeries(id, { ...base, limit: plan.limit }, signal);
  return reply.next_cursor !== null && plan.orElse !== null ? follow(id, base, plan.orElse, signal) : [reply, plan];
}

function bucketsOf(plan: Plan & { mode: "buckets" }): { step: number } | { points: number } {
  return plan.stepMs !== null ? { step: plan.stepMs } : { points: plan.points ?? 500 };
}
