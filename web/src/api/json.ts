// JSON in, without altering large integers.
// Promises: an integer beyond ±2^53 becomes a bigint with every digit kept, where the engine hands the source text to the
// reviver (Chrome 114, Firefox 135, Safari 18.4); elsewhere it is the nearest double, as JSON.parse always did.

interface ReviverContext {
  source?: string;
}

const INTEGER = /^-?\d+$/;
// A reviver slows parsing several times: only texts that can hold such an integer at all pay for it.
const LONG_DIGITS = /\d{16}/;

export function parseJson(text: string): unknown {
  return LONG_DIGITS.test(text) ? JSON.parse(text, reviveInteger) : JSON.parse(text);
}

export function reviveInteger(this: unknown, _key: string, value: unknown, context?: ReviverContext): unknown {
  if (typeof value !== "number" || Number.isSafeInteger(value)) return value;
  const source = context?.source;
  return source !== undefined && INTEGER.test(source) ? BigInt(source) : value;
}
