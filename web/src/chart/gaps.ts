// Where a line must break.
// Promises: a null is never bridged; between two raw samples more than three intervals apart a null is put in; a lone
// sample between two gaps is still seen (as a dot). Pure; times in unix ms, ascending.

export type Cell = number | null;
export type Sparse = number | null | undefined; // undefined: another line has a sample here, this one is not concerned

const GAP_INTERVALS = 3;

/**
 * The distance that counts as a gap. The source's interval rules; where the samples themselves come slower (a source that
 * reports some leaf only now and then, or none that says), their median distance does.
 */
export function gapLimitMs(t: readonly number[], intervalMs: number | null): number {
  return GAP_INTERVALS * Math.max(intervalMs ?? 0, medianStep(t));
}

export function insertGaps<V>(t: readonly number[], v: readonly (V | null)[], limitMs: number): { t: number[]; v: (V | null)[] } {
  const outT: number[] = [];
  const outV: (V | null)[] = [];
  for (let i = 0; i < t.length; i += 1) {
    const at = t[i]!;
    const before = t[i - 1];
    if (before !== undefined && limitMs > 0 && at - before > limitMs) {
      outT.push(before + Math.round((at - before) / 2));
      outV.push(null);
    }
    outT.push(at);
    outV.push(v[i] ?? null);
  }
  return { t: outT, v: outV };
}

/** Indices of samples with a gap on both sides: a line has no length there, so they are drawn as dots. */
export function lonePoints(v: readonly Sparse[]): number[] {
  const present: number[] = [];
  for (let i = 0; i < v.length; i += 1) if (v[i] !== undefined) present.push(i);
  return present.filter((index, k) => v[index] !== null && isBreak(v, present[k - 1]) && isBreak(v, present[k + 1]));
}

function isBreak(v: readonly Sparse[], index: number | undefined): boolean {
  return index === undefined || v[index] === null;
}

/** How many breaks there are between the first and the last sample. */
export function countGaps(v: readonly Sparse[]): number {
  let gaps = 0;
  let open = false;
  let begun = false;
  for (const cell of v) {
    if (cell === undefined) continue;
    if (cell === null) open = begun;
    else {
      if (open) gaps += 1;
      open = false;
      begun = true;
    }
  }
  return gaps;
}

function medianStep(t: readonly number[]): number {
  if (t.length < 3) return 0; // one distance says nothing about the next
  const steps = t.slice(1).map((at, i) => at - t[i]!);
  steps.sort((a, b) => a - b);
  return steps[Math.floor((steps.length - 1) / 2)]!; // the lower one: with two distances, the smaller is the pace
}
