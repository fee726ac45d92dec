// The fleet's list: pages, the order, the counts.
// Promises: no device twice, whichever page or filter brought it; ill devices first, then by id, so rows do not jump while
// nothing changes; the fresher answer of the same poll wins. Pure.
import type { DeviceStatus, DeviceSummary } from "../api/types";

export const PAGE = 100;
const LARGEST_PAGE = 1_000; // the API's limit

/** Worst first. A device that answers but has failing sources comes after those that do not answer. */
export function severity(device: DeviceSummary): number {
  if (device.status === "offline") return 0;
  if (device.status === "stale") return 1;
  return device.problems > 0 ? 2 : 3;
}

export const isIll = (device: DeviceSummary): boolean => severity(device) < 3;

export function mergeDevices(...lists: readonly (readonly DeviceSummary[])[]): DeviceSummary[] {
  const byId = new Map<string, DeviceSummary>();
  for (const list of lists) for (const device of list) byId.set(device.id, device);
  return [...byId.values()];
}

export function orderDevices(devices: readonly DeviceSummary[]): DeviceSummary[] {
  return [...devices].sort((a, b) => severity(a) - severity(b) || compareIds(a.id, b.id));
}

/** The API sorts ids by their bytes; so do we, or a "load more" would insert rows in the middle. */
export function compareIds(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Sizes of the requests that bring `wanted` devices back in as few answers as the API allows. */
export function pageSizes(wanted: number): number[] {
  const sizes: number[] = [];
  for (let left = Math.max(PAGE, wanted); left > 0; left -= LARGEST_PAGE) sizes.push(Math.min(left, LARGEST_PAGE));
  return sizes;
}

export function countStatuses(devices: readonly DeviceSummary[]): Record<DeviceStatus, number> {
  const counts = { online: 0, stale: 0, offline: 0 };
  for (const device of devices) counts[device.status] += 1;
  return counts;
}
