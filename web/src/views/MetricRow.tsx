// Rows of the metric tree: a branch that opens, a leaf with its value.
import type { CSSProperties, MouseEvent } from "react";
import { isRatio, metricRule } from "../format/units";
import { exactValue, formatValue } from "../format/value";
import { useIsOld } from "../state/ticker";
import type { Leaf, Row } from "../state/tree";
import { isOld } from "../time/age";
import { Age } from "./Marks";

const indent = (level: number) => ({ "--level": level - 1 }) as CSSProperties;

export function BranchRow({ row, stop, onToggle }: { row: Row; stop: boolean; onToggle: (open: boolean) => void }) {
  const open = row.expanded === true;
  return (
    <div
      role="treeitem"
      className={`branch level-${Math.min(row.level, 2)}`}
      aria-level={row.level}
      aria-expanded={open}
      aria-selected={false}
      tabIndex={stop ? 0 : -1}
      style={indent(row.level)}
      onClick={() => onToggle(!open)}
      data-branch={row.path}
    >
      <span className="caret" aria-hidden="true" />
      <span className="name">{row.name}</span>
      {!open && <span className="num muted branch-size">{row.size}</span>}
    </div>
  );
}

interface LeafRowProps {
  row: Row;
  leaf: Leaf;
  stop: boolean;
  intervalMs: number | null;
  lastSeen: number;
  /** Place among the selected metrics, which is also its colour; -1 when not selected. */
  selectedAt: number;
  onSelect: (add: boolean) => void;
}

export function LeafRow({ row, leaf, stop, intervalMs, lastSeen, selectedAt, onSelect }: LeafRowProps) {
  const old = useIsOld(leaf.ts, intervalMs);
  // Of a device that fell silent every value is as old as its last message: the header says so once. A row's own age is
  // for a metric that stopped before the device did.
  const stopped = leaf.ts !== null && isOld(lastSeen - leaf.ts, intervalMs);
  const selected = selectedAt >= 0;
  const ratio = isRatio(leaf.path, leaf.unit) && typeof leaf.value === "number" ? leaf.value : null;
  const tick = (event: MouseEvent) => {
    event.stopPropagation();
    onSelect(true);
  };
  return (
    <div
      role="treeitem"
      className={`leaf${old ? " is-old" : ""}${selected ? " is-selected" : ""}`}
      aria-level={row.level}
      aria-selected={selected}
      tabIndex={stop ? 0 : -1}
      style={indent(row.level)}
      onClick={(event) => onSelect(event.ctrlKey || event.metaKey)}
      title={leaf.path}
      data-testid="metric-row"
      data-path={leaf.path}
    >
      {/* For the mouse and the finger; the keyboard has Space, the screen reader aria-selected. */}
      <span className="tick" aria-hidden="true" onClick={tick} style={selected ? ({ "--mark": `var(--line-${selectedAt + 1})` } as CSSProperties) : undefined}>
        <span className="tick-box" />
      </span>
      <span className="name">{row.name}</span>
      <span className="leaf-age">{stopped && leaf.ts !== null && <Age ts={leaf.ts} />}</span>
      {ratio !== null && (
        <span className="bar" aria-hidden="true">
          <span style={{ width: `${Math.min(100, Math.max(0, ratio * 100))}%` }} className={ratio >= 0.9 ? "is-high" : undefined} />
        </span>
      )}
      <span className="value num" title={exactValue(leaf.value, leaf.unit)}>
        {formatValue(leaf.value, metricRule(leaf.path, leaf.unit))}
      </span>
    </div>
  );
}
