// What a person can do, as functions: the only writers of the URL.
// Promises: every step that changes what is shown is one entry of the browser's history (typing is not), so Back works.
import { keepToken } from "../api/token";
import type { DeviceStatus } from "../api/types";
import type { Preset, TimeWindow } from "../time/range";
import { loadRound } from "./load";
import { metricFacts } from "./loadChart";
import { Poller } from "./poll";
import { getState, setState } from "./store";
import { formatUrl, MOST_METRICS, parseUrl } from "./url";
import type { UrlState } from "./url";

const FLEET_EVERY_MS = 3_000;
const DEVICE_EVERY_MS = 2_000;

const poller = new Poller({
  round: loadRound,
  everyMs: () => (getState().url.device === null ? FLEET_EVERY_MS : DEVICE_EVERY_MS),
  onBackoff: (nextTryAt) => {
    const { trouble } = getState();
    if (trouble !== null) setState({ trouble: { ...trouble, nextTryAt } });
  },
});

export function start(): void {
  window.addEventListener("popstate", () => {
    setState({ url: parseUrl(location.search) });
    poller.now();
  });
  poller.start();
}

export const retryNow = (): void => poller.now();

function go(change: Partial<UrlState>, how: "push" | "replace" = "push"): void {
  const url = { ...getState().url, ...change };
  const text = formatUrl(url);
  if (text === formatUrl(getState().url)) return;
  setState({ url });
  const address = text === "" ? location.pathname : text;
  if (how === "push") history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  poller.now();
}

/** Where a link to a device leads, for real anchors: middle click and "copy link" work. */
export function deviceHref(id: string): string {
  const { url } = getState();
  return formatUrl({ ...url, device: id, metrics: [], range: { ...url.range, window: null } });
}

export function openDevice(id: string): void {
  go({ device: id, metrics: [], range: { ...getState().url.range, window: null } });
  window.scrollTo(0, 0);
}

export function openFleet(): void {
  go({ device: null, metrics: [], range: { ...getState().url.range, window: null } });
}

/** `add`: beside the ones selected, if it can share their axis; selecting a selected one again takes it away. */
export function selectMetric(path: string, add: boolean): void {
  const { url, device } = getState();
  const selected = url.metrics;
  if (!add) return go({ metrics: selected.length === 1 && selected[0] === path ? [] : [path] });
  if (selected.includes(path)) return go({ metrics: selected.filter((one) => one !== path) });
  const first = selected[0];
  const fits = first === undefined || device === null || canShare(metricFacts(device, first), metricFacts(device, path));
  go({ metrics: fits ? [...selected, path].slice(-MOST_METRICS) : [path] });
}

interface Facts {
  kind: string | null;
  shape: string;
  unit: string | null;
}

/** One axis: the same unit, both lines, and a counter's rate only beside another's. */
export function canShare(a: Facts, b: Facts): boolean {
  return a.shape === "line" && b.shape === "line" && a.unit === b.unit && (a.kind === "counter") === (b.kind === "counter");
}

export const setPreset = (preset: Preset): void => go({ range: { preset, window: null } });

export const zoomTo = (window: TimeWindow): void => go({ range: { ...getState().url.range, window } });

export const resetZoom = (): void => go({ range: { ...getState().url.range, window: null } });

export const search = (q: string): void => go({ q }, "replace");

export const filterStatus = (status: DeviceStatus | ""): void => go({ status });

export function setChartWidth(px: number): void {
  const chartWidth = Math.max(300, Math.ceil(px / 100) * 100);
  if (chartWidth === getState().chartWidth) return;
  setState({ chartWidth });
  poller.now();
}

export function submitToken(token: string): void {
  keepToken(token);
  poller.now();
}
