// Real links that navigate inside the page on a plain click; with a modifier or another button the browser does its own.
import type { MouseEvent } from "react";

export function followLink(go: () => void): (event: MouseEvent) => void {
  return (event) => {
    if (event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    go();
  };
}
