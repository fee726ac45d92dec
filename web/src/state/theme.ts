// Light, dark, or as the system has it.
// Promises: the choice outlives the page where the browser allows storage; choosing what the system already has returns to
// following it, so a day-and-night system keeps working.
import { useSyncExternalStore } from "react";

export type Theme = "light" | "dark";

const KEY = "devmon.theme";
const EVENT = "devmon:theme";
const systemIsDark = () => matchMedia("(prefers-color-scheme: dark)");

export function readTheme(): Theme | null {
  try {
    const stored = localStorage.getItem(KEY);
    return stored === "light" || stored === "dark" ? stored : null;
  } catch {
    return null;
  }
}

export function applyTheme(theme: Theme | null): void {
  if (theme === null) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

export function shownTheme(): Theme {
  const chosen = document.documentElement.dataset.theme;
  return chosen === "light" || chosen === "dark" ? chosen : systemIsDark().matches ? "dark" : "light";
}

export function toggleTheme(): void {
  const next: Theme = shownTheme() === "dark" ? "light" : "dark";
  const followsSystem = (next === "dark") === systemIsDark().matches;
  applyTheme(followsSystem ? null : next);
  try {
    if (followsSystem) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, next);
  } catch {
    // no storage: it holds until reload
  }
  window.dispatchEvent(new Event(EVENT));
}

/** For what is painted by hand and has to be painted anew. */
export function useTheme(): Theme {
  return useSyncExternalStore(subscribe, shownTheme);
}

function subscribe(listener: () => void): () => void {
  const system = systemIsDark();
  window.addEventListener(EVENT, listener);
  system.addEventListener("change", listener);
  return () => {
    window.removeEventListener(EVENT, listener);
    system.removeEventListener("change", listener);
  };
}
