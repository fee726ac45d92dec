// The page against a real collector: `node e2e/live.mjs http://127.0.0.1:PORT DEVICE [SCREENSHOT_DIR]`.
// Promises to fail unless the device is listed as online, its tree is shown, and the chart of a metric moves by itself. With a directory it also
// takes the README's screenshots (light, dark, phone). Run by xtask/tests/browser.rs.
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [base, device, screenshots] = process.argv.slice(2);
assert.ok(base && device, "usage: node e2e/live.mjs BASE_URL DEVICE [SCREENSHOT_DIR]");

const ARGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const PATH = "/cpu/utilization";
const DEADLINE = { timeout: 30_000 };

const profile = await mkdtemp(join(tmpdir(), "devmon-live-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: "/usr/bin/chromium",
  args: ARGS,
  viewport: { width: 1280, height: 860 },
  colorScheme: "light",
});
try {
  const page = context.pages()[0] ?? (await context.newPage());
  const trouble = [];
  page.on("pageerror", (error) => trouble.push(`page error: ${error.message}`));
  page.on("console", (message) => message.type() === "error" && trouble.push(`console: ${message.text()}`));

  await page.goto(base);
  const row = page.locator(`[data-testid="device-row"][data-device="${device}"][data-status="online"]`);
  await row.waitFor(DEADLINE);
  await row.click();
  const metric = page.locator(`[data-testid="metric-row"][data-path="${PATH}"]`);
  await metric.waitFor(DEADLINE);
  for (const path of ["/memory/used_bytes", "/disk/~1/used_bytes"]) {
    await page.locator(`[data-testid="metric-row"][data-path="${path}"]`).waitFor({ ...DEADLINE, state: "attached" });
  }
  await metric.click();
  await page.locator('[data-testid="range-5m"]').click();

  const chart = page.locator('[data-testid="chart"]');
  const drawn = async () => ({
    lastTs: Number((await chart.getAttribute("data-last-ts")) ?? 0),
    points: Number((await chart.getAttribute("data-points")) ?? 0),
  });
  const until = async (what, holds) => {
    const end = Date.now() + DEADLINE.timeout;
    for (;;) {
      const now = await drawn();
      if (holds(now)) return now;
      assert.ok(Date.now() < end, `not within ${DEADLINE.timeout} ms: ${what}; the chart has ${JSON.stringify(now)}`);
      await page.waitForTimeout(100);
    }
  };
  const first = await until("the chart has two points", (c) => c.points >= 2 && c.lastTs > 0);
  const moved = await until("the chart moves by itself, twice", (c) => c.lastTs >= first.lastTs + 2000);
  assert.ok(Math.abs(Date.now() - moved.lastTs) < 15_000, "the newest point is not of now");
  const inked = await page.evaluate(() => {
    const canvas = document.querySelector('[data-testid="chart"] canvas');
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    let n = 0;
    for (let i = 3; i < pixels.length; i += 4) n += pixels[i] > 0 ? 1 : 0;
    return n;
  });
  assert.ok(inked > 500, `only ${inked} pixels of the chart have ink`);
  assert.deepEqual(trouble, []);

  if (screenshots) {
    await page.screenshot({ path: join(screenshots, "device-light.png") });
    await page.emulateMedia({ colorScheme: "dark" });
    await page.screenshot({ path: join(screenshots, "device-dark.png") });
    await page.emulateMedia({ colorScheme: "light" });
    await page.setViewportSize({ width: 390, height: 844 });
    await page.screenshot({ path: join(screenshots, "device-phone.png") });
    await page.goto(base);
    await row.waitFor(DEADLINE);
    await page.screenshot({ path: join(screenshots, "fleet-phone.png") });
    await page.setViewportSize({ width: 1280, height: 860 });
    await page.screenshot({ path: join(screenshots, "fleet-light.png") });
  }
  console.log(`live page: ${device} online, chart of ${PATH} moved from ${first.lastTs} to ${moved.lastTs}`);
} finally {
  await context.close();
  await rm(profile, { recursive: true, force: true });
}
