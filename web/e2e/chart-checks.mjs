// What the chart and its tables promise, as checks: each runs on a fresh page against a fresh mock and throws when broken.
import assert from "node:assert/strict";
import { chart, inkedColumns, live, metric, number, openChart, until } from "./probes.mjs";

export const chartChecks = [
  {
    name: "a silent device's chart is empty, says so, and leads to its last samples",
    run: async ({ page, url }) => {
      await page.goto(`${url}/?device=edge_017&m=/cpu/utilization`);
      await page.getByText("No samples in this range").waitFor();
      assert.equal(await number(chart(page), "data-points"), 0);
      await page.getByRole("button", { name: "Show its last 15 minutes" }).click();
      await until("its last samples", async () => (await number(chart(page), "data-points")) > 500);
      assert.ok(Date.now() - (await number(chart(page), "data-last-ts")) > 3 * 3_600_000);
    },
  },
  {
    name: "the chart draws, and moves by itself",
    run: async ({ page, url }) => {
      const points = await openChart(page, url + live);
      assert.ok(points > 250 && points <= 300, `${points} points in 5 min less the gaps`);
      const before = await number(chart(page), "data-last-ts");
      assert.ok(Math.abs(Date.now() - before) < 5_000, "the newest point is of now");
      await until("a newer point", async () => (await number(chart(page), "data-last-ts")) > before);
      const inked = (await inkedColumns(page)).filter(Boolean).length;
      assert.ok(inked > 300, `${inked} columns of the canvas hold the line`);
    },
  },
  {
    name: "a gap is drawn as a gap",
    run: async ({ page, url }) => {
      await openChart(page, url + live);
      const columns = await inkedColumns(page);
      const blanks = columns.join("").match(/(?:false){20,}/g) ?? []; // 20 s of 300 s is 1/15 of the width
      assert.ok(blanks.length >= 1, "no blank run of columns in the line");
      assert.match(await chart(page).locator("figcaption").innerText(), /[12] gaps?/);
      assert.ok(columns.filter(Boolean).length > columns.length * 0.7, "and the rest is drawn");
    },
  },
  {
    name: "long ranges come in buckets with a band, counters as rates",
    run: async ({ page, url, control }) => {
      await openChart(page, `${url}/?device=edge_004&m=/gpu/0/temperature_celsius&range=24h`);
      assert.match(await chart(page).locator("figcaption").innerText(), /mean of .*band/);
      const series = control.requests.filter((path) => path.includes("/series"));
      assert.deepEqual(["min", "max"].map((agg) => series.some((path) => path.includes(`agg=${agg}`))), [true, true]);
      await openChart(page, `${url}/?device=edge_004&m=/network/eth0/received_bytes_total&range=15m`);
      assert.ok(control.requests.some((path) => path.includes("received_bytes_total") && path.includes("agg=rate") && path.includes("step=")));
      assert.match(await chart(page).locator(".legend").innerText(), /KiB\/s/);
    },
  },
  {
    name: "range buttons, drag zoom and reset change the address and the chart",
    run: async ({ page, url }) => {
      await openChart(page, url + live);
      await page.getByTestId("range-1h").click();
      await until("more time", async () => /range=1h/.test(page.url()) && (await page.getByTestId("range-1h").getAttribute("aria-pressed")) === "true");
      await page.getByTestId("range-5m").click();
      await until("5 min again", async () => (await chart(page).getAttribute("aria-busy")) === "false" && (await number(chart(page), "data-points")) <= 300);
      const box = await page.locator(".u-over").boundingBox();
      await page.mouse.move(box.x + box.width * 0.2, box.y + 50);
      await page.mouse.down();
      await page.mouse.move(box.x + box.width * 0.5, box.y + 60, { steps: 5 });
      await page.mouse.up();
      await until("a zoom in the address", () => /from=\d+&to=\d+/.test(page.url()));
      await until("fewer points", async () => (await number(chart(page), "data-points")) <= 100);
      await page.getByTestId("reset-zoom").click();
      await until("all points", async () => (await number(chart(page), "data-points")) > 250);
      assert.doesNotMatch(page.url(), /from=/);
    },
  },
  {
    name: "several metrics of one unit share the chart, another unit replaces them",
    run: async ({ page, url }) => {
      await openChart(page, url + live);
      await metric(page, "/cpu/core/0/utilization").locator(".tick").click();
      await until("two lines", async () => (await chart(page).locator(".legend tbody tr").count()) === 2);
      await metric(page, "/memory/utilization").click({ modifiers: ["Control"] });
      await until("three lines", async () => (await chart(page).locator(".legend tbody tr").count()) === 3);
      assert.equal(new URL(page.url()).searchParams.getAll("m").length, 3);
      await metric(page, "/memory/used_bytes").locator(".tick").click();
      await until("bytes alone", async () => (await chart(page).getAttribute("data-metrics")) === "/memory/used_bytes");
    },
  },
  {
    name: "the table shows the chart's numbers, 25 a page",
    run: async ({ page, url }) => {
      await openChart(page, url + live);
      await page.getByTestId("table-toggle").click();
      const table = page.getByTestId("numbers-table");
      assert.equal(await table.locator("tbody tr").count(), 25);
      const first = await table.locator("tbody th").first().innerText();
      assert.match(first, /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/);
      await table.getByRole("button", { name: "Older" }).click();
      assert.ok((await table.locator("tbody th").first().innerText()) < first, "older numbers on the second page");
      await page.getByTestId("table-toggle").click();
      await page.locator(".plot canvas").waitFor();
    },
  },
  {
    name: "texts and states are tables of changes",
    run: async ({ page, url }) => {
      await page.goto(`${url}/?device=edge_004&m=/door/mode&range=15m`);
      const table = page.getByTestId("changes-table");
      await table.waitFor();
      const values = await table.locator("tbody td:nth-child(2)").allInnerTexts();
      assert.ok(values.includes("locked") && values.includes("no data"), values.join());
      assert.ok(values.every((value, i) => value !== values[i - 1]), "each row is a change");
      await metric(page, "/door/open").click();
      await until("booleans", async () => /true|false/.test((await table.locator("tbody").innerText().catch(() => "")) ?? ""));
    },
  },
  {
    name: "the chart works by keyboard and says what it shows",
    run: async ({ page, url }) => {
      await openChart(page, url + live);
      await page.getByTestId("plot").focus();
      await page.keyboard.press("ArrowLeft");
      const said = () => page.getByTestId("chart-spoken").innerText();
      const first = await until("a sentence", said);
      assert.match(first, /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d: (\d|no data)/);
      await page.keyboard.press("Shift+ArrowLeft");
      const second = await until("another sentence", async () => (await said()) !== first && said());
      assert.ok(second < first, `${second} is earlier than ${first}`);
      assert.ok(await page.locator(".tooltip").isVisible());
      await page.keyboard.press("Escape");
      await until("no tooltip", async () => (await page.locator(".tooltip").count()) === 0);
    },
  },
  {
    name: "the theme toggles, also in the chart, and is remembered",
    run: async ({ page, url }) => {
      await openChart(page, url + live);
      const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const light = await ground();
      await page.getByTestId("theme-toggle").click();
      assert.notEqual(await ground(), light);
      await until("a line in the dark theme's colour", async () => (await inkedColumns(page)).filter(Boolean).length > 300);
      const dark = await ground();
      await page.reload();
      await page.locator(".plot canvas").waitFor();
      assert.equal(await ground(), dark);
    },
  },
];
