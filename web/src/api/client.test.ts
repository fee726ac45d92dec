// The fetch wrapper tells a refusing collector from an unreachable one.
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ApiProblem, getJson, queryText, segment, Unreachable } from "./client";
import { keepToken } from "./token";

const fetchStub = vi.fn<typeof fetch>();
const signal = () => new AbortController().signal;
const problem = (status: number, body: object) =>
  new Response(JSON.stringify(body), { status, headers: { "content-type": "application/problem+json" } });

beforeEach(() => {
  vi.stubGlobal("fetch", fetchStub);
  fetchStub.mockReset();
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe("getJson", () => {
  it("answers the parsed document of the right address", async () => {
    fetchStub.mockResolvedValue(new Response('{"items":[]}'));
    expect(await getJson("/devices", { limit: 5, cursor: null, q: "" }, signal())).toEqual({ items: [] });
    expect(fetchStub.mock.calls[0]![0]).toBe("/api/v1/devices?limit=5");
  });

  it("gives the collector's own words when it refuses", async () => {
    fetchStub.mockResolvedValue(problem(404, { type: "https://devmon.invalid/problems/not-found", title: "Not found", status: 404, detail: "no device x" }));
    const error = await getJson("/devices/x", {}, signal()).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ApiProblem);
    expect(error).toMatchObject({ status: 404, kind: "not-found", message: "Not found: no device x" });
  });

  it("takes an error page that is no problem document for a broken way to the collector", async () => {
    fetchStub.mockResolvedValue(new Response("<h1>Bad gateway</h1>", { status: 502, headers: { "content-type": "text/html" } }));
    await expect(getJson("/status", {}, signal())).rejects.toBeInstanceOf(Unreachable);
  });

  it("takes a refused connection and a non-JSON answer as unreachable", async () => {
    fetchStub.mockRejectedValueOnce(new TypeError("failed to fetch"));
    await expect(getJson("/status", {}, signal())).rejects.toBeInstanceOf(Unreachable);
    fetchStub.mockResolvedValueOnce(new Response("<html>"));
    await expect(getJson("/status", {}, signal())).rejects.toBeInstanceOf(Unreachable);
  });

  it("gives up after ten seconds", async () => {
    vi.useFakeTimers();
    fetchStub.mockImplementation(hanging);
    const answer = getJson("/status", {}, signal()).catch((e: unknown) => e);
    await vi.advanceTimersByTimeAsync(9_900);
    expect(await Promise.race([answer, Promise.resolve("pending")])).toBe("pending");
    await vi.advanceTimersByTimeAsync(200);
    expect(await answer).toMatchObject({ name: "Unreachable", message: "no answer within 10 s" });
  });

  it("is silent about what the caller aborted", async () => {
    fetchStub.mockImplementation(hanging);
    const own = new AbortController();
    const answer = getJson("/status", {}, own.signal).catch((e: unknown) => e);
    own.abort();
    expect(await answer).toMatchObject({ name: "AbortError" });
  });

  it("sends the token once there is one", async () => {
    fetchStub.mockImplementation(() => Promise.resolve(new Response("{}")));
    await getJson("/status", {}, signal());
    expect(fetchStub.mock.calls[0]![1]!.headers).not.toHaveProperty("Authorization");
    keepToken("s3cret");
    await getJson("/status", {}, signal());
    expect(fetchStub.mock.calls[1]![1]!.headers).toHaveProperty("Authorization", "Bearer s3cret");
  });
});

it("writes repeated, escaped and readable parameters", () => {
  expect(queryText({ path: ["/disk/~1home/used", "/a b"], from: "-5m", none: null })).toBe("?path=/disk/%7E1home/used&path=/a+b&from=-5m");
  expect(segment("edge:01")).toBe("edge:01");
  expect(segment("a/b")).toBe("a%2Fb");
});

const hanging: typeof fetch = (_input, init) =>
  new Promise((_, reject) => init!.signal!.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError"))));
