// The fleet that the mock API answers with.
// Promises: deterministic: the same device, metric and time always give the same value; only "now" moves, and the gaps lie
// where `placeGaps` put them. It holds what is hard to show: offline, stale and failing devices, escaped and unicode paths,
// gaps, integers past 2^53, texts, slow sources.

export const DEVICES = 250;
const BORN = Date.UTC(2026, 0, 1);
const GAP_EVERY_MS = 240_000;
const GAP_MS = 20_000; // every 1 s source is silent for 20 s every 4 min
let gapPhase = 0;

/** Puts the gaps two minutes before and after `now`: in view of a 5 min chart, and not where a check waits for new points. */
export function placeGaps(now) {
  gapPhase = (now - GAP_EVERY_MS / 2) % GAP_EVERY_MS;
}

const OFFLINE = new Set([17, 143, 230]);
const STALE = new Set([42, 201]);
const FAILING = new Set([5, 77]);

export const deviceId = (i) => `edge_${String(i).padStart(3, "0")}`;

export function deviceOf(id) {
  const i = Number(id.slice(5));
  return /^edge_\d{3}$/.test(id) && i < DEVICES ? i : null;
}

export function summaryOf(i, now) {
  const status = OFFLINE.has(i) ? "offline" : STALE.has(i) ? "stale" : "online";
  const age = { offline: 3 * 3_600_000 + i * 60_000, stale: 47_000, online: 400 }[status];
  return {
    id: deviceId(i),
    status,
    first_seen: BORN + i * 1000,
    last_seen: now - age,
    sources: sourcesOf(i, now).length,
    metrics: metricsOf(i).length,
    problems: FAILING.has(i) ? 1 : 0,
    labels: i % 3 === 0 ? { site: "berlin", rack: String(i % 7) } : {},
  };
}

export function detailOf(i, now) {
  const { sources, ...rest } = summaryOf(i, now);
  const plain = i === 3; // a publisher without an about message
  return {
    ...rest,
    sources_count: sources,
    agent: plain ? null : { version: "0.1.0" },
    host: plain
      ? null
      : { hostname: i % 2 ? `küche-${i}.müller.example` : `edge-${i}`, os: "Debian GNU/Linux 12 (bookworm)", kernel: "6.1.0-18-arm64", arch: "aarch64", cpus: 4, boot_ts: BORN + 86_400_000 * 300 },
    sources: sourcesOf(i, now),
  };
}

function sourcesOf(i, now) {
  const last = OFFLINE.has(i) ? now - 3 * 3_600_000 : STALE.has(i) ? now - 47_000 : now - (now % 1000);
  const source = (name, interval_ms, extra = {}) => ({ name, state: "ok", reason: null, interval_ms, version: "0.1.0", last_ts: last, ...extra });
  return [
    source("cpu", 1000),
    source("disk", 5000),
    FAILING.has(i)
      ? source("door", 1000, { state: "quarantined", reason: "plugin libdoor.so panicked 3 times in 60 s: index out of bounds: the len is 2 but the index is 2 (src/lib.rs:41)" })
      : source("door", 1000),
    i % 2 ? source("gpu", 1000, { state: "unavailable", reason: "no NVIDIA driver: libnvidia-ml.so.1 not found", last_ts: null }) : source("gpu", 1000),
    source("memory", 1000),
    source("network", 1000),
  ];
}

const wave = (seed, periodMs, low, high) => (ts) =>
  low + (high - low) * (0.5 + 0.32 * Math.sin((2 * Math.PI * ts) / periodMs + seed) + 0.18 * Math.sin((2 * Math.PI * ts) / (periodMs / 7.3) + seed * 3));

const metric = (path, unit, kind, help, at, type = "float", intervalMs = 1000) => ({ path, unit, kind, help, at, type, intervalMs });

