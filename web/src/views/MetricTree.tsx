// The latest values as the tree they came in.
// Promises: one tab stop; arrows, Home, End, Enter and Space as the ARIA tree pattern has them; a value that stopped coming
// is greyed with its age, one that never came is a dash.
import { useEffect, useMemo, useRef, useState } from "react";
import type { KeyboardEvent } from "react";
import type { DeviceDetail } from "../api/types";
import { selectMetric } from "../state/actions";
import { loadMoreMetrics } from "../state/load";
import { intervalOf } from "../state/loadChart";
import { useApp } from "../state/store";
import type { DeviceState } from "../state/store";
import { buildTree, joinLeaves, matches, visibleRows } from "../state/tree";
import type { Row } from "../state/tree";
import { BranchRow, LeafRow } from "./MetricRow";

const FIRST_ROWS = 400; // more DOM than that slows every refresh; the rest is a button away

export function MetricTree({ device, detail }: { device: DeviceState; detail: DeviceDetail }) {
  const selected = useApp((s) => s.url.metrics);
  const [filter, setFilter] = useState("");
  const [toggled, setToggled] = useState<ReadonlyMap<string, boolean>>(new Map());
  const [most, setMost] = useState(FIRST_ROWS);
  const [current, setCurrent] = useState<string | null>(null);
  const list = useRef<HTMLDivElement>(null);
  const focusMoved = useRef(false);

  const leaves = useMemo(() => joinLeaves(device.latest, device.catalogue.values()), [device.latest, device.catalogue]);
  const words = filter.trim();
  const roots = useMemo(() => buildTree(words === "" ? leaves : leaves.filter((leaf) => matches(leaf.path, words))), [leaves, words]);
  const all = useMemo(() => visibleRows(roots, toggled, words !== ""), [roots, toggled, words]);
  const rows = all.slice(0, most);
  const stop = rows.some((row) => row.key === current) ? current : (rows[0]?.key ?? null);

  useEffect(() => {
    if (!focusMoved.current) return;
    focusMoved.current = false;
    list.current?.querySelector<HTMLElement>('[tabindex="0"]')?.focus();
  });

  const toggle = (row: Row, open: boolean) => setToggled((before) => new Map(before).set(row.path, open));
  const moveTo = (row: Row | undefined) => {
    if (row === undefined) return;
    focusMoved.current = true;
    setCurrent(row.key);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const index = rows.findIndex((row) => row.key === stop);
    const row = rows[index];
    if (row === undefined || event.altKey || event.metaKey) return;
    const done = () => event.preventDefault();
    switch (event.key) {
      case "ArrowDown":
        return done(), moveTo(rows[index + 1]);
      case "ArrowUp":
        return done(), moveTo(rows[index - 1]);
      case "Home":
        return done(), moveTo(rows[0]);
      case "End":
        return done(), moveTo(rows.at(-1));
      case "ArrowRight":
        return done(), row.expanded === false ? toggle(row, true) : row.expanded === true ? moveTo(rows[index + 1]) : undefined;
      case "ArrowLeft":
        return done(), row.expanded === true && words === "" ? toggle(row, false) : moveTo(rows.slice(0, index).findLast((above) => above.level < row.level));
      case "Enter":
      case " ":
        done();
        if (row.leaf === null) return toggle(row, row.expanded !== true);
        return selectMetric(row.path, event.key === " " || event.ctrlKey);
    }
  };

  return (
    <section className="card tree-card" aria-label="Metrics">
      <div className="tree-head">
        <h2>
          Metrics <span className="num count">{leaves.length}</span>
        </h2>
        <input type="search" aria-label="Filter metrics by path" placeholder="Filter paths" value={filter} onChange={(event) => setFilter(event.target.value)} autoComplete="off" spellCheck={false} />
      </div>
      {rows.length === 0 ? (
        <p className="muted tree-none">{words === "" ? "No values yet. They appear with the device’s first frame." : `No path contains “${words}”.`}</p>
      ) : (
        <div className="tree" role="tree" aria-label="Latest values" aria-multiselectable="true" ref={list} onKeyDown={onKeyDown}>
          {rows.map((row) =>
            row.leaf === null ? (
              <BranchRow key={row.key} row={row} stop={row.key === stop} onToggle={(open) => (setCurrent(row.key), toggle(row, open))} />
            ) : (
              <LeafRow
                key={row.key}
                row={row}
                leaf={row.leaf}
                stop={row.key === stop}
                intervalMs={intervalOf(detail.sources, row.path)}
                lastSeen={detail.last_seen}
                selectedAt={selected.indexOf(row.path)}
                onSelect={(add) => (setCurrent(row.key), selectMetric(row.path, add))}
              />
            ),
          )}
        </div>
      )}
      {all.length > rows.length && (
        <button type="button" className="tree-more" onClick={() => setMost(most + FIRST_ROWS)}>
          Show {Math.min(FIRST_ROWS, all.length - rows.length)} more of {all.length - rows.length} rows
        </button>
      )}
      {device.catalogueCursor !== null && (
        <button type="button" className="tree-more" data-testid="load-more-metrics" aria-disabled={device.loadingMore} onClick={() => void loadMoreMetrics()}>
          {device.loadingMore ? "Loading…" : "Load metrics without a recent value"}
        </button>
      )}
    </section>
  );
}
