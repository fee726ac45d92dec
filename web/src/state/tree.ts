// A device's metrics as the tree they came from, and the rows that are visible of it.
// In: latest values and the catalogue. Out: nodes, then flat rows for rendering and the keyboard. Pure.
// Promises: names are unescaped (RFC 6901), numbers in names sort as numbers, a branch with one child is one row with it.
import type { LatestItem, MetricInfo, MetricKind, Scalar } from "../api/types";

export interface Leaf {
  path: string;
  unit: string | null;
  kind: MetricKind | null;
  /** `undefined`: known to the catalogue, but without a latest value. Not zero. */
  value: Scalar | undefined;
  ts: number | null;
}

export interface TreeNode {
  name: string;
  path: string;
  leaf: Leaf | null;
  children: TreeNode[];
  /** Leaves at and below. */
  size: number;
}

export interface Row {
  /** Stable across refreshes; unlike the path, told apart when a name is both a leaf and a branch. */
  key: string;
  level: number;
  name: string;
  path: string;
  leaf: Leaf | null;
  /** `null` for a leaf. */
  expanded: boolean | null;
  size: number;
}

const byName = new Intl.Collator("en", { numeric: true }).compare;
const BIG_BRANCH = 12; // below the top level, a branch with more leaves starts closed: 64 cores should not bury the rest

export function splitPath(path: string): string[] {
  return path.split("/").slice(1).map(unescape);
}

/** RFC 6901: `~1` is a slash and `~0` a tilde, in this order. */
export function unescape(name: string): string {
  return name.replaceAll("~1", "/").replaceAll("~0", "~");
}

export function joinLeaves(latest: readonly LatestItem[], catalogue: Iterable<MetricInfo>): Leaf[] {
  const leaves = new Map<string, Leaf>();
  for (const info of catalogue) leaves.set(info.path, { path: info.path, unit: info.unit, kind: info.kind, value: undefined, ts: info.last_ts });
  for (const item of latest) leaves.set(item.path, { path: item.path, unit: item.unit, kind: item.kind, value: item.value, ts: item.ts });
  return [...leaves.values()];
}

export function buildTree(leaves: readonly Leaf[]): TreeNode[] {
  const root: TreeNode = node("", "");
  const index = new Map<string, TreeNode>([["", root]]);
  for (const leaf of leaves) {
    let parent = root;
    parent.size += 1;
    for (const raw of leaf.path.split("/").slice(1)) {
      const path = `${parent.path}/${raw}`;
      let child = index.get(path);
      if (child === undefined) {
        child = node(unescape(raw), path);
        index.set(path, child);
        parent.children.push(child);
      }
      child.size += 1;
      parent = child;
    }
    parent.leaf = leaf;
  }
  return root.children.map(sorted).sort((a, b) => byName(a.name, b.name)).map((top) => ({ ...top, children: top.children.map(compacted) }));
}

function node(name: string, path: string): TreeNode {
  return { name, path, leaf: null, children: [], size: 0 };
}

/** Values of a branch before its own branches: the overview comes first. */
function sorted(tree: TreeNode): TreeNode {
  const rank = (n: TreeNode) => (n.children.length === 0 ? 0 : 1);
  const children = tree.children.map(sorted).sort((a, b) => rank(a) - rank(b) || byName(a.name, b.name));
  return { ...tree, children };
}

/** `core / 0 / utilization` with nothing beside it needs one row, not two. */
function compacted(tree: TreeNode): TreeNode {
  const children = tree.children.map(compacted);
  const only = children[0];
  if (tree.leaf === null && children.length === 1 && only !== undefined) return { ...only, name: `${tree.name} › ${only.name}` };
  return { ...tree, children };
}

/** Case-insensitive; every word must occur somewhere in the path as shown or as sent. */
export function matches(path: string, filter: string): boolean {
  const haystack = `${path} ${splitPath(path).join("/")}`.toLowerCase();
  return filter.toLowerCase().split(/\s+/).every((word) => haystack.includes(word));
}

export function isOpen(tree: TreeNode, level: number, toggled: ReadonlyMap<string, boolean>): boolean {
  return toggled.get(tree.path) ?? (level === 1 || tree.size <= BIG_BRANCH);
}

/** `allOpen`: while a filter is typed, what matches must not hide in a closed branch. */
export function visibleRows(roots: readonly TreeNode[], toggled: ReadonlyMap<string, boolean>, allOpen: boolean): Row[] {
  const rows: Row[] = [];
  const walk = (tree: TreeNode, level: number) => {
    if (tree.leaf !== null) {
      rows.push({ key: `=${tree.path}`, level, name: tree.name, path: tree.path, leaf: tree.leaf, expanded: null, size: 1 });
    }
    if (tree.children.length === 0) return;
    const expanded = allOpen || isOpen(tree, level, toggled);
    rows.push({ key: tree.path, level, name: tree.name, path: tree.path, leaf: null, expanded, size: tree.size });
    if (expanded) for (const child of tree.children) walk(child, level + 1);
  };
  for (const root of roots) walk(root, 1);
  return rows;
}
