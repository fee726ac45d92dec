// One round of loading: what the view on screen needs, no more.
// Promises: writes a slice only if it still belongs to the view (the URL may have moved on); sorts failures into "the
// collector does not answer", "it wants a token", "it says no", and "there is no such device".
import { getDevice, getDevices, getLatest, getMetrics, getStatus } from "../api/calls";
import { ApiProblem, isAbort, Unreachable } from "../api/client";
import { readToken } from "../api/token";
import type { DeviceSummary } from "../api/types";
import { loadChart } from "./loadChart";
import { PAGE, pageSizes } from "./fleet";
import { getState, setState } from "./store";
import type { DeviceState } from "./store";

const CATALOGUE_PAGE = 500;
const CATALOGUE_EVERY_MS = 60_000; // descriptors change when a plugin does; new paths show up in `latest` at once

/** Resolves to whether the collector answered well; never rejects. */
export async function loadRound(signal: AbortSignal): Promise<boolean> {
  try {
    if (getState().url.device === null) await loadFleet(signal);
    else await loadDevice(getState().url.device!, signal);
    if (!signal.aborted) setState({ trouble: null, token: "unasked" });
    return true;
  } catch (error) {
    if (isAbort(error) || signal.aborted) return true;
    return noteFailure(error);
  }
}

function noteFailure(error: unknown): boolean {
  if (error instanceof ApiProblem && error.status === 401) {
    setState({ token: readToken() === null ? "needed" : "refused", trouble: null });
    return false;
  }
  if (error instanceof ApiProblem || error instanceof Unreachable) {
    const kind = error instanceof Unreachable ? "unreachable" : "refusing";
    const earlier = getState().trouble;
    const since = earlier?.kind === kind ? earlier.since : Date.now();
    setState({ trouble: { kind, since, message: error.message, nextTryAt: null } });
    return false;
  }
  reportError(error); // a defect of ours, or an answer that breaks the contract: seen in the console and on the page
  setState({ trouble: { kind: "refusing", since: Date.now(), message: "the page did not understand the answer", nextTryAt: null } });
  return false;
}

async function loadFleet(signal: AbortSignal): Promise<void> {
  const { q, status } = getState().url;
  const before = getState().fleet;
  const same = before !== null && before.q === q && before.status === status;
  const [collector, main] = await Promise.all([getStatus(signal), loadPages(q, status, same ? before.items.length : 0, signal)]);
  // With everything loaded, the ill ones are among it; else ask for them by name, so that the first screen shows them.
  const illElsewhere = main.nextCursor !== null && status === "" ? await loadIll(q, signal) : [];
  if (signal.aborted) return;
  setState({ status: collector, fleet: { q, status, ...main, illElsewhere, loadingMore: false } });
}

async function loadPages(q: string, status: "" | DeviceSummary["status"], wanted: number, signal: AbortSignal) {
  const items: DeviceSummary[] = [];
  let nextCursor: string | null = null;
  for (const limit of pageSizes(wanted)) {
    const page = await getDevices({ limit, cursor: nextCursor, search: q, status }, signal);
    items.push(...page.items);
    nextCursor = page.next_cursor;
    if (nextCursor === null) break;
  }
  return { items, nextCursor };
}

async function loadIll(q: string, signal: AbortSignal): Promise<DeviceSummary[]> {
  const pages = await Promise.all(
    (["offline", "stale"] as const).map((status) => getDevices({ limit: PAGE, search: q, status }, signal)),
  );
  return pages.flatMap((page) => page.items);
}

/** The next page, appended; the regular rounds then refresh as many devices as are loaded. */
export async function loadMoreDevices(): Promise<void> {
  const fleet = getState().fleet;
  if (fleet === null || fleet.nextCursor === null || fleet.loadingMore) return;
  setState({ fleet: { ...fleet, loadingMore: true } });
  try {
    const { q, status } = getState().url;
    const page = await getDevices({ limit: PAGE, cursor: fleet.nextCursor, search: q, status }, new AbortController().signal);
    const current = getState().fleet;
    if (current === null || current.q !== q || current.status !== status) return;
    const known = new Set(current.items.map((device) => device.id));
    const items = [...current.items, ...page.items.filter((device) => !known.has(device.id))];
    setState({ fleet: { ...current, items, nextCursor: page.next_cursor, loadingMore: false } });
  } catch (error) {
    const current = getState().fleet;
    if (current !== null) setState({ fleet: { ...current, loadingMore: false } });
    noteFailure(error);
  }
}

function emptyDevice(id: string): DeviceState {
  return { id, detail: null, latest: [], catalogue: new Map(), catalogueCursor: null, catalogueAt: 0, loadingMore: false, missing: false };
}

async function loadDevice(id: string, signal: AbortSignal): Promise<void> {
  if (getState().device?.id !== id) setState({ device: emptyDevice(id), chart: null });
  try {
    const [detail, latest] = await Promise.all([getDevice(id, signal), getLatest(id, signal)]);
    if (signal.aborted) return;
    updateDevice(id, { detail, latest: latest.items, missing: false });
  } catch (error) {
    if (error instanceof ApiProblem && error.status === 404) return updateDevice(id, { missing: true });
    throw error;
  }
  await Promise.all([loadCatalogue(id, signal), loadChart(id, signal)]);
}

async function loadCatalogue(id: string, signal: AbortSignal): Promise<void> {
  const device = getState().device;
  if (device === null || device.id !== id) return;
  const { metrics } = getState().url;
  const fresh = Date.now() - device.catalogueAt < CATALOGUE_EVERY_MS;
  const first = fresh ? null : await getMetrics(id, { limit: CATALOGUE_PAGE }, signal);
  const catalogue = new Map(device.catalogue);
  for (const info of first?.items ?? []) catalogue.set(info.path, info);
  // A selected metric beyond the first page still needs its help text.
  for (const path of metrics.filter((path) => !catalogue.has(path))) {
    const page = await getMetrics(id, { prefix: path, limit: 1 }, signal);
    for (const info of page.items) if (info.path === path) catalogue.set(path, info);
  }
  if (signal.aborted) return;
  const cursorKept = device.catalogueAt > 0; // further pages may be loaded already: keep their place
  updateDevice(id, {
    catalogue,
    catalogueCursor: cursorKept ? device.catalogueCursor : (first?.next_cursor ?? null),
    catalogueAt: first === null ? device.catalogueAt : Date.now(),
  });
}

export async function loadMoreMetrics(): Promise<void> {
  const device = getState().device;
  if (device === null || device.catalogueCursor === null || device.loadingMore) return;
  setState({ device: { ...device, loadingMore: true } });
  try {
    const page = await getMetrics(device.id, { limit: CATALOGUE_PAGE, cursor: device.catalogueCursor }, new AbortController().signal);
    const catalogue = new Map(getState().device?.catalogue);
    for (const info of page.items) catalogue.set(info.path, info);
    updateDevice(device.id, { catalogue, catalogueCursor: page.next_cursor, loadingMore: false });
  } catch (error) {
    updateDevice(device.id, { loadingMore: false });
    noteFailure(error);
  }
}

function updateDevice(id: string, change: Partial<DeviceState>): void {
  const device = getState().device;
  if (device !== null && device.id === id) setState({ device: { ...device, ...change } });
}
