// One device of the fleet. Drawn again only when the device itself changed.
import { memo } from "react";
import { formatLabels } from "../api/search";
import type { DeviceSummary } from "../api/types";
import { deviceHref, openDevice } from "../state/actions";
import { followLink } from "./link";
import { Age, Status } from "./Marks";

function same(a: { device: DeviceSummary }, b: { device: DeviceSummary }): boolean {
  const { labels: before, ...rest } = a.device; // labels are a new object in each answer
  return (Object.keys(rest) as (keyof typeof rest)[]).every((key) => rest[key] === b.device[key]) && formatLabels(before).join() === formatLabels(b.device.labels).join();
}

export const DeviceRow = memo(function DeviceRow({ device }: { device: DeviceSummary }) {
  const { id, status, last_seen, sources, metrics, problems, labels } = device;
  return (
    <li>
      <a className={`device-row is-${status}`} href={deviceHref(id)} onClick={followLink(() => openDevice(id))} data-testid="device-row" data-device={id} data-status={status}>
        <span className="device-id">
          {id}
          {formatLabels(labels).map((label) => (
            <span key={label} className="label">
              {label}
            </span>
          ))}
        </span>
        <span className="device-status">
          <Status status={status} />
        </span>
        <span className="device-age">
          <Age ts={last_seen} />
        </span>
        <span className="device-count num right">
          {sources} <span className="unit-word">{sources === 1 ? "source" : "sources"}</span>
        </span>
        <span className="device-count num right">
          {metrics} <span className="unit-word">{metrics === 1 ? "metric" : "metrics"}</span>
        </span>
        <span className="device-problems">{problems > 0 && <span className="problem-tag">{problems} failing</span>}</span>
      </a>
    </li>
  );
}, same);
