// Values and axes as text. In the expected texts a plain space stands for the no-break ones.
import { describe, expect, it } from "vitest";
import { axisIncrements, axisLabels } from "./axis";
import { isRatio, metricRule, rateUnit, unitRule, unitWords } from "./units";
import { exactValue, formatSeconds, formatValue } from "./value";

const plain = (text: string) => text.replace(/[\u00a0\u202f]/g, " ");
const show = (value: Parameters<typeof formatValue>[0], unit: string | null, path = "/x/y") => plain(formatValue(value, metricRule(path, unit)));

describe("values", () => {
  it.each([
    [0, "By", "0 B"],
    [1023, "By", "1023 B"],
    [1024, "By", "1.00 KiB"],
    [1024 * 1023.9, "By", "1.00 MiB"],
    [8 * 2 ** 30, "By", "8.00 GiB"],
    [183_501, "By/s", "179 KiB/s"],
    [-2048, "By", "−2.00 KiB"],
    [41.26, "Cel", "41.3 °C"],
    [0.0035, "W", "3.50 mW"],
    [2_400_000_000, "Hz", "2.40 GHz"],
    [999.7, "Hz", "1.00 kHz"],
    [12, "{packet}", "12 packet"],
    [1.53, null, "1.53"],
    [1_234_567, null, "1 234 567"],
    [1e-9, null, "1.00e−9"],
    [7, "furlong", "7 furlong"],
  ])("%d %s reads %s", (value, unit, text) => expect(show(value, unit)).toBe(text));

  it("shows percent for utilizations only: a load average has the same unit", () => {
    expect(show(0.125, "1", "/cpu/utilization")).toBe("12.5 %");
    expect(show(1, "1", "/cpu/utilization")).toBe("100.0 %");
    expect(show(0, "1", "/cpu/utilization")).toBe("0.0 %");
    expect(show(0.0004, "1", "/cpu/utilization")).toBe("0.0400 %");
    expect(show(1.53, "1", "/cpu/load/1m")).toBe("1.53");
    expect(isRatio("/utilization/load", "1")).toBe(false);
  });

  it("never makes zero of what is absent", () => {
    expect(show(undefined, "By")).toBe("–");
    expect(show(null, "1")).toBe("–");
    expect(show(NaN, "By")).toBe("–");
  });

  it("shows booleans, texts and every digit of big integers", () => {
    expect(show(false, null)).toBe("false");
    expect(show("locked", null)).toBe("locked");
    expect(show(9007199254740993n, null)).toBe("9 007 199 254 740 993");
    expect(show(2n ** 60n, "By")).toBe("1.00 EiB");
    expect(exactValue(2n ** 60n + 1n, "By")).toBe("1152921504606846977 By");
    expect(exactValue(undefined, "By")).toBe("no value");
  });
});

it.each([
  [0, "0 s"],
  [1, "1 s"],
  [0.25, "250 ms"],
  [0.000012, "12.0 µs"],
  [1.5, "1.50 s"],
  [65, "1 min 5 s"],
  [3600, "1 h"],
  [273_600, "3 d 4 h"],
  [-90, "−1 min 30 s"],
])("%d seconds read %s", (seconds, text) => expect(plain(formatSeconds(seconds))).toBe(text));

describe("units", () => {
  it("of a counter's rate", () => {
    expect([rateUnit("By"), rateUnit("1"), rateUnit(null), rateUnit("{packet}")]).toEqual(["By/s", "/s", "/s", "{packet}/s"]);
    expect(show(3.2, "{packet}/s")).toBe("3.20 packet/s");
    expect(show(3.2, "/s")).toBe("3.20/s");
  });

  it("in words only where there is one for all numbers", () => {
    expect([unitWords("/a/utilization", "1"), unitWords("/a", "Cel"), unitWords("/a", "By"), unitWords("/a", null)]).toEqual(["%", "°C", "", ""]);
  });
});

describe("axes", () => {
  const labels = (ticks: number[], unit: string | null, path = "/x") => axisLabels(ticks, metricRule(path, unit)).map(plain);

  it("have one prefix and one number of decimals", () => {
    expect(labels([0, 512 * 2 ** 20, 2 ** 30], "By")).toEqual(["0.0 GiB", "0.5 GiB", "1.0 GiB"]);
    expect(labels([0, 0.5, 1], "1", "/a/utilization")).toEqual(["0 %", "50 %", "100 %"]);
    expect(labels([0, 0.002, 0.004], "1", "/a/utilization")).toEqual(["0.0 %", "0.2 %", "0.4 %"]);
    expect(labels([0, 500_000, 1_000_000], null)).toEqual(["0.0 M", "0.5 M", "1.0 M"]);
    expect(labels([0, 60, 120], "s")).toEqual(["0", "1 min", "2 min"]);
  });

  it("step by powers of two for bytes alone", () => {
    expect(axisIncrements(unitRule("By"))).toContain(1024);
    expect(axisIncrements(unitRule("W"))).toBeNull();
  });
});
