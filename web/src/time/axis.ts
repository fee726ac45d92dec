// Labels of the time axis: only as much of the date as tells neighbouring ticks apart. Pure, local time.
import { formatDate, formatTime } from "./age";

const MINUTE = 60_000;
const DAY = 86_400_000;

/** `stepMs` is the distance of the ticks. A second line with the date stands under the first tick of each day. */
export function timeLabels(ticks: readonly number[], stepMs: number): string[] {
  return ticks.map((tick, i) => {
    const date = formatDate(tick).slice(5);
    if (stepMs >= DAY) return date;
    const time = stepMs >= MINUTE ? formatTime(tick).slice(0, 5) : formatTime(tick);
    const previous = ticks[i - 1];
    const newDay = previous === undefined ? true : formatDate(previous) !== formatDate(tick);
    return newDay ? `${time}\n${date}` : time;
  });
}

/** Distances of ticks that people count in, in ms. */
export function timeIncrements(): number[] {
  const times = (unitMs: number, ...counts: number[]) => counts.map((count) => count * unitMs);
  return [
    ...times(1, 1, 2, 5, 10, 20, 50, 100, 200, 500),
    ...times(1_000, 1, 2, 5, 10, 15, 20, 30),
    ...times(MINUTE, 1, 2, 5, 10, 15, 20, 30),
    ...times(60 * MINUTE, 1, 2, 3, 4, 6, 8, 12),
    ...times(DAY, 1, 2, 3, 5, 7, 10, 14, 30, 90, 365),
  ];
}
