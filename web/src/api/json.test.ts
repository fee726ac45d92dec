// Large integers survive parsing.
import { describe, expect, it } from "vitest";
import { parseJson, reviveInteger } from "./json";

describe("reviveInteger", () => {
  const revive = (value: unknown, source?: string) => reviveInteger.call({}, "k", value, source === undefined ? undefined : { source });

  it("keeps every digit of an integer past 2^53", () => {
    expect(revive(9007199254740993, "9007199254740993")).toBe(9007199254740993n);
    expect(revive(-9223372036854775808, "-9223372036854775808")).toBe(-9223372036854775808n);
  });

  it("leaves safe integers, decimals and exponents numbers", () => {
    expect(revive(42, "42")).toBe(42);
    expect(revive(0.12345678901234567, "0.12345678901234567")).toBe(0.12345678901234567);
    expect(revive(1e300, "1e300")).toBe(1e300);
  });

  it("falls back to the plain number where the engine gives no source", () => {
    expect(revive(9007199254740992)).toBe(9007199254740992);
  });
});

it("parses documents with and without long digits alike", () => {
  expect(parseJson('{"a":[1,null,"12345678901234567890"]}')).toEqual({ a: [1, null, "12345678901234567890"] });
  expect(parseJson('{"a":1}')).toEqual({ a: 1 });
});
