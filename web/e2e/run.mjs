// The browser test: the built dashboard in a real Chromium against the mock API, one check after the other.
// Use: `npm run build && npm run test:browser`; SHOTS=DIR also writes screenshots (light, dark, phone) there.
// Each check states a promise and throws when it is broken; the exit status tells. CHROMIUM names another binary.
import { mkdir } from "node:fs/promises";
import { chromium } from "playwright-core";
import { chartChecks } from "./chart-checks.mjs";
import { contrastChecks } from "./contrast.mjs";
import { startMock } from "./mock-api.mjs";
import { pageChecks } from "./page-checks.mjs";

const ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const checks = [...pageChecks, ...chartChecks, ...contrastChecks];
const only = process.argv[2];

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ARGS });
let failed = 0;
for (const { name, run, viewport = { width: 1280, height: 900 }, touch = false } of checks) {
  if (only !== undefined && !name.includes(only)) continue;
  const mock = await startMock();
  const context = await browser.newContext({ viewport, hasTouch: touch, colorScheme: "light", locale: "en-GB", timezoneId: "Europe/Berlin" });
  const page = await context.newPage();
  page.setDefaultTimeout(8_000);
  const complaints = []; // a CSP violation or an exception fails the check, whatever it looked at
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) complaints.push(message.text());
  });
  try {
    await run({ page, context, url: mock.url, control: mock.control });
    if (complaints.length > 0) throw new Error(`the page complained: ${complaints.join("; ")}`);
    console.log(`ok    ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n      ${String(error.message).split("\n").slice(0, 6).join("\n      ")}`);
  }
  await context.close();
  mock.close();
}
if (process.env.SHOTS !== undefined) await shoot(process.env.SHOTS);
await browser.close();
console.log(failed === 0 ? "all checks passed" : `${failed} checks failed`);
process.exit(failed === 0 ? 0 : 1);

async function shoot(folder) {
  await mkdir(folder, { recursive: true });
  const mock = await startMock();
  const views = { fleet: "/", device: "/?device=edge_004&m=/cpu/utilization", band: "/?device=edge_004&m=/gpu/0/temperature_celsius&range=6h", ill: "/?device=edge_005" };
  const looks = { light: [1440, 900, "light"], dark: [1440, 900, "dark"], phone: [360, 740, "light"] };
  for (const [look, [width, height, colorScheme]] of Object.entries(looks)) {
    const context = await browser.newContext({ viewport: { width, height }, colorScheme });
    const page = await context.newPage();
    for (const [view, path] of Object.entries(views)) {
      await page.goto(mock.url + path);
      await page.getByTestId(view === "fleet" ? "device-row" : "metric-row").first().waitFor();
      await page.waitForLoadState("networkidle");
      await page.screenshot({ path: `${folder}/${view}-${look}.png` });
    }
    await context.close();
  }
  mock.close();
}
