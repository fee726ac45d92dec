// The calls of docs/rest-api.md that the dashboard makes, typed, one function each.
// Promises: no state, no retries; every call can be aborted.
import { getJson, segment } from "./client";
import { parseSearch } from "./search";
import type { Aggregate, DeviceDetail, DeviceStatus, DeviceSummary, LatestReply, MetricInfo, Page, SeriesReply, StatusReply } from "./types";

export interface DevicesQuery {
  limit: number;
  cursor?: string | null;
  /** As typed: text of the id, and labels as `name=value`. */
  search?: string;
  status?: DeviceStatus | "";
}

export interface SeriesQuery {
  path: string;
  from: number | string;
  to: number | string;
  step?: number;
  points?: number;
  agg?: Aggregate;
  limit?: number;
  cursor?: string | null;
}

export const getStatus = (signal: AbortSignal) => getJson<StatusReply>("/status", {}, signal);

export const getDevices = ({ search, ...query }: DevicesQuery, signal: AbortSignal) =>
  getJson<Page<DeviceSummary>>("/devices", { ...query, ...parseSearch(search ?? "") }, signal);

export const getDevice = (id: string, signal: AbortSignal) => getJson<DeviceDetail>(`/devices/${segment(id)}`, {}, signal);

export const getLatest = (id: string, signal: AbortSignal) => getJson<LatestReply>(`/devices/${segment(id)}/latest`, {}, signal);

export const getMetrics = (id: string, query: { prefix?: string; limit: number; cursor?: string | null }, signal: AbortSignal) =>
  getJson<Page<MetricInfo>>(`/devices/${segment(id)}/metrics`, { ...query }, signal);

export const getSeries = (id: string, query: SeriesQuery, signal: AbortSignal) =>
  getJson<SeriesReply>(`/devices/${segment(id)}/series`, { ...query }, signal);
