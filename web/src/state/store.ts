// The page's one state, and how views read it.
// Promises: replaced, never changed in place, so that "has it changed" is a comparison; views read through `useApp` and
// change nothing but by the functions of actions.ts.
import { useSyncExternalStore } from "react";
import type { DeviceDetail, DeviceSummary, LatestItem, MetricInfo, StatusReply } from "../api/types";
import type { Change } from "../chart/changes";
import type { Shape } from "../chart/plan";
import type { Line } from "../chart/series";
import { parseUrl } from "./url";
import type { UrlState } from "./url";

export interface FleetState {
  /** Filters that `items` answers to; while they differ from the URL's, the list is the old one. */
  q: string;
  status: string;
  items: DeviceSummary[];
  /** Offline and stale devices of pages not loaded yet. */
  illElsewhere: DeviceSummary[];
  nextCursor: string | null;
  loadingMore: boolean;
}

export interface DeviceState {
  id: string;
  /** `null` until the first answer. */
  detail: DeviceDetail | null;
  latest: LatestItem[];
  catalogue: ReadonlyMap<string, MetricInfo>;
  catalogueCursor: string | null;
  catalogueAt: number;
  loadingMore: boolean;
  missing: boolean;
}

export interface ChartState {
  /** Device, metrics, range and pixels this answers to. */
  key: string;
  shape: Shape;
  lines: Line[];
  changes: Change[];
  from: number;
  to: number;
  tier: string;
  stepMs: number | null;
  loadedAt: number;
  problem: string | null;
}

/** `unreachable`: no answer. `refusing`: it answers, with a problem. */
export interface Trouble {
  kind: "unreachable" | "refusing";
  since: number;
  message: string;
  nextTryAt: number | null;
}

export interface AppState {
  url: UrlState;
  trouble: Trouble | null;
  token: "unasked" | "needed" | "refused";
  status: StatusReply | null;
  fleet: FleetState | null;
  device: DeviceState | null;
  chart: ChartState | null;
  /** Width of the plot in CSS pixels, in steps of 100 so that resizing does not ask at every pixel. */
  chartWidth: number;
}

let state: AppState = {
  url: parseUrl(typeof location === "undefined" ? "" : location.search),
  trouble: null,
  token: "unasked",
  status: null,
  fleet: null,
  device: null,
  chart: null,
  chartWidth: 800,
};

const listeners = new Set<() => void>();

export const getState = (): AppState => state;

export function setState(change: Partial<AppState>): void {
  state = { ...state, ...change };
  for (const listener of listeners) listener();
}

export function useApp<T>(select: (state: AppState) => T): T {
  return useSyncExternalStore(subscribe, () => select(state));
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}
