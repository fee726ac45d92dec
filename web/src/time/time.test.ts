// Ages, axes, ranges and the corrected clock.
import { afterEach, describe, expect, it, vi } from "vitest";
import { formatAge, formatDateTime, formatMoment, formatZone, isOld } from "./age";
import { timeLabels } from "./axis";
import { now, observeServerTime } from "./clock";
import { isPreset, rangeQuery, refreshEveryMs, spanMs, windowFrom } from "./range";

describe("ages", () => {
  it.each([
    [-500, "just now"],
    [1_999, "just now"],
    [3_000, "3 s ago"],
    [59_999, "59 s ago"],
    [60_000, "1 min ago"],
    [3_600_000, "1 h ago"],
    [47 * 3_600_000, "47 h ago"],
    [49 * 3_600_000, "2 d ago"],
  ])("%d ms reads %s", (ms, text) => expect(formatAge(ms)).toBe(text));

  it("are old after three intervals, never before 15 s", () => {
    expect(isOld(15_000, 1_000)).toBe(false);
    expect(isOld(15_001, 1_000)).toBe(true);
    expect(isOld(60_000, 60_000)).toBe(false);
    expect(isOld(180_001, 60_000)).toBe(true);
  });
});

it("shows the date only of another day", () => {
  const noon = new Date(2026, 10, 23, 12, 0, 5).getTime();
  expect(formatDateTime(noon)).toBe("2026-11-23 12:00:05");
  expect(formatMoment(noon, noon + 60_000)).toBe("12:00:05");
  expect(formatMoment(noon, noon + 86_400_000)).toBe("2026-11-23 12:00:05");
});

it("names the zone", () => {
  expect([formatZone(0), formatZone(-60), formatZone(210)]).toEqual(["UTC", "UTC+1", "UTC−3:30"]);
});

it("labels ticks with seconds, minutes or days, and each new day once", () => {
  const late = new Date(2026, 10, 23, 23, 59, 0).getTime();
  expect(timeLabels([late, late + 30_000, late + 60_000], 30_000)).toEqual(["23:59:00\n11-23", "23:59:30", "00:00:00\n11-24"]);
  expect(timeLabels([late], 60_000)).toEqual(["23:59\n11-23"]);
  expect(timeLabels([late], 86_400_000)).toEqual(["11-23"]);
});

describe("ranges", () => {
  it("ask relative to the collector's clock while live, and absolutely when zoomed", () => {
    expect(rangeQuery({ preset: "15m", window: null })).toEqual({ from: "-900s", to: "now" });
    expect(rangeQuery({ preset: "15m", window: { from: 1, to: 9 } })).toEqual({ from: 1, to: 9 });
    expect(spanMs({ preset: "1h", window: { from: 10, to: 40 } })).toBe(30);
  });

  it("refresh when a pixel has passed, within 2 s and a minute", () => {
    expect(refreshEveryMs({ preset: "5m", window: null }, 800)).toBe(2_000);
    expect(refreshEveryMs({ preset: "1h", window: null }, 800)).toBe(4_500);
    expect(refreshEveryMs({ preset: "30d", window: null }, 800)).toBe(60_000);
  });

  it("know their presets and turn a drag of either direction into a window", () => {
    expect(isPreset("6h")).toBe(true);
    expect(isPreset("toString")).toBe(false);
    expect(windowFrom(9_000.4, 1_000.2)).toEqual({ from: 1_000, to: 9_000 });
    expect(windowFrom(1_000, 1_500)).toBeNull();
  });
});

describe("clock", () => {
  afterEach(() => {
    vi.useRealTimers();
    observeServerTime(new Date().toUTCString(), Date.now(), Date.now());
  });

  it("corrects a browser that is minutes off and trusts one that is not", () => {
    vi.useFakeTimers({ now: 1_000_000_000_000 });
    observeServerTime(new Date(1_000_000_300_000).toUTCString(), Date.now(), Date.now());
    expect(now()).toBe(1_000_000_300_500);
    observeServerTime(new Date(1_000_000_000_000).toUTCString(), Date.now(), Date.now());
    expect(now()).toBe(1_000_000_000_000);
    observeServerTime(null, Date.now(), Date.now());
    observeServerTime("not a date", Date.now(), Date.now());
    expect(now()).toBe(1_000_000_000_000);
  });
});
