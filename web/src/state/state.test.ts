// URL, fleet list, tree and poller.
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { DeviceSummary, LatestItem } from "../api/types";
import { compareIds, countStatuses, mergeDevices, orderDevices, pageSizes } from "./fleet";
import { backoffMs, Poller } from "./poll";
import { buildTree, joinLeaves, matches, splitPath, visibleRows } from "./tree";
import { formatUrl, parseUrl } from "./url";
import type { UrlState } from "./url";

describe("url", () => {
  it("survives a round trip, with escaped and unicode paths and a zoom", () => {
    const state: UrlState = {
      device: "edge:01",
      metrics: ["/disk/~1mnt~1データ/used_bytes", "/a b/c&d"],
      range: { preset: "6h", window: { from: 1_795_450_000_000, to: 1_795_450_060_000 } },
      q: "ed=ge",
      status: "stale",
    };
    expect(parseUrl(formatUrl(state))).toEqual(state);
  });

  it("is short and readable", () => {
    expect(formatUrl(parseUrl(""))).toBe("");
    expect(formatUrl(parseUrl("?device=edge_01&m=/disk/~1home/used_bytes&range=1h"))).toBe("?device=edge_01&m=/disk/~1home/used_bytes&range=1h");
  });

  it("falls back to defaults on what it cannot use", () => {
    expect(parseUrl("?device=&m=nopath&m=/a&m=/a&range=2y&from=9&to=1&status=ill")).toEqual({
      device: null,
      metrics: ["/a"],
      range: { preset: "15m", window: null },
      q: "",
      status: "",
    });
    expect(parseUrl("?from=5000&to=NaN").range.window).toBeNull();
    expect(parseUrl(`?${Array.from({ length: 20 }, (_, i) => `m=/${i}`).join("&")}`).metrics).toHaveLength(8);
  });
});

const device = (id: string, change: Partial<DeviceSummary> = {}): DeviceSummary => ({ id, status: "online", first_seen: 0, last_seen: 0, sources: 1, metrics: 1, problems: 0, labels: {}, ...change });

describe("fleet", () => {
  it("merges pages without doubles, the later answer winning", () => {
    const merged = mergeDevices([device("a"), device("b", { status: "stale" })], [device("b"), device("c")]);
    expect(merged.map((d) => `${d.id}:${d.status}`)).toEqual(["a:online", "b:online", "c:online"]);
  });

  it("puts the ill first, worst first, then by id as the API sorts", () => {
    const all = [device("b"), device("Z"), device("f", { problems: 1 }), device("s", { status: "stale" }), device("o2", { status: "offline" }), device("o1", { status: "offline", problems: 2 })];
    expect(orderDevices(all).map((d) => d.id)).toEqual(["o1", "o2", "s", "f", "Z", "b"]);
    expect(compareIds("Z", "a")).toBe(-1);
  });

  it("refreshes as many as were loaded, in as few pages as allowed", () => {
    expect([pageSizes(0), pageSizes(300), pageSizes(2_500)]).toEqual([[100], [300], [1000, 1000, 500]]);
  });

  it("counts", () => expect(countStatuses([device("a"), device("b", { status: "stale" })])).toEqual({ online: 1, stale: 1, offline: 0 }));
});

describe("tree", () => {
  const item = (path: string, value: LatestItem["value"] = 1): LatestItem => ({ path, value, ts: 5, unit: null, kind: null });
  const rowsOf = (paths: string[], toggled = new Map<string, boolean>(), all = false) =>
    visibleRows(buildTree(joinLeaves(paths.map((path) => item(path)), [])), toggled, all).map((row) => `${"  ".repeat(row.level - 1)}${row.name}${row.expanded === null ? "" : row.expanded ? " v" : " >"}`);

  it("unescapes names, sorts numbers as numbers, leaves before branches", () => {
    expect(rowsOf(["/cpu/core/10/utilization", "/cpu/core/2/utilization", "/cpu/utilization", "/disk/~1var~0log/used"])).toEqual([
      "cpu v",
      "  utilization",
      "  core v",
      "    2 › utilization",
      "    10 › utilization",
      "disk v",
      "  /var~log › used",
    ]);
    expect(splitPath("/a/~01")).toEqual(["a", "~1"]);
  });

  it("closes big branches until asked or filtered", () => {
    const cores = Array.from({ length: 20 }, (_, i) => `/cpu/core/${i}/utilization`).concat("/cpu/utilization");
    expect(rowsOf(cores)).toEqual(["cpu v", "  utilization", "  core >"]);
    expect(rowsOf(cores, new Map([["/cpu/core", true]]))).toHaveLength(23);
    expect(rowsOf(cores, new Map(), true)).toHaveLength(23);
    expect(rowsOf(cores, new Map([["/cpu", false]]))).toEqual(["cpu >"]);
  });

  it("shows a name that is both a value and a branch as both, and a single top value", () => {
    expect(rowsOf(["/a/b", "/a/b/c", "/uptime"])).toEqual(["a v", "  b", "  b v", "    c", "uptime"]);
  });

  it("joins the catalogue: known but without a value is absent, not zero", () => {
    const info = { path: "/gone", unit: "By", kind: "gauge" as const, help: null, labels: null, type: "float" as const, first_ts: 1, last_ts: 2 };
    const leaves = joinLeaves([item("/here", 0)], [info, { ...info, path: "/here" }]);
    expect(leaves.map((leaf) => [leaf.path, leaf.value])).toEqual([
      ["/gone", undefined],
      ["/here", 0],
    ]);
  });

  it("filters by every word, escaped or not", () => {
    expect(matches("/disk/~1home/used_bytes", "HOME used")).toBe(true);
    expect(matches("/disk/~1home/used_bytes", "disk//home")).toBe(true);
    expect(matches("/disk/~1home/used_bytes", "home free")).toBe(false);
  });
});

describe("poller", () => {
  const page = { hidden: false, addEventListener: vi.fn(), removeEventListener: vi.fn() };
  const visibility = () => (page.addEventListener.mock.calls[0]![1] as () => void)();
  let results: boolean[];
  const round = vi.fn(() => Promise.resolve(results.shift() ?? true));
  const onBackoff = vi.fn();

  beforeEach(() => {
    vi.useFakeTimers();
    vi.stubGlobal("document", page);
    page.hidden = false;
    page.addEventListener.mockClear();
    round.mockClear();
    onBackoff.mockClear();
    results = [];
    new Poller({ round, everyMs: () => 2_000, onBackoff }).start();
  });
  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  it("asks at once and then at its pace", async () => {
    await vi.advanceTimersByTimeAsync(6_100);
    expect(round).toHaveBeenCalledTimes(4);
  });

  it("backs off on failures and returns to its pace after a success", async () => {
    results = [false, false, true];
    expect([0, 1, 2, 3, 9].map((n) => backoffMs(2_000, n))).toEqual([2_000, 2_000, 4_000, 8_000, 30_000]);
    await vi.advanceTimersByTimeAsync(7_900); // rounds at 0, at 2 s (fails), at 4 s (fails again)
    expect(round).toHaveBeenCalledTimes(3);
    expect(onBackoff).toHaveBeenCalledTimes(2);
    await vi.advanceTimersByTimeAsync(2_200); // at 8 s (well), at 10 s
    expect(round).toHaveBeenCalledTimes(5);
  });

  it("rests in a hidden tab and asks at once when seen again", async () => {
    await vi.advanceTimersByTimeAsync(0);
    page.hidden = true;
    visibility();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(round).toHaveBeenCalledTimes(1);
    page.hidden = false;
    visibility();
    expect(round).toHaveBeenCalledTimes(2);
  });
});
