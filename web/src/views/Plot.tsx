// The plot itself: uPlot in a focusable surface, with tooltip, keyboard and spoken cursor.
// Promises: the chart object is rebuilt only when its lines or colours change, data moves in place; arrow keys walk the
// samples, Escape leaves, and what the cursor is on is announced once it rests.
import { useEffect, useMemo, useRef, useState } from "react";
import type { KeyboardEvent } from "react";
import uPlot from "uplot";
import { cursorAfter, nearestIndex } from "../chart/cursor";
import type { Sparse } from "../chart/gaps";
import { chartOptions } from "../chart/options";
import { readPalette } from "../chart/palette";
import { joinLines } from "../chart/series";
import { placeBeside, readings, spoken } from "../chart/tooltip";
import { touchPlugin } from "../chart/touch";
import { metricRule } from "../format/units";
import { setChartWidth, zoomTo } from "../state/actions";
import type { ChartState } from "../state/store";
import { useTheme } from "../state/theme";
import { splitPath } from "../state/tree";
import { formatDateTime } from "../time/age";
import { windowFrom } from "../time/range";

const HEIGHT = 300;
const HEIGHT_NARROW = 230;
const NARROW = 640;
const SPOKEN_AFTER_MS = 300; // a held arrow key should not queue fifty sentences
const TOOLTIP_PX = { one: 175, more: 240 }; // a band or a second line needs room for its words

interface Cursor {
  index: number;
  left: number;
}

export function Plot({ chart }: { chart: ChartState }) {
  const { lines } = chart;
  const theme = useTheme();
  const frame = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const range = useRef<[number, number]>([chart.from, chart.to]);
  const pinnedTs = useRef<number | null>(null); // where the keyboard put the cursor: it stays on that time as data moves
  const [cursor, setCursor] = useState<Cursor | null>(null);
  const [said, setSaid] = useState("");

  const band = lines.length === 1 ? (lines[0]?.band ?? null) : null;
  const columns = useMemo(() => joinLines(lines), [lines]);
  const data = useMemo<uPlot.AlignedData>(
    () => [columns.t, ...columns.values, ...(band === null ? [] : [band.high, band.low])] as uPlot.AlignedData,
    [columns, band],
  );
  const readable = useMemo(
    () =>
      lines.map((line, i) => ({
        name: splitPath(line.path).join(" / "),
        rule: metricRule(line.path, line.unit),
        values: columns.values[i] as readonly Sparse[],
        band: line.band,
      })),
    [lines, columns],
  );
  const shape = JSON.stringify([lines.map((line) => [line.path, line.unit]), band !== null, theme]);

  useEffect(() => {
    const box = frame.current!;
    const first = lines[0];
    const palette = readPalette(box);
    const options = chartOptions({
      width: box.clientWidth,
      height: box.clientWidth < NARROW ? HEIGHT_NARROW : HEIGHT,
      names: lines.map((line) => line.path),
      rule: metricRule(first?.path ?? "", first?.unit ?? null),
      band: band !== null,
      palette,
      xRange: () => range.current,
      onSelect: (a, b) => {
        const window = windowFrom(a, b);
        if (window !== null) zoomTo(window);
      },
      onCursor: (index, left) => setCursor(index === null || left < 0 ? null : { index, left }),
    });
    const made = new uPlot({ ...options, plugins: [touchPlugin()] }, data, box);
    plot.current = made;
    const observer = new ResizeObserver(() => {
      const width = box.clientWidth;
      if (width === 0) return;
      setChartWidth(width);
      made.setSize({ width, height: width < NARROW ? HEIGHT_NARROW : HEIGHT });
    });
    observer.observe(box);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = null;
      setCursor(null);
    };
    // `shape` names all that the options depend on; the data of later rounds goes in below.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [shape]);

  useEffect(() => {
    const u = plot.current;
    if (u === null) return;
    range.current = [chart.from, chart.to];
    u.setData(data, false);
    u.setScale("x", { min: chart.from, max: chart.to }); // also rescales y to what is in view
    if (pinnedTs.current !== null) u.setCursor({ left: u.valToPos(pinnedTs.current, "x"), top: 0 });
  }, [data, chart.from, chart.to]);

  const onKeyDown = (event: KeyboardEvent) => {
    const u = plot.current;
    if (u === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const index = pinnedTs.current === null ? (cursor?.index ?? null) : nearestIndex(columns.t, pinnedTs.current);
    const next = cursorAfter(event.key, event.shiftKey, index, columns.t.length);
    if (next === undefined) return;
    event.preventDefault();
    const ts = next === null ? null : columns.t[next]!;
    pinnedTs.current = ts;
    u.setCursor(ts === null ? { left: -10, top: -10 } : { left: u.valToPos(ts, "x"), top: 0 });
  };

  const ts = cursor === null ? undefined : columns.t[cursor.index];
  const rows = ts === undefined || cursor === null ? [] : readings(readable, cursor.index);
  const sentence = spoken(ts, rows);
  const tooltipWidth = rows.length > 1 || band !== null ? TOOLTIP_PX.more : TOOLTIP_PX.one;

  useEffect(() => {
    if (pinnedTs.current === null) return; // the mouse looks for itself
    const timer = setTimeout(() => setSaid(sentence), SPOKEN_AFTER_MS);
    return () => clearTimeout(timer);
  }, [sentence]);

  return (
    <div className="plot-outer">
      <div
        className="plot"
        ref={frame}
        tabIndex={0}
        role="application"
        aria-roledescription="chart"
        aria-label={`Chart of ${readable.map((line) => line.name).join(", ")}. Arrow keys move through the samples, the Table button shows the numbers.`}
        data-testid="plot"
        onKeyDown={onKeyDown}
        onPointerDown={() => (pinnedTs.current = null)}
        onBlur={() => {
          pinnedTs.current = null;
        }}
      />
      {ts !== undefined && cursor !== null && (
        <div className="tooltip" aria-hidden="true" style={{ left: tooltipLeft(plot.current, cursor.left, tooltipWidth), width: tooltipWidth }}>
          <p className="num muted">{formatDateTime(ts)}</p>
          {rows.map((row, i) => (
            <p key={row.name} className="tooltip-row">
              <span className="key" style={{ background: `var(--line-${i + 1})` }} />
              {rows.length > 1 && <span className="tooltip-name">{row.name}</span>}
              <b className="num">{row.text}</b>
            </p>
          ))}
        </div>
      )}
      <p className="visually-hidden" aria-live="polite" data-testid="chart-spoken">
        {said}
      </p>
    </div>
  );
}

function tooltipLeft(u: uPlot | null, cursorLeft: number, width: number): number {
  if (u === null) return 0;
  return placeBeside(u.over.offsetLeft + cursorLeft, width, u.width);
}
