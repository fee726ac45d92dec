import { describe, expect, it } from "vitest";
import { formatLabels, parseSearch } from "./search";

describe("search", () => {
  it("looks for text in ids", () => {
    expect(parseSearch(" edge_01 ")).toEqual({ q: "edge_01", label: [] });
    expect(parseSearch("")).toEqual({ q: "", label: [] });
  });
  it("takes labels apart from it, with or without a value", () => {
    expect(parseSearch("site=berlin edge rack=")).toEqual({ q: "edge", label: ["site:berlin", "rack"] });
    expect(parseSearch("url=http://a:1/?x=2")).toEqual({ q: "", label: ["url:http://a:1/?x=2"] });
  });
  it("leaves to the ids what can be no label", () => {
    expect(parseSearch("Site=berlin =x 1a=b")).toEqual({ q: "Site=berlin =x 1a=b", label: [] });
  });
  it("shows labels as they are typed", () => {
    expect(formatLabels({ site: "berlin", rack: "4" })).toEqual(["rack=4", "site=berlin"]);
  });
});
