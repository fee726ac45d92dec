// The chart's frame: which metrics, over which time, as a plot or as a table.
// Promises: says what it shows (unit, help, resolution, gaps) in words; until a new answer is in, the old one is greyed
// rather than passed off as the new.
import { useEffect, useMemo, useRef, useState } from "react";
import { countGaps } from "../chart/gaps";
import { extent } from "../chart/series";
import { unitWords } from "../format/units";
import { formatSeconds } from "../format/value";
import { resetZoom, setPreset, zoomTo } from "../state/actions";
import { chartKey, metricFacts } from "../state/loadChart";
import { useApp } from "../state/store";
import type { ChartState, DeviceState } from "../state/store";
import { splitPath } from "../state/tree";
import { formatMoment } from "../time/age";
import { PRESETS, presetWords } from "../time/range";
import type { Preset } from "../time/range";
import { ChangesTable } from "./ChangesTable";
import { Legend } from "./Legend";
import { Loading } from "./Loading";
import { NumbersTable } from "./NumbersTable";
import { Plot } from "./Plot";
import { Suggestions } from "./Suggestions";

export function ChartPanel({ device }: { device: DeviceState }) {
  const metrics = useApp((s) => s.url.metrics);
  const chart = useApp((s) => s.chart);
  const fresh = useApp(() => chart?.key === chartKey());
  const panel = useRef<HTMLElement>(null);
  const first = metrics[0];

  useEffect(() => {
    // On a phone the chart stands above the tree that was tapped.
    const box = panel.current?.getBoundingClientRect();
    if (first !== undefined && box !== undefined && (box.top < 0 || box.top > innerHeight * 0.6)) panel.current?.scrollIntoView({ block: "start" });
  }, [first]);

  if (first === undefined) return <Suggestions device={device} />;
  return (
    <section className="card chart-card" aria-label="Chart" ref={panel}>
      <Heading device={device} metrics={metrics} />
      <RangeBar />
      {chart === null ? (
        <div className="plot-placeholder">
          <Loading what="the chart" />
        </div>
      ) : (
        <Figure chart={chart} metrics={metrics} fresh={fresh} device={device} />
      )}
    </section>
  );
}

function Heading({ device, metrics }: { device: DeviceState; metrics: readonly string[] }) {
  const first = metrics[0]!;
  const help = device.catalogue.get(first)?.help ?? null;
  const { unit, kind } = metricFacts(device, first);
  const words = unitWords(first, unit);
  return (
    <header className="chart-head">
      <h2>{metrics.length === 1 ? splitPath(first).join(" / ") : `${metrics.length} metrics`}</h2>
      <p className="muted">
        {metrics.length === 1 && help !== null && <span className="help">{help}</span>}
        <span className="chart-kind">
          {kind ?? "no descriptor"}
          {words !== "" && `, in ${words}`}
          {kind === "counter" && ", drawn as its rate"}
        </span>
      </p>
    </header>
  );
}

function RangeBar() {
  const range = useApp((s) => s.url.range);
  return (
    <div className="range-bar">
      <div className="range-presets" role="group" aria-label="Time range">
        {(Object.keys(PRESETS) as Preset[]).map((preset) => (
          <button
            key={preset}
            type="button"
            title={presetWords(preset)}
            data-testid={`range-${preset}`}
            aria-pressed={range.window === null && range.preset === preset}
            onClick={() => setPreset(preset)}
          >
            {preset}
          </button>
        ))}
      </div>
      {range.window !== null && (
        <div className="zoomed">
          <span className="num muted">
            {formatMoment(range.window.from, Date.now())} to {formatMoment(range.window.to, Date.now())}
          </span>
          <button type="button" data-testid="reset-zoom" onClick={resetZoom}>
            Reset zoom
          </button>
        </div>
      )}
    </div>
  );
}

interface FigureProps {
  chart: ChartState;
  metrics: readonly string[];
  fresh: boolean;
  device: DeviceState;
}

function Figure({ chart, metrics, fresh, device }: FigureProps) {
  const [asTable, setAsTable] = useState(false);
  const { lastTs, points } = useMemo(() => extent(chart.lines), [chart.lines]);
  const changes = chart.shape === "changes";
  const empty = changes ? chart.changes.length === 0 : points === 0;
  return (
    <figure
      className={`chart${fresh ? "" : " is-waiting"}`}
      data-testid="chart"
      data-last-ts={(changes ? chart.changes[0]?.until : lastTs) ?? ""}
      data-points={changes ? chart.changes.length : points}
      data-metrics={metrics.join(" ")}
      aria-busy={!fresh}
    >
      {chart.problem !== null && (
        <p className="chart-problem" role="alert">
          {chart.problem}
        </p>
      )}
      {empty && chart.problem === null && <NoSamples device={device} />}
      {changes ? !empty && <ChangesTable changes={chart.changes} /> : asTable ? <NumbersTable lines={chart.lines} /> : <Plot chart={chart} />}
      {!changes && <Legend lines={chart.lines} />}
      <figcaption>
        <span className="muted">{changes ? captionOfChanges(chart) : captionOf(chart)}</span>
        {!changes && (
          <button type="button" data-testid="table-toggle" aria-pressed={asTable} onClick={() => setAsTable(!asTable)}>
            {asTable ? "Chart" : "Table"}
          </button>
        )}
      </figcaption>
    </figure>
  );
}

/** An absent device has samples where it stopped; for a present one the source may be at fault. */
function NoSamples({ device }: { device: DeviceState }) {
  const preset = useApp((s) => s.url.range.preset);
  const { status, last_seen } = device.detail ?? { status: "online", last_seen: 0 };
  if (status === "online") return <p className="chart-empty">No samples in this range. Choose a longer one, or look at the state of its source below.</p>;
  const to = last_seen + 1_000;
  return (
    <p className="chart-empty">
      No samples in this range: the device is {status}, its last message came at {formatMoment(last_seen, Date.now())}.{" "}
      <button type="button" onClick={() => zoomTo({ from: to - PRESETS[preset], to })}>
        Show its {presetWords(preset).replace("the ", "")}
      </button>
    </p>
  );
}

function captionOf(chart: ChartState): string {
  const gaps = Math.max(0, ...chart.lines.map((line) => countGaps(line.v))); // lines of one source break together
  const line = chart.lines[0];
  const each = chart.stepMs === null ? "" : formatSeconds(chart.stepMs / 1000);
  const how =
    chart.stepMs === null ? "every sample" : line?.agg === "rate" ? `rate over ${each}` : `mean of ${each}${line?.band ? ", band from lowest to highest" : ""}`;
  const tier = chart.tier === "raw" || chart.tier === "" ? "" : `, from the ${chart.tier} tier`;
  return `${how}${tier}${gaps === 0 ? "" : ` · ${gaps} ${gaps === 1 ? "gap" : "gaps"}`}`;
}

function captionOfChanges(chart: ChartState): string {
  const count = chart.changes.length;
  const missed = chart.stepMs === null ? "" : `; changes back within ${formatSeconds(chart.stepMs / 1000)} are not seen at this range`;
  return `${count} ${count === 1 ? "value" : "changes"}, newest first${missed}`;
}
