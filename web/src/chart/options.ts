// The uPlot options for a set of lines: axes, scales, series, bands, cursor.
// In: what to draw and how it looks. Out: one options object; nothing is drawn here and no state kept.
// Promises: gaps are never spanned; the value axis comes from scale.ts, its labels from format/axis.ts; dragging reports a
// window instead of changing the scale itself, because the URL holds the range.
import type uPlot from "uplot";
import { axisIncrements, axisLabels } from "../format/axis";
import type { UnitRule } from "../format/units";
import { timeIncrements, timeLabels } from "../time/axis";
import { lonePoints } from "./gaps";
import { DASHES } from "./palette";
import type { Palette } from "./palette";
import { valueRange } from "./scale";

export interface ChartOptionsInput {
  width: number;
  height: number;
  names: readonly string[];
  rule: UnitRule;
  /** With a band there is exactly one line; its columns are line, high, low. */
  band: boolean;
  palette: Palette;
  /** The visible time range, asked at every redraw. */
  xRange: () => [number, number];
  onSelect: (fromTs: number, toTs: number) => void;
  onCursor: (index: number | null, leftPx: number) => void;
}

const NARROW = 640; // as in the style sheets: a phone
const AXIS_FONT = "12px system-ui, sans-serif";

export function chartOptions(input: ChartOptionsInput): uPlot.Options {
  const { width, height, names, rule, band, palette } = input;
  const increments = axisIncrements(rule);
  return {
    width,
    height,
    ms: 1,
    legend: { show: false }, // ours is HTML with statistics
    padding: [10, 12, 0, 0],
    cursor: {
      drag: { x: true, y: false, setScale: false },
      points: { size: 8, width: 2 },
      y: false,
    },
    scales: {
      x: { time: true, range: () => input.xRange() },
      y: { range: (_u, min, max) => valueRange(min, max, rule) },
    },
    axes: [
      {
        font: AXIS_FONT,
        stroke: palette.text,
        grid: { show: false },
        ticks: { stroke: palette.grid, width: 1, size: 5 },
        incrs: timeIncrements(),
        space: width < NARROW ? 58 : 70,
        size: 46,
        values: (_u, splits, _axis, _space, step) => timeLabels(splits, step),
      },
      {
        font: AXIS_FONT,
        stroke: palette.text,
        grid: { stroke: palette.grid, width: 1 },
        ticks: { show: false },
        space: 34,
        size: (_u, labels) => labelWidth(labels),
        values: (_u, splits) => axisLabels(splits, rule),
        ...(increments === null ? {} : { incrs: increments }),
      },
    ],
    series: [{}, ...names.map((name, i) => lineSeries(name, i, palette)), ...(band ? [edgeSeries("highest"), edgeSeries("lowest")] : [])],
    bands: band ? [{ series: [2, 3], fill: palette.bands[0]! }] : [],
    hooks: {
      setSelect: [
        (u) => {
          if (u.select.width < 6) return; // a click that trembled
          const from = u.posToVal(u.select.left, "x");
          const to = u.posToVal(u.select.left + u.select.width, "x");
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          input.onSelect(from, to);
        },
      ],
      setCursor: [(u) => input.onCursor(u.cursor.idx ?? null, u.cursor.left ?? -1)],
    },
  };
}

function lineSeries(label: string, index: number, palette: Palette): uPlot.Series {
  const colour = palette.lines[index % palette.lines.length]!;
  return {
    label,
    stroke: colour,
    width: 1.75,
    dash: DASHES[index % DASHES.length]!,
    spanGaps: false,
    points: {
      show: () => false, // lines only, except where a sample stands alone
      filter: (u, series) => {
        const lone = lonePoints(u.data[series] as (number | null | undefined)[]);
        return lone.length === 0 ? null : lone;
      },
      size: 5,
      fill: colour,
    },
  };
}

/** The invisible edges that a band is filled between. */
function edgeSeries(label: string): uPlot.Series {
  return { label, width: 0, spanGaps: false, points: { show: false } };
}

/** Room for the longest label; fixed widths either clip "1 023 KiB/s" or waste a phone's screen. */
function labelWidth(labels: string[] | null): number {
  const longest = Math.max(0, ...(labels ?? []).map((label) => label.length));
  return Math.max(36, longest * 6.8 + 16);
}
