// The clock that ages count by: one second hand for the whole page, and only the texts that changed are drawn again.
import { useSyncExternalStore } from "react";
import { formatAge, isOld } from "../time/age";
import { now } from "../time/clock";

const listeners = new Set<() => void>();
let timer: ReturnType<typeof setInterval> | null = null;

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  timer ??= setInterval(() => {
    if (!document.hidden) for (const each of listeners) each();
  }, 1_000);
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0 && timer !== null) {
      clearInterval(timer);
      timer = null;
    }
  };
}

export function useAge(ts: number): string {
  return useSyncExternalStore(subscribe, () => formatAge(now() - ts));
}

export function useIsOld(ts: number | null, intervalMs: number | null): boolean {
  return useSyncExternalStore(subscribe, () => ts !== null && isOld(now() - ts, intervalMs));
}

/** Whole seconds until a moment of the browser's own clock. */
export function useSecondsUntil(at: number | null): number | null {
  return useSyncExternalStore(subscribe, () => (at === null ? null : Math.max(0, Math.ceil((at - Date.now()) / 1_000))));
}