/** Every metric of device `i`: descriptor and value as a function of time. */
export function metricsOf(i) {
  const cores = i === 0 ? 16 : 4;
  const MiB = 2 ** 20;
  const all = [
    metric("/cpu/utilization", "1", "gauge", "Share of time that the CPUs were busy.", wave(i, 90_000, 0.03, 0.62)),
    ...Array.from({ length: cores }, (_, c) => metric(`/cpu/core/${c}/utilization`, "1", "gauge", "Share of time that the core was busy.", wave(i + c, 60_000, 0, 0.97))),
    ...["1m", "5m", "15m"].map((span, k) => metric(`/cpu/load/${span}`, "1", "gauge", `Load average over ${span}.`, wave(i + k, 300_000 * (k + 1), 0.2, 3.4))),
    metric("/cpu/context_switches_total", "{switch}", "counter", "Context switches since boot.", (ts) => Math.floor((ts - BORN) * 3.1), "integer"),
    metric("/memory/total_bytes", "By", "gauge", "Memory of the device.", () => 8192 * MiB, "integer"),
    metric("/memory/used_bytes", "By", "gauge", "Memory in use, without caches.", (ts) => Math.round(wave(i, 600_000, 2100, 3900)(ts) * MiB), "integer"),
    metric("/memory/utilization", "1", "gauge", "Share of memory in use.", (ts) => wave(i, 600_000, 2100, 3900)(ts) / 8192),
    ...["/home", "/mnt/データ", "/var~log"].flatMap((mount, k) => {
      const name = mount.replaceAll("~", "~0").replaceAll("/", "~1");
      const share = wave(i + k, 3_600_000, 0.3 + 0.3 * k, 0.36 + 0.3 * k);
      return [
        metric(`/disk/${name}/total_bytes`, "By", "gauge", "Size of the file system.", () => 250 * 1024 * MiB, "integer", 5000),
        metric(`/disk/${name}/used_bytes`, "By", "gauge", "Space in use.", (ts) => Math.round(share(ts) * 250 * 1024 * MiB), "integer", 5000),
        metric(`/disk/${name}/utilization`, "1", "gauge", "Share of space in use.", share, "float", 5000),
        metric(`/disk/${name}/written_bytes_total`, "By", "counter", "Bytes written since boot.", (ts) => 2n ** 60n + 1n + BigInt(Math.floor((ts - BORN) * (k + 1) * 37)), "integer", 5000),
      ];
    }),
    metric("/network/eth0/received_bytes_total", "By", "counter", "Bytes received since boot.", (ts) => Math.floor((ts - BORN) * 180 + 4e6 * Math.sin(ts / 40_000)), "integer"),
    metric("/network/eth0/sent_bytes_total", "By", "counter", "Bytes sent since boot.", (ts) => Math.floor((ts - BORN) * 60 + 2e6 * Math.sin(ts / 30_000)), "integer"),
    metric("/door/open", null, "state", "Whether the door is open.", (ts) => Math.floor(ts / 50_000) % 3 === 0, "boolean"),
    metric("/door/mode", null, "text", "Mode of the lock.", (ts) => ["locked", "unlocked", "maintenance"][Math.floor(ts / 70_000) % 3], "text"),
    metric("/door/uptime_seconds", "s", "gauge", "Time since the lock was started.", (ts) => (ts - BORN) / 1000 / 40),
  ];
  if (i % 2 === 0) {
    all.push(
      metric("/gpu/0/name", null, "text", "Name of the GPU.", () => "NVIDIA Jetson Orin", "text"),
      metric("/gpu/0/utilization", "1", "gauge", "Share of time that the GPU was busy.", wave(i, 120_000, 0.1, 1)),
      metric("/gpu/0/temperature_celsius", "Cel", "gauge", "Temperature of the die.", wave(i, 240_000, 41, 67)),
      metric("/gpu/0/power_watts", "W", "gauge", "Power drawn.", wave(i, 120_000, 4, 22)),
    );
  }
  return all.sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Times with a sample in [from, to): on the interval's grid, but for the gaps and after the device fell silent. */
export function timesOf(i, m, from, to, now) {
  const end = Math.min(to, summaryOf(i, now).last_seen + 1);
  const times = [];
  for (let ts = Math.ceil(from / m.intervalMs) * m.intervalMs; ts < end; ts += m.intervalMs) {
    if (m.intervalMs > 1000 || (ts - gapPhase) % GAP_EVERY_MS >= GAP_MS) times.push(ts);
  }
  return times;
}

export function latestOf(i, now) {
  const seen = summaryOf(i, now).last_seen;
  return metricsOf(i).map((m) => {
    const ts = seen - (seen % m.intervalMs);
    return { path: m.path, value: m.at(ts), ts, unit: m.unit, kind: m.kind };
  });
}
