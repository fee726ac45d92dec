// The bearer token of a collector that asks for one.
// Promises: kept for this tab only (sessionStorage, so that closing the tab forgets it); a browser that refuses storage
// still works until reload.

const KEY = "devmon.token";
let inMemory: string | null = null;

export function readToken(): string | null {
  if (inMemory !== null) return inMemory;
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

export function keepToken(token: string): void {
  inMemory = token;
  try {
    sessionStorage.setItem(KEY, token);
  } catch {
    // private mode: memory is enough for this page
  }
}
