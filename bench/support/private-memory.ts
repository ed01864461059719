import { readFileSync } from "node:fs";

/** Kilobytes a process has for itself alone, by the text of its smaps_rollup (proc(5)): pages that no other process maps. */
export function parsePrivateKilobytes(smapsRollup: string): number {
  const values = [...smapsRollup.matchAll(/^Private_(?:Clean|Dirty|Hugetlb):\s*(\d+) kB$/gm)].map(([, kilobytes]) => Number(kilobytes));
  if (values.length === 0) throw new Error(`no private memory in: ${smapsRollup.slice(0, 200)}`);
  return values.reduce((sum, value) => sum + value, 0);
}

/** The same in megabytes, of a process on this host. */
export function privateMegabytes(pid: number): number {
  return parsePrivateKilobytes(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8")) / 1024;
}
