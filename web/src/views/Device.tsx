// One device: what it is, how it is, its sources, its tree, and the chart of what is selected.
import { openFleet } from "../state/actions";
import { useApp } from "../state/store";
import { formatLabels } from "../api/search";
import type { DeviceDetail } from "../api/types";
import { now } from "../time/clock";
import { formatSeconds } from "../format/value";
import { ChartPanel } from "./ChartPanel";
import { NoSuchDevice } from "./Empty";
import { followLink } from "./link";
import { Loading } from "./Loading";
import { Age, Status } from "./Marks";
import { MetricTree } from "./MetricTree";
import { Problems, Sources } from "./Sources";

export function Device({ id }: { id: string }) {
  const device = useApp((s) => (s.device?.id === id ? s.device : null));
  const lost = useApp((s) => s.trouble !== null);
  if (device?.missing === true) return <NoSuchDevice id={id} />;
  const detail = device?.detail ?? null;
  return (
    <section className={`device is-${detail?.status ?? "unknown"}`} aria-label={`Device ${id}`}>
      <header className="device-header">
        <a className="back" href="./" onClick={followLink(openFleet)}>
          ‹ Fleet
        </a>
        <h1 className="device-title">{id}</h1>
        {detail !== null && (
          <p className="device-state" data-testid="device-status" data-status={detail.status}>
            <Status status={detail.status} />
            <span className="muted">
              last message <Age ts={detail.last_seen} />
            </span>
          </p>
        )}
        {detail !== null && <Labels labels={detail.labels} />}
        {detail !== null && <Facts detail={detail} />}
      </header>
      {detail === null || device === null ? (
        lost ? null : <Loading what={`device ${id}`} />
      ) : (
        <>
          <Problems sources={detail.sources} />
          <div className="device-body">
            <ChartPanel device={device} />
            <MetricTree device={device} detail={detail} />
            <Sources sources={detail.sources} status={detail.status} />
          </div>
        </>
      )}
    </section>
  );
}

function Labels({ labels }: { labels: Record<string, string> }) {
  const all = formatLabels(labels);
  if (all.length === 0) return null;
  return (
    <ul className="labels" aria-label="Labels">
      {all.map((label) => (
        <li key={label} className="label">
          {label}
        </li>
      ))}
    </ul>
  );
}

function Facts({ detail }: { detail: DeviceDetail }) {
  const { host, agent } = detail;
  const facts: [string, string | null | undefined][] = [
    ["Host", host?.hostname],
    ["System", host?.os],
    ["Kernel", [host?.kernel, host?.arch].filter(Boolean).join(" ") || undefined],
    ["CPUs", host?.cpus?.toString()],
    // an offline device's uptime is not known, so only one that still sends has one
    ["Up", typeof host?.boot_ts !== "number" || detail.status !== "online" ? undefined : formatSeconds(Math.max(0, (now() - host.boot_ts) / 1000))],
    ["Agent", agent?.version],
  ];
  const known = facts.filter((fact): fact is [string, string] => typeof fact[1] === "string");
  if (known.length === 0) return <p className="muted facts-none">This publisher sends no facts about its host.</p>;
  return (
    <dl className="facts">
      {known.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
