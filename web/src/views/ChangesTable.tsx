// States and texts: what they were, from when, and for how long.
import type { Change } from "../chart/changes";
import { formatSeconds, formatValue } from "../format/value";
import { unitRule } from "../format/units";
import { formatDateTime } from "../time/age";
import { Pager, ROWS_PER_PAGE, usePaging } from "./Pager";

const PLAIN = unitRule(null);

export function ChangesTable({ changes }: { changes: readonly Change[] }) {
  const paging = usePaging(changes.length);
  return (
    <div className="numbers" data-testid="changes-table">
      <div className="table-scroll" tabIndex={0} role="region" aria-label="Changes">
        <table>
          <thead>
            <tr>
              <th scope="col">Since</th>
              <th scope="col">Value</th>
              <th scope="col" className="right">
                For
              </th>
            </tr>
          </thead>
          <tbody>
            {changes.slice(paging.first, paging.first + ROWS_PER_PAGE).map((change) => (
              <tr key={change.from}>
                <th scope="row" className="num">
                  {formatDateTime(change.from)}
                </th>
                <td className={change.value === null ? "muted" : "change-value"}>{change.value === null ? "no data" : formatValue(change.value, PLAIN)}</td>
                <td className="num right muted">{formatSeconds(Math.max(0, change.until - change.from) / 1000)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <Pager {...paging} />
    </div>
  );
}
