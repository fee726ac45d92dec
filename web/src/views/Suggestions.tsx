// What stands where the chart will be: the device's shares (cpu, memory, disks) one click away.
import { isRatio, metricRule } from "../format/units";
import { formatValue } from "../format/value";
import { selectMetric } from "../state/actions";
import type { DeviceState } from "../state/store";
import { splitPath } from "../state/tree";

const MOST = 6;

export function Suggestions({ device }: { device: DeviceState }) {
  const shares = device.latest.filter((item) => isRatio(item.path, item.unit)).sort((a, b) => splitPath(a.path).length - splitPath(b.path).length);
  return (
    <section className={`card chart-card chart-none${device.detail?.status === "online" ? "" : " is-old"}`} aria-label="Chart">
      <h2>Select a metric to draw it</h2>
      <p className="muted">Space or the box beside a metric adds another of the same unit.</p>
      {shares.length > 0 && (
        <ul className="suggestions">
          {shares.slice(0, MOST).map((item) => (
            <li key={item.path}>
              <button type="button" onClick={() => selectMetric(item.path, false)}>
                <span>{splitPath(item.path).slice(0, -1).join(" / ")}</span>
                <b className="num">{formatValue(item.value, metricRule(item.path, item.unit))}</b>
                <span className="bar" aria-hidden="true">
                  <span style={{ width: `${Math.min(100, Math.max(0, Number(item.value) * 100))}%` }} />
                </span>
              </button>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}
