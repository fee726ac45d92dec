// How the dashboard is built, served in development and unit-tested.
// Promises: relative asset names (the collector embeds dist/ and serves it at `/` and `/assets/…`), nothing inlined
// that the collector's CSP would refuse, no source maps in the binary.
import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

// What `light-dark()` and `<search>`-era CSS need; older browsers get no half-working page, but plain colours.
const BROWSERS = ["chrome123", "firefox121", "safari17.5"];

export default defineConfig({
  base: "./",
  plugins: [react()],
  build: {
    target: BROWSERS,
    assetsInlineLimit: 0, // data: URLs would need exceptions in the CSP
    modulePreload: { polyfill: false }, // the polyfill is an inline script in some setups; every target preloads natively
  },
  server: {
    proxy: { "/api": "http://127.0.0.1:8765" },
  },
  test: {
    include: ["src/**/*.test.ts"],
    environment: "node",
  },
});
