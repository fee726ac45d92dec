// What each line is, with its lowest, mean, highest and newest value in view.
import { statistics } from "../chart/series";
import type { Line } from "../chart/series";
import { DASHES } from "../chart/palette";
import { metricRule } from "../format/units";
import { ABSENT, formatValue } from "../format/value";
import { selectMetric } from "../state/actions";
import { splitPath } from "../state/tree";

export function Legend({ lines }: { lines: readonly Line[] }) {
  return (
    <table className="legend">
      <thead>
        <tr>
          <th scope="col">
            <span className="visually-hidden">Metric</span>
          </th>
          <th scope="col">min</th>
          <th scope="col">mean</th>
          <th scope="col">max</th>
          <th scope="col">last</th>
          {lines.length > 1 && (
            <th scope="col">
              <span className="visually-hidden">Remove</span>
            </th>
          )}
        </tr>
      </thead>
      <tbody>
        {lines.map((line, i) => (
          <LegendRow key={line.path} line={line} index={i} removable={lines.length > 1} />
        ))}
      </tbody>
    </table>
  );
}

function LegendRow({ line, index, removable }: { line: Line; index: number; removable: boolean }) {
  const found = statistics(line);
  const rule = metricRule(line.path, line.unit);
  const name = splitPath(line.path).join(" / ");
  const show = (value: number | undefined) => (value === undefined ? ABSENT : formatValue(value, rule));
  return (
    <tr>
      <th scope="row">
        <svg className="legend-key" viewBox="0 0 28 6" aria-hidden="true">
          <path d="M0 3h28" stroke={`var(--line-${index + 1})`} strokeDasharray={DASHES[index]?.join(" ")} />
        </svg>
        {name}
      </th>
      <td className="num">{show(found?.min)}</td>
      <td className="num">{show(found?.mean)}</td>
      <td className="num">{show(found?.max)}</td>
      <td className="num">{show(found?.last)}</td>
      {removable && (
        <td>
          <button type="button" className="icon-button small" aria-label={`Remove ${name}`} onClick={() => selectMetric(line.path, true)}>
            ×
          </button>
        </td>
      )}
    </tr>
  );
}
