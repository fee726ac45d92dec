// The one place that calls fetch.
// In: a path below /api/v1 and its query. Out: the parsed answer, or exactly one of three errors:
//   ApiProblem   the collector answered and said no (RFC 9457); its words are for the person
//   Unreachable  no answer, no answer in time, or an answer that is not the collector's (a proxy's 502 page)
//   AbortError   the caller gave up; nobody needs to hear of it
import { parseJson } from "./json";
import { readToken } from "./token";
import type { ProblemDocument } from "./types";
import { observeServerTime } from "../time/clock";

export const BASE = "/api/v1";
const TIMEOUT_MS = 10_000; // the slowest promised query takes well under a second; after ten the link is at fault

export type QueryValue = string | number | readonly string[] | null | undefined;
export type Query = Record<string, QueryValue>;

export class ApiProblem extends Error {
  override name = "ApiProblem";
  constructor(
    readonly status: number,
    readonly kind: string,
    readonly title: string,
    readonly detail: string,
  ) {
    super(detail === "" ? title : `${title}: ${detail}`);
  }
}

export class Unreachable extends Error {
  override name = "Unreachable";
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

/** Absent and empty parameters are left out; lists repeat the key. Slashes stay readable. */
export function queryText(query: Query): string {
  const out = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value === null || value === undefined || value === "") continue;
    if (typeof value === "object") for (const one of value) out.append(key, one);
    else out.append(key, String(value));
  }
  const text = out.toString().replaceAll("%2F", "/");
  return text === "" ? "" : `?${text}`;
}

/** Device ids are URL-safe but for ':', which a path segment may carry as it is. */
export function segment(id: string): string {
  return encodeURIComponent(id).replaceAll("%3A", ":");
}

export async function getJson<T>(path: string, query: Query, signal: AbortSignal): Promise<T> {
  const ownLimit = new AbortController();
  const timer = setTimeout(() => ownLimit.abort(), TIMEOUT_MS);
  const giveUp = () => ownLimit.abort();
  if (signal.aborted) giveUp();
  signal.addEventListener("abort", giveUp, { once: true });
  const sentAt = Date.now();
  try {
    const response = await fetch(BASE + path + queryText(query), {
      signal: ownLimit.signal,
      headers: headers(),
      cache: "no-store",
    });
    observeServerTime(response.headers.get("date"), sentAt, Date.now());
    const text = await response.text();
    if (!response.ok) throw refusal(response, text);
    return parseAnswer(text) as T;
  } catch (error) {
    if (error instanceof ApiProblem || error instanceof Unreachable) throw error;
    if (signal.aborted) throw new DOMException("superseded", "AbortError");
    if (ownLimit.signal.aborted) throw new Unreachable(`no answer within ${TIMEOUT_MS / 1000} s`);
    throw new Unreachable("connection failed");
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", giveUp);
  }
}

function headers(): Record<string, string> {
  const token = readToken();
  const accept = { Accept: "application/json" };
  return token === null ? accept : { ...accept, Authorization: `Bearer ${token}` };
}

function parseAnswer(text: string): unknown {
  try {
    return parseJson(text);
  } catch {
    throw new Unreachable("the answer is not JSON; is this address a devmon collector?");
  }
}

function refusal(response: Response, text: string): ApiProblem | Unreachable {
  const type = response.headers.get("content-type") ?? "";
  // Every refusal of the collector is a problem document, so any other one was made by something in between.
  if (!type.startsWith("application/problem+json")) return new Unreachable(`HTTP ${response.status} from something before the collector`);
  let doc: Partial<ProblemDocument>;
  try {
    doc = JSON.parse(text) as Partial<ProblemDocument>;
  } catch {
    return new Unreachable(`HTTP ${response.status} with a broken problem document`);
  }
  const kind = (doc.type ?? "").split("/").at(-1) ?? "";
  return new ApiProblem(response.status, kind, doc.title ?? `HTTP ${response.status}`, doc.detail ?? "");
}
