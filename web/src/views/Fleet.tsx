// The fleet: how many are well, which are not, and all of them page by page.
// Promises: ill devices stand first, also those of pages not loaded yet; a filter or search never loses the way back.
import { useEffect, useMemo, useState } from "react";
import type { DeviceStatus, DeviceSummary } from "../api/types";
import { filterStatus, search } from "../state/actions";
import { countStatuses, isIll, mergeDevices, orderDevices } from "../state/fleet";
import { loadMoreDevices } from "../state/load";
import { useApp } from "../state/store";
import { DeviceRow } from "./DeviceRow";
import { NoDevices, NothingFound } from "./Empty";
import { Loading } from "./Loading";

const TYPING_MS = 200; // one request a word rather than one a letter

export function Fleet() {
  const fleet = useApp((s) => s.fleet);
  const q = useApp((s) => s.url.q);
  const status = useApp((s) => s.url.status);
  const lost = useApp((s) => s.trouble !== null);
  const devices = useMemo(() => (fleet === null ? [] : orderDevices(mergeDevices(fleet.illElsewhere, fleet.items))), [fleet]);

  if (fleet === null) return lost ? null : <Loading what="the fleet" />;
  const waiting = fleet.q !== q || fleet.status !== status;
  const ill = devices.filter(isIll);
  const well = devices.filter((device) => !isIll(device));
  const unfiltered = q === "" && status === "";

  return (
    <section className="fleet" aria-label="Fleet">
      <Summary devices={devices} />
      {devices.length === 0 && unfiltered && !waiting ? (
        <NoDevices />
      ) : (
        <>
          <Filters />
          <div className={waiting ? "is-waiting" : undefined} aria-busy={waiting}>
            {devices.length === 0 && <NothingFound />}
            {status === "" && ill.length > 0 ? (
              <>
                <DeviceList title={`Needs attention (${ill.length})`} devices={ill} />
                {well.length > 0 && <DeviceList title="Online" devices={well} headless />}
              </>
            ) : (
              devices.length > 0 && <DeviceList title="Devices" devices={devices} />
            )}
          </div>
          <More shown={devices.length} />
        </>
      )}
    </section>
  );
}

/** Counts of the whole fleet, by the collector; each is a filter. */
function Summary({ devices }: { devices: readonly DeviceSummary[] }) {
  const collector = useApp((s) => s.status);
  const active = useApp((s) => s.url.status);
  const counts = collector?.devices ?? countStatuses(devices);
  const total = counts.online + counts.stale + counts.offline;
  const failing = devices.filter((device) => device.problems > 0).length;
  return (
    <div className="summary">
      <h1>
        Fleet <span className="num count">{total}</span>
      </h1>
      <div className="summary-counts" data-testid="fleet-summary" role="group" aria-label="Filter by status">
        {(["online", "stale", "offline"] as const).map((status, i) => (
          <span key={status} className="summary-part">
            {i > 0 && <span className="separator"> · </span>}
            <StatusButton status={status} count={counts[status]} active={active === status} />
          </span>
        ))}
      </div>
      {failing > 0 && (
        <p className="summary-note">
          {failing} {failing === 1 ? "device" : "devices"} with failing sources
        </p>
      )}
    </div>
  );
}

function StatusButton({ status, count, active }: { status: DeviceStatus; count: number; active: boolean }) {
  const tone = count === 0 ? "zero" : status;
  return (
    <button type="button" className={`stat stat-${tone}`} aria-pressed={active} onClick={() => filterStatus(active ? "" : status)} title={active ? "Show all devices" : `Show only ${status} devices`}>
      <b className="num">{count}</b> {status}
    </button>
  );
}

function Filters() {
  const q = useApp((s) => s.url.q);
  const status = useApp((s) => s.url.status);
  const [text, setText] = useState(q);
  const [seen, setSeen] = useState(q);
  if (seen !== q) {
    // the URL moved without us (Back): follow it
    setSeen(q);
    setText(q);
  }
  useEffect(() => {
    if (text === q) return;
    const timer = setTimeout(() => search(text), TYPING_MS);
    return () => clearTimeout(timer);
  }, [text, q]);
  return (
    <div className="filters">
      <input type="search" aria-label="Search devices by id or label" placeholder="Id or label=value" value={text} onChange={(event) => setText(event.target.value)} autoComplete="off" spellCheck={false} />
      <select aria-label="Filter by status" value={status} onChange={(event) => filterStatus(event.target.value as DeviceStatus | "")}>
        <option value="">All statuses</option>
        <option value="online">Online</option>
        <option value="stale">Stale</option>
        <option value="offline">Offline</option>
      </select>
    </div>
  );
}

/** `headless`: below another list, whose column titles serve both. */
function DeviceList({ title, devices, headless = false }: { title: string; devices: readonly DeviceSummary[]; headless?: boolean }) {
  return (
    <section className="device-list">
      <h2>{title}</h2>
      {!headless && (
        <div className="device-head" aria-hidden="true">
          <span>Device</span>
          <span>Status</span>
          <span>Last message</span>
          <span className="right">Sources</span>
          <span className="right">Metrics</span>
          <span>Problems</span>
        </div>
      )}
      <ul>
        {devices.map((device) => (
          <DeviceRow key={device.id} device={device} />
        ))}
      </ul>
    </section>
  );
}

function More({ shown }: { shown: number }) {
  const cursor = useApp((s) => s.fleet?.nextCursor ?? null);
  const loading = useApp((s) => s.fleet?.loadingMore ?? false);
  if (cursor === null) return null;
  return (
    <div className="more">
      <span>{shown} devices shown, there are more</span>
      <button type="button" data-testid="load-more-devices" aria-disabled={loading} onClick={() => void loadMoreDevices()}>
        {loading ? "Loading…" : "Load more"}
      </button>
    </div>
  );
}
