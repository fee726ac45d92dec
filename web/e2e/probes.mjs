// How the checks find and await things on the page. Each waits for a condition with a deadline, never for a time.

export const rows = (page) => page.getByTestId("device-row");
export const chart = (page) => page.getByTestId("chart");
export const metric = (page, path) => page.locator(`[data-testid="metric-row"][data-path="${path}"]`);
export const live = "/?device=edge_004&m=/cpu/utilization&range=5m";

/** Waits until `probe` answers something true; says what it last answered when it does not. */
export async function until(what, probe, deadlineMs = 8_000) {
  const end = Date.now() + deadlineMs;
  let last;
  do {
    last = await probe();
    if (last) return last;
    await new Promise((later) => setTimeout(later, 50));
  } while (Date.now() < end);
  throw new Error(`${what}: not within ${deadlineMs} ms, last ${JSON.stringify(last)}`);
}

export const number = async (locator, attribute) => Number(await locator.getAttribute(attribute));
export const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

export async function openChart(page, url) {
  await page.goto(url);
  await page.locator(".plot canvas").waitFor();
  return until("points", () => number(chart(page), "data-points"));
}

/** Columns of the canvas that hold a pixel of the line's colour, left to right. */
export const inkedColumns = (page) =>
  page.evaluate(() => {
    const canvas = document.querySelector(".plot canvas");
    const over = document.querySelector(".u-over").getBoundingClientRect();
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    const probe = document.createElement("i");
    probe.style.color = "var(--line-1)";
    document.body.append(probe);
    const [r, g, b] = getComputedStyle(probe).color.match(/\d+/g).map(Number);
    probe.remove();
    const x0 = Math.round((over.left - box.left) * scale);
    const width = Math.round(over.width * scale);
    const height = Math.round(over.height * scale);
    const { data } = canvas.getContext("2d").getImageData(x0, Math.round((over.top - box.top) * scale), width, height);
    return Array.from({ length: width }, (_, x) => {
      for (let y = 0; y < height; y += 1) {
        const i = 4 * (y * width + x);
        if (data[i + 3] > 120 && Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 40) return true;
      }
      return false;
    });
  });
