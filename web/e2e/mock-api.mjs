// A collector's REST API and static files, made up: what docs/rest-api.md says over the model in mock-model.mjs.
// Use: `node e2e/mock-api.mjs [port]` to look at the dashboard without a collector, or `startMock()` in a test, which can
// also make it fall silent, ask for a token, or know no device at all.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { DEVICES, detailOf, deviceOf, latestOf, metricsOf, placeGaps, summaryOf, timesOf } from "./mock-model.mjs";

const DIST = fileURLToPath(new URL("../dist/", import.meta.url));
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };
const CSP = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"; // the collector's own

/** Resolves to the address, the switches a test may turn, and what was asked. */
export async function startMock(port = 0) {
  const control = { silent: false, token: null, empty: false, frozenAt: null, requests: [] };
  placeGaps(Date.now());
  const server = createServer((request, response) => {
    const url = new URL(request.url, "http://mock");
    if (!url.pathname.startsWith("/api/")) return serveFile(url.pathname, response);
    control.requests.push(request.url);
    if (control.silent) return request.socket.destroy();
    if (control.token !== null && request.headers.authorization !== `Bearer ${control.token}`) return problem(response, 401, "unauthorized", "Unauthorized", "a token is needed");
    try {
      answer(response, 200, route(url, control));
    } catch (error) {
      if (error instanceof Refusal) problem(response, error.status, error.kind, error.title, error.message);
      else problem(response, 500, "internal", "Internal error", String(error.stack));
    }
  });
  await new Promise((ready) => server.listen(port, "127.0.0.1", ready));
  return { url: `http://127.0.0.1:${server.address().port}`, control, close: () => (server.closeAllConnections(), server.close()) };
}

class Refusal extends Error {
  constructor(status, kind, title, detail) {
    super(detail);
    Object.assign(this, { status, kind, title });
  }
}

function route(url, control) {
  const now = control.frozenAt ?? Date.now();
  const [, , , what, id, part] = url.pathname.split("/").map(decodeURIComponent);
  const query = url.searchParams;
  const fleet = control.empty ? [] : Array.from({ length: DEVICES }, (_, i) => summaryOf(i, now));
  if (what === "status") return statusOf(fleet);
  if (what !== "devices") throw new Refusal(404, "not-found", "Not found", `no route ${url.pathname}`);
  if (id === undefined) {
    const q = (query.get("q") ?? "").toLowerCase();
    const status = query.get("status");
    const labels = query.getAll("label").map((text) => text.split(":"));
    const labelled = (device) => labels.every(([name, value]) => name in device.labels && (value === undefined || device.labels[name] === value));
    return page(fleet.filter((device) => device.id.includes(q) && labelled(device) && (status === null || device.status === status)), query);
  }
  const i = deviceOf(id);
  if (i === null || control.empty) throw new Refusal(404, "not-found", "Not found", `no device ${id}`);
  if (part === undefined) return detailOf(i, now);
  if (part === "latest") return { device: id, items: latestOf(i, now) };
  if (part === "metrics") return page(metricsOf(i).filter((m) => below(m.path, query.get("prefix"))).map((m) => infoOf(m, now)), query);
  if (part === "series") return seriesOf(id, i, query, now);
  throw new Refusal(404, "not-found", "Not found", `no route ${url.pathname}`);
}

function statusOf(fleet) {
  const devices = { online: 0, stale: 0, offline: 0 };
  for (const device of fleet) devices[device.status] += 1;
  return {
    version: "0.1.0",
    started: 0,
    devices,
    series: fleet.reduce((sum, device) => sum + device.metrics, 0),
    intake: { mode: "listener", connections: devices.online, messages: 471_100, samples: 26_852_700, duplicates: 0, dead_letters: 3, rejected: { invalid_json: 3 }, last_commit_ms: 2.1 },
    store: { state: "ok", reason: null, journal_bytes: 1, blocks: 12, database_bytes: 1, head_samples: 1, dead_letters_bytes: 1 },
  };
}

function page(items, query) {
  const limit = Number(query.get("limit") ?? 100);
  if (!(limit >= 1 && limit <= 1000)) throw new Refusal(400, "invalid-parameter", "Invalid parameter", `limit: ${limit} is out of range`);
  const from = Number(query.get("cursor")?.slice(1) ?? 0);
  const end = from + limit;
  return { items: items.slice(from, end), next_cursor: end < items.length ? `c${end}` : null };
}

const below = (path, prefix) => prefix === null || path === prefix || path.startsWith(`${prefix}/`);

