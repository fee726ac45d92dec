// The address bar as state: device, metrics, range, and the fleet's filters.
// Promises: parse(format(x)) = x; anything unknown or malformed in a pasted link falls back to a default, never an error.
import type { DeviceStatus } from "../api/types";
import { DEFAULT_PRESET, isPreset, windowFrom } from "../time/range";
import type { TimeRange } from "../time/range";

export interface UrlState {
  /** `null`: the fleet. */
  device: string | null;
  metrics: string[];
  range: TimeRange;
  q: string;
  status: DeviceStatus | "";
}

export const MOST_METRICS = 8; // as many colours as can be told apart

export function parseUrl(search: string): UrlState {
  const params = new URLSearchParams(search);
  const preset = params.get("range");
  const metrics = params.getAll("m").filter((path) => path.startsWith("/"));
  return {
    device: params.get("device") || null,
    metrics: [...new Set(metrics)].slice(0, MOST_METRICS),
    range: { preset: isPreset(preset) ? preset : DEFAULT_PRESET, window: parseWindow(params.get("from"), params.get("to")) },
    q: params.get("q") ?? "",
    status: parseStatus(params.get("status")),
  };
}

/** Only what differs from the default, with slashes left readable; `""` for the plain fleet. */
export function formatUrl(state: UrlState): string {
  const params = new URLSearchParams();
  if (state.device !== null) {
    params.set("device", state.device);
    for (const path of state.metrics) params.append("m", path);
    if (state.range.preset !== DEFAULT_PRESET) params.set("range", state.range.preset);
    if (state.range.window !== null) {
      params.set("from", String(state.range.window.from));
      params.set("to", String(state.range.window.to));
    }
  }
  // The filters stay while a device is open, so that "back to the fleet" finds the list as it was.
  if (state.q !== "") params.set("q", state.q);
  if (state.status !== "") params.set("status", state.status);
  const text = params.toString().replaceAll("%2F", "/").replaceAll("%7E", "~").replaceAll("%3A", ":");
  return text === "" ? "" : `?${text}`;
}

function parseWindow(from: string | null, to: string | null) {
  const window = windowFrom(Number(from ?? NaN), Number(to ?? NaN));
  return window !== null && Number.isFinite(window.from) && Number.isFinite(window.to) && Number(from) < Number(to) ? window : null;
}

function parseStatus(text: string | null): DeviceStatus | "" {
  return text === "online" || text === "stale" || text === "offline" ? text : "";
}
