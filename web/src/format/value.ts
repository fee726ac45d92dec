// Values as text, driven by the unit table.
// Promises: about three significant digits, so columns stay narrow; integers keep every digit up to six and bigints up to
// any length in `exactValue`; absent is "–", never 0. Spaces are no-break, so a number and its unit stay on one line.
import type { Scalar } from "../api/types";
import type { UnitRule } from "./units";

export const ABSENT = "–";
const SPACE = "\u00a0";
const THIN = "\u202f"; // between groups of three digits

const BINARY = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL_UP = ["", "k", "M", "G", "T", "P", "E"];
const DECIMAL_DOWN = ["", "m", "µ", "n"];

export function formatValue(value: Scalar | null | undefined, rule: UnitRule): string {
  if (value === null || value === undefined) return ABSENT;
  if (typeof value === "string") return value;
  if (typeof value === "boolean") return value ? "true" : "false";
  if (typeof value === "bigint" && rule.scale === "none") return withUnit(groupDigits(value.toString()), rule.symbol);
  const n = Number(value);
  if (!Number.isFinite(n)) return ABSENT;
  switch (rule.scale) {
    case "percent":
      return `${percent(n * 100)}${SPACE}%`;
    case "binary":
      return scaled(n, 1024, BINARY, rule.symbol);
    case "decimal":
      return decimal(n, rule.symbol);
    case "duration":
      return formatSeconds(n);
    case "none":
      return withUnit(Number.isInteger(n) && Math.abs(n) < 1e15 ? groupDigits(String(n)) : significant(n), rule.symbol);
  }
}

/** Every digit there is, for the title of a shortened value and for copying. */
export function exactValue(value: Scalar | null | undefined, unit: string | null): string {
  if (value === null || value === undefined) return "no value";
  const text = String(value);
  return unit === null || typeof value === "string" || typeof value === "boolean" ? text : `${text} ${unit}`;
}

/** Two largest parts of a time: `3 d 4 h`, `12 min 5 s`, `1.5 s`, `250 ms`. */
export function formatSeconds(seconds: number): string {
  const sign = seconds < 0 ? "−" : "";
  const s = Math.abs(seconds);
  if (s < 60) return sign + (s < 1 && s > 0 ? scaledDown(s, "s") : withUnit(Number.isInteger(s) ? String(s) : significant(s), "s"));
  const parts: [number, string][] = [
    [Math.floor(s / 86_400), "d"],
    [Math.floor(s / 3_600) % 24, "h"],
    [Math.floor(s / 60) % 60, "min"],
    [Math.floor(s) % 60, "s"],
  ];
  const first = parts.findIndex(([n]) => n > 0);
  const shown = parts.slice(first, first + 2).filter(([n]) => n > 0);
  return sign + shown.map(([n, unit]) => `${n}${SPACE}${unit}`).join(SPACE);
}

/** Three significant digits without exponent in the everyday range; `−` is the real minus sign. */
export function significant(n: number): string {
  const size = Math.abs(Number(n.toPrecision(3))); // as it will read: 9.999 is a 10.0, not a 10.00
  if (size === 0) return "0";
  if (size < 1e-4 || size >= 1e15) return n.toExponential(2).replace("-", "−");
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : Math.min(6, 2 - Math.floor(Math.log10(size)));
  return groupDigits(n.toFixed(digits));
}

/** One decimal throughout, so that a column of shares lines up; more only where it would say 0 of something. */
function percent(n: number): string {
  return n !== 0 && Math.abs(n) < 0.1 ? significant(n) : groupDigits(n.toFixed(1));
}

export function groupDigits(text: string): string {
  const [whole = "", fraction] = text.split(".");
  const negative = whole.startsWith("-");
  const digits = negative ? whole.slice(1) : whole;
  const grouped = digits.length > 4 ? digits.replace(/\B(?=(\d{3})+$)/g, THIN) : digits;
  return (negative ? "−" : "") + grouped + (fraction === undefined ? "" : `.${fraction}`);
}

function scaled(n: number, base: number, prefixes: string[], symbol: string): string {
  let step = 0;
  let rest = n;
  // 999.5 would print as "1000": the next prefix already reads better
  while (Math.abs(rest) >= (base === 1024 ? 1023.5 : 999.5) && step < prefixes.length - 1) {
    rest /= base;
    step += 1;
  }
  const number = step === 0 && Number.isInteger(rest) ? String(rest).replace("-", "−") : significant(rest);
  return withUnit(number, `${prefixes[step] ?? ""}${symbol}`);
}

function decimal(n: number, symbol: string): string {
  return Math.abs(n) < 1 && n !== 0 ? scaledDown(n, symbol) : scaled(n, 1000, DECIMAL_UP, symbol);
}

function scaledDown(n: number, symbol: string): string {
  let step = 0;
  let rest = n;
  while (Math.abs(rest) < 0.9995 && step < DECIMAL_DOWN.length - 1) {
    rest *= 1000;
    step += 1;
  }
  return withUnit(significant(rest), `${DECIMAL_DOWN[step] ?? ""}${symbol}`);
}

function withUnit(number: string, symbol: string): string {
  if (symbol === "") return number;
  return symbol === "°" || symbol === "/s" ? number + symbol : `${number}${SPACE}${symbol}`;
}
