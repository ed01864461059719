import { readMemory } from "../../src/host/control/host-usage.ts";

/** Kilobytes a process has for itself alone, by the text of its smaps_rollup (proc(5)): pages that no other process maps. */
export function parsePrivateKilobytes(smapsRollup: string): number {
  const values = [...smapsRollup.matchAll(/^Private_(?:Clean|Dirty|Hugetlb):\s*(\d+) kB$/gm)].map(([, kilobytes]) => Number(kilobytes));
  if (values.length === 0) throw new Error(`no private memory in: ${smapsRollup.slice(0, 200)}`);
  return values.reduce((sum, value) => sum + value, 0);
}

/** Megabytes that a process on this host has for itself alone; see {@link readMemory}. */
export function privateMegabytes(pid: number): number {
  const memory = readMemory(pid);
  if (memory === undefined) throw new Error(`the memory of process ${pid} cannot be read`);
  return Number(memory.privateBytes) / 1024 / 1024;
}
