// Planning, gaps, joining, changes, scales, cursor and tooltip of the chart.
import { describe, expect, it } from "vitest";
import type { SeriesReply } from "../api/types";
import { changesOf } from "./changes";
import { cursorAfter, nearestIndex } from "./cursor";
import { countGaps, gapLimitMs, insertGaps, lonePoints } from "./gaps";
import { niceStep, planFor, shapeOf } from "./plan";
import type { PlanInput } from "./plan";
import { valueRange } from "./scale";
import { extent, joinLines, lineOf, statistics, withBand } from "./series";
import { placeBeside, readings, spoken, valueAt } from "./tooltip";
import { metricRule, unitRule } from "../format/units";

const reply = (t: number[], v: SeriesReply["series"][0]["v"], more: Partial<SeriesReply> & { agg?: "avg" | "rate" | "last" } = {}): SeriesReply => {
  const { agg = null, ...rest } = more;
  return { device: "d", from: 0, to: 100_000, step_ms: null, tier: "raw", t, series: [{ path: "/a/b", unit: "By", kind: null, agg, v }], next_cursor: null, ...rest };
};

describe("gaps", () => {
  it("a silence of more than three intervals breaks the line, one of three does not", () => {
    const t = [0, 1000, 2000, 5000, 9000];
    expect(insertGaps(t, [1, 2, 3, 4, 5], gapLimitMs(t, 1000))).toEqual({ t: [0, 1000, 2000, 5000, 7000, 9000], v: [1, 2, 3, 4, null, 5] });
  });

  it("the samples' own pace counts where the source is slower than it says, or says nothing", () => {
    const slow = [0, 10_000, 20_000, 30_000];
    expect(insertGaps(slow, [1, 2, 3, 4], gapLimitMs(slow, 1000)).v).toEqual([1, 2, 3, 4]);
    const unknown = [0, 1000, 2000, 3000, 60_000];
    expect(countGaps(insertGaps(unknown, [1, 2, 3, 4, 5], gapLimitMs(unknown, null)).v)).toBe(1);
  });

  it("a null that was sent stays a null", () => {
    expect(insertGaps([0, 1, 2], [1, null, 3], 100).v).toEqual([1, null, 3]);
  });

  it("lone samples are found, other lines' times are not gaps", () => {
    expect(lonePoints([null, 5, null, 1, 2, null])).toEqual([1]);
    expect(lonePoints([1, undefined, 2, undefined, null, undefined, 7])).toEqual([6]);
    expect(lonePoints([3])).toEqual([0]);
  });

  it("are counted between samples only", () => {
    expect(countGaps([null, 1, null, null, 2, undefined, 3, null])).toBe(1);
  });
});

describe("plan", () => {
  const plan = (change: Partial<PlanInput>) => planFor({ shape: "line", kind: "gauge", spanMs: 300_000, intervalMs: 1000, widthPx: 800, alone: true, ...change });

  it("is raw while the screen can show the samples", () => expect(plan({})).toMatchObject({ mode: "raw" }));

  it("is one bucket a pixel beyond, with a band when alone", () => {
    expect(plan({ spanMs: 86_400_000 })).toEqual({ mode: "buckets", agg: "avg", points: 800, stepMs: null, band: true });
    expect(plan({ spanMs: 86_400_000, alone: false })).toMatchObject({ band: false });
  });

  it("stays raw over a day for a source of a minute: finer buckets would be holes", () => {
    expect(plan({ spanMs: 86_400_000, intervalMs: 60_000 })).toMatchObject({ mode: "raw" });
  });

  it("tries raw first where the interval is unknown", () => {
    expect(plan({ spanMs: 86_400_000, intervalMs: null })).toMatchObject({ mode: "raw", orElse: { mode: "buckets" } });
  });

  it("draws a counter as a rate over a nice step of at least four samples", () => {
    expect(plan({ kind: "counter" })).toEqual({ mode: "buckets", agg: "rate", points: null, stepMs: 5_000, band: false });
    expect(plan({ kind: "counter", spanMs: 86_400_000 })).toMatchObject({ stepMs: 120_000 });
    expect(plan({ kind: "counter", intervalMs: 60_000 })).toMatchObject({ stepMs: 300_000 });
    expect(niceStep(90_000_000)).toBe(172_800_000);
  });

  it("lists states and texts, and takes the newest value where there is no descriptor", () => {
    expect([shapeOf("text", "a"), shapeOf("state", 1), shapeOf(null, true), shapeOf(null, 3), shapeOf(null, undefined)]).toEqual(["changes", "changes", "changes", "line", "line"]);
    expect(plan({ shape: "changes", kind: "text", spanMs: 2_592_000_000 })).toMatchObject({ mode: "buckets", agg: "last" });
  });
});

