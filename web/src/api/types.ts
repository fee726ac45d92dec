// The answers of the REST API, one type per document of docs/rest-api.md, names and nullability as there.
// Promises: nothing here computes; a field the contract does not name is not used anywhere in the dashboard.

/** A leaf's value. Integers past 2^53 arrive as bigint (see json.ts); in a series `null` marks a gap. */
export type Scalar = number | bigint | boolean | string;

export type DeviceStatus = "online" | "stale" | "offline";
export type SourceState = "ok" | "unavailable" | "failing" | "quarantined" | "stopped";
export type MetricKind = "gauge" | "counter" | "state" | "text";
export type Aggregate = "avg" | "min" | "max" | "sum" | "count" | "last" | "rate";

export interface Page<T> {
  items: T[];
  next_cursor: string | null;
}

export interface DeviceSummary {
  id: string;
  status: DeviceStatus;
  first_seen: number;
  last_seen: number;
  sources: number;
  metrics: number;
  problems: number;
  labels: Record<string, string>;
}

export interface Source {
  name: string;
  state: SourceState;
  reason: string | null;
  interval_ms: number | null;
  version: string | null;
  last_ts: number | null;
}

export interface HostFacts {
  hostname: string;
  os: string;
  kernel: string;
  arch: string;
  cpus: number;
  boot_ts: number;
}

export interface DeviceDetail {
  id: string;
  status: DeviceStatus;
  first_seen: number;
  last_seen: number;
  sources_count: number;
  metrics: number;
  problems: number;
  labels: Record<string, string>;
  /** `null` for a publisher that sends no `about` message; so is `host`. */
  agent: { version: string | null } | null;
  host: { [fact in keyof HostFacts]?: HostFacts[fact] | null } | null;
  sources: Source[];
}

export interface MetricInfo {
  path: string;
  unit: string | null;
  kind: MetricKind | null;
  help: string | null;
  labels: Record<string, string> | null;
  type: "float" | "integer" | "boolean" | "text";
  first_ts: number;
  last_ts: number;
}

export interface LatestItem {
  path: string;
  value: Scalar;
  ts: number;
  unit: string | null;
  kind: MetricKind | null;
}

export interface LatestReply {
  device: string;
  items: LatestItem[];
}

export interface SeriesColumn {
  path: string;
  unit: string | null;
  kind: MetricKind | null;
  agg: Aggregate | null;
  v: (Scalar | null)[];
}

export interface SeriesReply {
  device: string;
  from: number;
  to: number;
  step_ms: number | null;
  tier: string;
  t: number[];
  series: SeriesColumn[];
  next_cursor: string | null;
}

export interface StatusReply {
  version: string;
  started: number;
  devices: Record<DeviceStatus, number>;
  series: number;
  intake: {
    mode: string;
    connections: number;
    messages: number;
    samples: number;
    duplicates: number;
    dead_letters: number;
    rejected: Record<string, number>;
  };
  store: { state: string; reason: string | null };
}

/** RFC 9457, as every error of the collector is answered. */
export interface ProblemDocument {
  type: string;
  title: string;
  status: number;
  detail?: string;
  errors?: { parameter: string; detail: string }[];
}
