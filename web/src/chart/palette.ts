// Colours of the chart, read from the CSS variables so that the two themes are defined in one place (styles/tokens.css).
// Promises: resolved to what a canvas takes; each line also has its own dash pattern, so colour is never the only sign.

export interface Palette {
  lines: string[];
  bands: string[];
  grid: string;
  text: string;
}

/** One for each of MOST_METRICS lines; unbroken for the first, longer and shorter dashes after. */
export const DASHES: number[][] = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 3], [14, 4], [2, 6], [8, 3, 2, 3, 2, 3]];

export function readPalette(within: HTMLElement): Palette {
  // A custom property's own text may be `light-dark(…)`: only as a real property is it resolved.
  const probe = document.createElement("span");
  within.append(probe);
  const read = (name: string): string => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const numbers = DASHES.map((_, i) => i + 1);
  const palette = {
    lines: numbers.map((n) => read(`--line-${n}`)),
    bands: numbers.map((n) => read(`--band-${n}`)),
    grid: read("--grid"),
    text: read("--text-2"),
  };
  probe.remove();
  return palette;
}
