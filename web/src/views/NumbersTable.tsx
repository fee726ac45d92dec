// The chart's numbers as a table, newest first: the twin for who cannot or does not want to read a plot.
import { useMemo } from "react";
import { joinLines } from "../chart/series";
import type { Line } from "../chart/series";
import { metricRule } from "../format/units";
import { formatValue } from "../format/value";
import { splitPath } from "../state/tree";
import { formatDateTime } from "../time/age";
import { Pager, ROWS_PER_PAGE, usePaging } from "./Pager";

export function NumbersTable({ lines }: { lines: readonly Line[] }) {
  const columns = useMemo(() => joinLines(lines), [lines]);
  const paging = usePaging(columns.t.length);
  const newest = columns.t.length - 1 - paging.first;
  const indices = Array.from({ length: Math.max(0, Math.min(ROWS_PER_PAGE, newest + 1)) }, (_, i) => newest - i);
  const band = lines.length === 1 ? (lines[0]?.band ?? null) : null;
  return (
    <div className="numbers" data-testid="numbers-table">
      <div className="table-scroll" tabIndex={0} role="region" aria-label="Numbers of the chart">
        <table>
          <thead>
            <tr>
              <th scope="col">Time</th>
              {lines.map((line) => (
                <th scope="col" key={line.path} className="right">
                  {lines.length === 1 ? (band === null ? "Value" : "Mean") : splitPath(line.path).join(" / ")}
                </th>
              ))}
              {band !== null && (
                <>
                  <th scope="col" className="right">
                    Lowest
                  </th>
                  <th scope="col" className="right">
                    Highest
                  </th>
                </>
              )}
            </tr>
          </thead>
          <tbody>
            {indices.map((index) => (
              <tr key={columns.t[index]}>
                <th scope="row" className="num">
                  {formatDateTime(columns.t[index]!)}
                </th>
                {lines.map((line, i) => {
                  const value = columns.values[i]?.[index];
                  const text = value === null ? "no data" : value === undefined ? "" : formatValue(value, metricRule(line.path, line.unit));
                  return (
                    <td key={line.path} className={`num right${value === null ? " muted" : ""}`}>
                      {text}
                    </td>
                  );
                })}
                {band !== null &&
                  [band.low, band.high].map((cells, i) => (
                    <td key={i} className="num right">
                      {formatValue(cells[index], metricRule(lines[0]!.path, lines[0]!.unit))}
                    </td>
                  ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <Pager {...paging} />
    </div>
  );
}
