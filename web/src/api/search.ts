// What is typed into the search box, as filters of the API.
// Promises: every text is one the API takes; a word `name=value` or `name=` is a label (an id has no `=`), all else is looked for in ids. Pure.

export interface DeviceFilter {
  q: string;
  label: string[];
}

const LABEL = /^([a-z][a-z0-9_]{0,62})=(.*)$/; // the API's rule for names

export function parseSearch(text: string): DeviceFilter {
  const label: string[] = [];
  const rest: string[] = [];
  for (const word of text.trim().split(/\s+/)) {
    const [, name, value] = LABEL.exec(word) ?? [];
    if (name === undefined) rest.push(word);
    else label.push(value ? `${name}:${value}` : name);
  }
  return { q: rest.join(" "), label };
}

/** In the order of their names, as they are typed into the search box. */
export function formatLabels(labels: Record<string, string>): string[] {
  const names = Object.keys(labels).sort();
  return names.map((name) => `${name}=${labels[name]}`);
}
