// What fleet, device and page promise, as checks: each runs on a fresh page against a fresh mock and throws when broken.
import assert from "node:assert/strict";
import { chart, live, metric, openChart, overflow, rows, until } from "./probes.mjs";

export const pageChecks = [
  {
    name: "the fleet names its ill devices first, with a word, before anything is scrolled",
    viewport: { width: 360, height: 740 },
    run: async ({ page, url }) => {
      await page.goto(url);
      await rows(page).first().waitFor();
      assert.match((await page.getByTestId("fleet-summary").innerText()).replace(/\s+/g, " "), /245 online · 2 stale · 3 offline/);
      const seen = await rows(page).evaluateAll((all) => all.slice(0, 8).map((row) => [row.dataset.device, row.dataset.status, row.innerText.includes(row.dataset.status), row.getBoundingClientRect().bottom <= innerHeight]));
      assert.deepEqual(seen.slice(0, 5).map((row) => row.join()), ["edge_017,offline,true,true", "edge_143,offline,true,true", "edge_230,offline,true,true", "edge_042,stale,true,true", "edge_201,stale,true,true"]);
      assert.deepEqual(seen.slice(5, 8).map((row) => row[0]), ["edge_005", "edge_077", "edge_000"], "failing sources next, then the well ones");
    },
  },
  {
    name: "load more reaches every device, and a refresh keeps them",
    run: async ({ page, url, control }) => {
      await page.goto(url);
      const more = page.getByTestId("load-more-devices");
      await more.click();
      await until("200 devices and three ill ones beyond", async () => (await rows(page).count()) === 202);
      await more.click();
      await until("all devices", async () => (await rows(page).count()) === 250);
      assert.equal(await more.count(), 0);
      const asked = control.requests.length;
      await until("a refresh of all 250", () => control.requests.slice(asked).some((path) => path.includes("limit=250")));
      assert.equal(await rows(page).count(), 250);
      assert.equal(new Set(await rows(page).evaluateAll((all) => all.map((row) => row.dataset.device))).size, 250);
    },
  },
  {
    name: "search and status filter narrow the list and live in the address",
    run: async ({ page, url }) => {
      await page.goto(url);
      await page.getByRole("searchbox", { name: "Search devices by id or label" }).fill("EDGE_01");
      await until("ten found", async () => (await rows(page).count()) === 10);
      assert.match(page.url(), /q=EDGE_01/);
      await page.getByTestId("fleet-summary").getByRole("button", { name: /offline/ }).click();
      await until("one offline among them", async () => (await rows(page).count()) === 1);
      await page.goBack();
      await until("ten again", async () => (await rows(page).count()) === 10);
    },
  },
  {
    name: "labels are shown, and devices found by them",
    run: async ({ page, url }) => {
      await page.goto(url);
      await rows(page).first().waitFor();
      await page.getByRole("searchbox", { name: "Search devices by id or label" }).fill("site=berlin rack= edge_01");
      await until("three found", async () => (await rows(page).count()) === 3);
      assert.deepEqual(await rows(page).first().locator(".label").allInnerTexts(), ["rack=5", "site=berlin"]);
      await rows(page).first().click();
      const labels = page.getByRole("list", { name: "Labels" });
      await labels.waitFor();
      assert.deepEqual(await labels.getByRole("listitem").allInnerTexts(), ["rack=5", "site=berlin"]);
    },
  },
  {
    name: "a device opens with its tree, and Back returns to the fleet",
    run: async ({ page, url }) => {
      await page.goto(url);
      await page.locator('[data-device="edge_004"]').click();
      await metric(page, "/disk/~1mnt~1データ/used_bytes").waitFor();
      assert.equal(await page.title(), "edge_004 · devmon");
      assert.match(await metric(page, "/cpu/utilization").innerText(), /\d+\.\d\s%/);
      assert.match(await metric(page, "/cpu/load/1m").innerText(), /1m\s+\d\.?\d*$/, "a load is no percentage");
      assert.match(await metric(page, "/disk/~1home/total_bytes").innerText(), /250\sGiB/);
      assert.equal(await metric(page, "/gpu/0/name").locator(".value").innerText(), "NVIDIA Jetson Orin");
      await page.goBack();
      await rows(page).first().waitFor();
      assert.equal(await page.title(), "devmon");
    },
  },
  {
    name: "integers past 2^53 keep every digit",
    run: async ({ page, url }) => {
      await page.goto(`${url}/?device=edge_004`);
      const title = await metric(page, "/disk/~1home/written_bytes_total").locator(".value").getAttribute("title");
      const written = BigInt(title.split(" ")[0]);
      assert.ok(written > 2n ** 60n, title);
      // the model's last digits (mock-model.mjs): whole 5 s steps of 37 B/ms above 2^60 + 1; a double would have rounded them away
      assert.equal((written - 2n ** 60n - 1n) % 185_000n, 0n, title);
    },
  },
  {
    name: "sources show what they are: quarantined with its reason, unavailable as no fault",
    run: async ({ page, url }) => {
      await page.goto(`${url}/?device=edge_005`);
      await page.locator('[data-source="door"][data-state="quarantined"]').waitFor();
      const problems = page.getByRole("list", { name: "Sources with problems" });
      assert.match(await problems.innerText(), /door\s+quarantined\s+plugin libdoor\.so panicked/);
      assert.doesNotMatch(await problems.innerText(), /gpu/);
      assert.match(await page.locator('[data-source="gpu"]').innerText(), /unavailable[\s\S]*no NVIDIA driver/);
    },
  },
  {
    name: "values of an offline device are greyed",
    run: async ({ page, url }) => {
      await page.goto(`${url}/?device=edge_017`);
      await metric(page, "/cpu/utilization").waitFor();
      assert.match(await metric(page, "/cpu/utilization").getAttribute("class"), /is-old/);
      await page.goto(`${url}/?device=edge_004`);
      await metric(page, "/cpu/utilization").waitFor();
      assert.doesNotMatch(await metric(page, "/cpu/utilization").getAttribute("class"), /is-old/);
    },
  },
  {
    name: "the tree works by keyboard",
    run: async ({ page, url }) => {
      await page.goto(`${url}/?device=edge_004`);
      await metric(page, "/cpu/utilization").waitFor();
      await page.getByRole("searchbox", { name: "Filter metrics by path" }).focus();
      await page.keyboard.press("Tab");
      const focused = () => page.evaluate(() => document.activeElement.dataset.branch ?? document.activeElement.dataset.path);
      assert.equal(await focused(), "/cpu");
      await page.keyboard.press("ArrowLeft");
      await until("cpu closed", async () => (await metric(page, "/cpu/utilization").count()) === 0);
      await page.keyboard.press("ArrowRight");
      await metric(page, "/cpu/utilization").waitFor();
      await page.keyboard.press("ArrowDown");
      await page.keyboard.press("ArrowDown");
      await until("on the leaf", async () => (await focused()) === "/cpu/utilization");
      await page.keyboard.press("Enter");
      await until("its chart", async () => (await chart(page).getAttribute("data-metrics")) === "/cpu/utilization");
      assert.equal(await focused(), "/cpu/utilization", "and focus stays");
      await page.keyboard.press("Home");
      await until("back on top", async () => (await focused()) === "/cpu");
    },
  },
  {
    name: "the path filter finds what is inside closed branches",
    run: async ({ page, url }) => {
      await page.goto(`${url}/?device=edge_000`);
      await metric(page, "/cpu/utilization").waitFor();
      assert.equal(await metric(page, "/cpu/core/15/utilization").count(), 0, "16 cores start closed");
      await page.getByRole("searchbox", { name: "Filter metrics by path" }).fill("core/15");
      await metric(page, "/cpu/core/15/utilization").waitFor();
      assert.equal(await page.getByTestId("metric-row").count(), 1);
    },
  },
  {
    name: "360 px: no sideways scroll, targets of 44 px",
    viewport: { width: 360, height: 740 },
    touch: true,
    run: async ({ page, url }) => {
      await page.goto(url);
      await rows(page).first().waitFor();
      assert.equal(await overflow(page), 0, "fleet");
      await openChart(page, `${url}/?device=edge_005&m=/network/eth0/received_bytes_total&m=/network/eth0/sent_bytes_total&range=1h`);
      assert.equal(await overflow(page), 0, "device");
      await page.getByTestId("table-toggle").click();
      await page.getByTestId("numbers-table").waitFor();
      assert.equal(await overflow(page), 0, "table");
      const small = await page.evaluate(() =>
        [...document.querySelectorAll("button, input, select, [role=treeitem], .back, .brand")]
          .filter((target) => target.getBoundingClientRect().height < 43.5 && !target.classList.contains("small"))
          .map((target) => `${target.className || target.tagName} ${target.getBoundingClientRect().height}`),
      );
      assert.deepEqual(small, []);
    },
  },
  {
    name: "a silent collector: a banner with the time, the old data stays greyed, and it recovers",
    run: async ({ page, url, control }) => {
      await openChart(page, url + live);
      control.silent = true;
      const banner = page.getByTestId("trouble");
      await banner.waitFor();
      assert.match(await banner.innerText(), /Collector unreachable since \d\d:\d\d:\d\d/);
      assert.ok(await metric(page, "/cpu/utilization").isVisible());
      assert.match(await page.locator("main").getAttribute("class"), /is-lost/);
      const asked = control.requests.length;
      control.silent = false;
      await banner.getByRole("button", { name: "Try now" }).click();
      await until("no banner", async () => (await banner.count()) === 0);
      assert.ok(control.requests.length > asked);
    },
  },
  {
    name: "a token is asked for, refused when wrong, and kept for the tab",
    run: async ({ page, url, control }) => {
      control.token = "s3cret";
      await page.goto(url);
      const field = page.getByLabel("Access token");
      await until("two rounds without a token", () => control.requests.filter((path) => path.includes("/status")).length >= 2);
      assert.equal(await page.getByText("did not accept").count(), 0, "nothing was refused yet");
      await field.fill("wrong");
      await page.getByRole("button", { name: "Continue" }).click();
      await page.getByText("did not accept this token").waitFor();
      await field.fill("s3cret");
      await page.getByRole("button", { name: "Continue" }).click();
      await rows(page).first().waitFor();
      await page.reload();
      await rows(page).first().waitFor();
      assert.equal(await page.getByTestId("token-form").count(), 0);
    },
  },
  {
    name: "nothing yet and not found say what to do",
    run: async ({ page, url, control }) => {
      control.empty = true;
      await page.goto(url);
      await page.getByText("devmon-agent run --device NAME --mqtt mqtt://HOST:PORT").waitFor();
      control.empty = false;
      await rows(page).first().waitFor();
      await page.goto(`${url}/?device=edge_999`);
      await page.getByTestId("no-such-device").getByRole("link", { name: "Back to the fleet" }).click();
      await rows(page).first().waitFor();
    },
  },
];
