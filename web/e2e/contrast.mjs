// WCAG contrast of the colours in styles/tokens.css, as the browser resolves them, in both themes.
import assert from "node:assert/strict";

const TEXT = 4.5; // WCAG 2.2 AA, 1.4.3
const SIGN = 3; // 1.4.11: lines, borders of fields, signs

const LINES = [1, 2, 3, 4, 5, 6, 7, 8].map((n) => `--line-${n}`);
const PAIRS = [
  ...["--text", "--text-2", "--accent", "--good", "--warn", "--bad"].flatMap((ink) => ["--ground", "--card", "--hover"].map((ground) => [ink, ground, TEXT])),
  ["--text", "--sunken", TEXT],
  ["--text", "--accent-ground", TEXT],
  ["--text-2", "--accent-ground", TEXT],
  ["--accent", "--accent-ground", TEXT],
  ["--on-accent", "--accent", TEXT],
  ["--warn", "--warn-ground", TEXT],
  ["--text", "--warn-ground", TEXT],
  ["--bad", "--warn-ground", TEXT],
  ["--bad", "--bad-ground", TEXT],
  ["--text", "--bad-ground", TEXT],
  ["--edge-strong", "--card", SIGN],
  ...LINES.map((line) => [line, "--card", SIGN]),
];

function luminance([r, g, b]) {
  const linear = (channel) => (channel / 255 <= 0.04045 ? channel / 255 / 12.92 : ((channel / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
}

function contrast(a, b) {
  const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (light + 0.05) / (dark + 0.05);
}

async function assertContrast(page) {
  const names = [...new Set(PAIRS.flatMap(([ink, ground]) => [ink, ground]))];
  const colours = await page.evaluate((all) => {
    const probe = document.createElement("i");
    document.body.append(probe);
    const entries = all.map((name) => {
      probe.style.color = `var(${name})`;
      return [name, getComputedStyle(probe).color.match(/\d+/g).slice(0, 3).map(Number)];
    });
    probe.remove();
    return Object.fromEntries(entries);
  }, names);
  const weak = PAIRS.map(([ink, ground, least]) => [ink, ground, least, contrast(colours[ink], colours[ground])]).filter(([, , least, found]) => found < least);
  assert.deepEqual(weak.map(([ink, ground, least, found]) => `${ink} on ${ground}: ${found.toFixed(2)} < ${least}`), []);
}

export const contrastChecks = [
  {
    name: "contrast is WCAG AA in both themes",
    run: async ({ page, url }) => {
      await page.goto(url);
      await page.getByTestId("device-row").first().waitFor();
      await assertContrast(page);
      await page.getByTestId("theme-toggle").click();
      await assertContrast(page);
    },
  },
];