describe("lines", () => {
  it("turn bigints, booleans and texts into what can be drawn", () => {
    expect(lineOf(reply([0, 1000, 2000, 3000], [2n ** 60n, true, "x", 4]), 1000).v).toEqual([2 ** 60, 1, null, 4]);
  });

  it("of a rate get its unit and leave out the bucket still filling", () => {
    const line = lineOf(reply([80_000, 90_000, 95_000], [1, 2, 0.1], { agg: "rate", step_ms: 10_000, to: 100_000 }), 1000);
    expect(line).toMatchObject({ unit: "By/s", t: [80_000, 90_000], v: [1, 2] });
  });

  it("of two sources share an axis without cutting each other", () => {
    const joined = joinLines([
      { t: [0, 10, 20], v: [1, null, 3] },
      { t: [5, 20], v: [7, 8] },
    ]);
    expect(joined).toEqual({ t: [0, 5, 10, 20], values: [[1, undefined, null, 3], [undefined, 7, undefined, 8]] });
  });

  it("take the band by time, not by position", () => {
    const line = lineOf(reply([0, 10, 20], [1, null, 3], { agg: "avg", step_ms: 10 }), null);
    const banded = withBand(line, reply([0, 20, 30], [0, 2, 9]), reply([0, 10, 20], [4, null, 5]));
    expect(banded.band).toEqual({ low: [0, null, 2], high: [4, null, 5] });
    expect(statistics(banded)).toEqual({ min: 0, max: 5, mean: 2, last: 3 });
  });

  it("tell their newest point and how many there are, gaps not counted", () => {
    const line = lineOf(reply([0, 1000, 9000], [1, 2, null]), 1000);
    expect(extent([line])).toEqual({ lastTs: 1000, points: 2 });
    expect(extent([])).toEqual({ lastTs: null, points: 0 });
    expect(statistics({ ...line, v: [null, null] })).toBeNull();
    expect(statistics({ ...line, v: [3, null, 1, 2] })).toEqual({ min: 1, max: 3, mean: 2, last: 2 });
  });
});

describe("changes", () => {
  it("list what was when, newest first, and silence as no data", () => {
    const t = [0, 1000, 2000, 3000, 20_000, 21_000];
    expect(changesOf(reply(t, ["a", "a", "b", "b", "b", "b"]), 1000)).toEqual([
      { from: 20_000, until: 21_000, value: "b" },
      { from: 3000, until: 20_000, value: null },
      { from: 2000, until: 3000, value: "b" },
      { from: 0, until: 2000, value: "a" },
    ]);
  });

  it("ignore empty buckets at the ends, keep false apart from null", () => {
    expect(changesOf(reply([0, 1, 2, 3], [null, false, null, null], { agg: "last", step_ms: 1 }), null)).toEqual([{ from: 1, until: 2, value: false }]);
    expect(changesOf(reply([], []), null)).toEqual([]);
  });
});

describe("value axis", () => {
  it("starts at zero for amounts and shares, reaches 100 % past half", () => {
    expect(valueRange(0.2, 0.6, metricRule("/a/utilization", "1"))).toEqual([0, 1]);
    expect(valueRange(0, 0.001, metricRule("/a/utilization", "1"))).toEqual([0, 0.05]);
    expect(valueRange(100, 200, unitRule("By"))[0]).toBe(0);
    expect(valueRange(0, 0, unitRule("By"))).toEqual([0, 1]);
  });

  it("has room around a temperature, a flat line and nothing at all", () => {
    expect(valueRange(40, 60, unitRule("Cel"))).toEqual([38, 62]);
    expect(valueRange(20, 20, unitRule("Cel"))).toEqual([18, 22]);
    expect(valueRange(-10, -5, unitRule("Cel"))).toEqual([-10.5, -4.5]);
    expect(valueRange(null, null, unitRule("Cel"))).toEqual([0, 1]);
  });
});

describe("cursor", () => {
  it("walks, leaps, stops at the ends and leaves", () => {
    expect(cursorAfter("ArrowLeft", false, null, 50)).toBe(49);
    expect(cursorAfter("ArrowLeft", true, 30, 50)).toBe(20);
    expect(cursorAfter("ArrowRight", false, 49, 50)).toBe(49);
    expect(cursorAfter("Home", false, 49, 50)).toBe(0);
    expect(cursorAfter("Escape", false, 3, 50)).toBeNull();
    expect(cursorAfter("a", false, 3, 50)).toBeUndefined();
    expect(cursorAfter("End", false, null, 0)).toBeUndefined();
  });

  it("finds the nearest sample", () => {
    expect([-5, 4, 6, 99].map((ts) => nearestIndex([0, 10, 20], ts))).toEqual([0, 0, 1, 2]);
    expect(nearestIndex([], 3)).toBeNull();
  });

  it("reads the sample before where the line has none, and says so in a gap", () => {
    expect(valueAt([1, undefined, undefined], 2)).toBe(1);
    expect(valueAt([1, null, undefined], 2)).toBeNull();
    expect(valueAt([undefined, 4], 0)).toBeNull();
    const rows = readings([{ name: "a", rule: unitRule("Cel"), values: [20, null], band: { low: [18, null], high: [22, null] } }], 0);
    expect(rows[0]!.text.replace(/\u00a0/g, " ")).toBe("20 °C (18 °C to 22 °C)");
    expect(readings([{ name: "a", rule: unitRule("Cel"), values: [20, null], band: null }], 1)[0]!.text).toBe("no data");
    expect(spoken(new Date(2026, 0, 2, 3, 4, 5).getTime(), [{ name: "a", text: "1" }, { name: "b", text: "2" }])).toBe("2026-01-02 03:04:05: a 1, b 2");
    expect(spoken(undefined, [])).toBe("");
  });

  it("keeps the tooltip on the chart", () => {
    expect([placeBeside(10, 100, 400), placeBeside(350, 100, 400), placeBeside(40, 100, 90)]).toEqual([22, 238, 0]);
  });
});