const infoOf = (m, now) => ({ path: m.path, unit: m.unit, kind: m.kind, help: m.help, labels: {}, type: m.type, first_ts: now - 86_400_000, last_ts: now - (now % m.intervalMs) });

function timeOf(text, now) {
  if (text === null || text === "now") return now;
  const relative = /^-(\d+)([smhd])$/.exec(text);
  if (relative !== null) return now - Number(relative[1]) * { s: 1e3, m: 6e4, h: 36e5, d: 864e5 }[relative[2]];
  if (/^\d+$/.test(text)) return text.length >= 12 ? Number(text) : Number(text) * 1000;
  throw new Refusal(400, "invalid-parameter", "Invalid parameter", `time: ${text}`);
}

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400].map((s) => s * 1000);

function seriesOf(id, i, query, now) {
  const from = timeOf(query.get("from") ?? "-1h", now);
  const to = timeOf(query.get("to"), now);
  const points = query.get("points");
  const step = query.has("step") ? Number(query.get("step")) : points === null ? null : STEPS.find((s) => (to - from) / s <= Number(points) - 1);
  const metrics = query.getAll("path").map((path) => {
    const found = metricsOf(i).find((m) => m.path === path);
    if (found === undefined) throw new Refusal(404, "not-found", "Not found", `no metric ${path}`);
    return found;
  });
  if (step === null) return rawOf(id, i, metrics, from, to, Number(query.get("limit") ?? 10_000), now);
  const agg = query.get("agg") ?? "avg";
  const t = [];
  for (let at = Math.floor(from / step) * step; at < to; at += step) t.push(at);
  const series = metrics.map((m) => ({ path: m.path, unit: m.unit, kind: m.kind, agg, v: t.map((at) => bucket(i, m, at, step, agg, now)) }));
  return { device: id, from, to, step_ms: step, tier: step >= 60_000 ? "1m" : "raw", t, series, next_cursor: null };
}

function rawOf(id, i, metrics, from, to, limit, now) {
  const each = metrics.map((m) => new Map(timesOf(i, m, from, to, now).map((ts) => [ts, m.at(ts)])));
  const t = [...new Set(each.flatMap((values) => [...values.keys()]))].sort((a, b) => a - b);
  const shown = t.slice(0, limit);
  const series = metrics.map((m, k) => ({ path: m.path, unit: m.unit, kind: m.kind, agg: null, v: shown.map((ts) => each[k].get(ts) ?? null) }));
  return { device: id, from, to, step_ms: null, tier: "raw", t: shown, series, next_cursor: t.length > limit ? "c1" : null };
}

function bucket(i, m, at, step, agg, now) {
  const end = Math.min(at + step, now);
  const stride = Math.max(1, Math.floor(step / m.intervalMs / 20)); // at most 20 samples a bucket: enough to look right
  const times = timesOf(i, { ...m, intervalMs: m.intervalMs * stride }, at, end, now);
  if (times.length === 0) return null;
  const values = times.map((ts) => m.at(ts));
  if (agg === "last") return values.at(-1);
  const numbers = values.map(Number);
  if (agg === "min") return Math.min(...numbers);
  if (agg === "max") return Math.max(...numbers);
  if (agg === "count") return numbers.length;
  if (agg === "rate") return times.length < 2 ? null : (Number(values.at(-1)) - numbers[0]) / ((times.at(-1) - times[0]) / 1000);
  return numbers.reduce((a, b) => a + b, 0) / numbers.length;
}

/** JSON with bigints as the bare integers that the collector writes. */
function jsonOf(body) {
  return JSON.stringify(body, (_, value) => (typeof value === "bigint" ? `@int:${value}` : value)).replace(/"@int:(-?\d+)"/g, "$1");
}

function answer(response, status, body, type = "application/json") {
  response.writeHead(status, { "content-type": type, "cache-control": "no-store" });
  response.end(jsonOf(body));
}

function problem(response, status, kind, title, detail) {
  answer(response, status, { type: `https://devmon.invalid/problems/${kind}`, title, status, detail }, "application/problem+json");
}

async function serveFile(path, response) {
  const file = join(DIST, normalize(path === "/" ? "/index.html" : path));
  try {
    const body = await readFile(file);
    response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "application/octet-stream", "content-security-policy": CSP });
    response.end(body);
  } catch {
    problem(response, 404, "not-found", "Not found", path);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const mock = await startMock(Number(process.argv[2] ?? 8765));
  console.log(`ready ${mock.url}`);
}
