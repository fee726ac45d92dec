// States and texts over time: not a line but a list of changes.
// Promises: newest first; a time without samples is a change to "no data", so that a gap is not read as "stayed the same".
import type { Scalar, SeriesReply } from "../api/types";
import { gapLimitMs } from "./gaps";

export interface Change {
  from: number;
  /** When the next change came; of the newest, when it was last seen. */
  until: number;
  /** `null`: no samples in between. */
  value: Scalar | null;
}

export function changesOf(reply: SeriesReply, intervalMs: number | null): Change[] {
  const column = reply.series[0]?.v ?? [];
  // buckets carry their own nulls, raw samples only their distance
  const limitMs = reply.step_ms === null ? gapLimitMs(reply.t, intervalMs) : Infinity;
  const changes: Change[] = [];
  const note = (from: number, value: Scalar | null) => {
    const open = changes.at(-1);
    if (open !== undefined) open.until = from;
    if (open === undefined || open.value !== value) changes.push({ from, until: from, value });
  };
  reply.t.forEach((at, i) => {
    const before = reply.t[i - 1];
    if (before !== undefined && limitMs > 0 && at - before > limitMs) note(before, null);
    note(at, column[i] ?? null);
  });
  // Buckets before the first and after the last sample say nothing.
  while (changes[0]?.value === null) changes.shift();
  while (changes.at(-1)?.value === null) changes.pop();
  return changes.reverse();
}
