import { existsSync, mkdirSync, readFileSync, readdirSync, rmdirSync, writeFileSync } from "node:fs";
import { isErrnoException } from "../../shared/base/errors.ts";
import { leftForContainers } from "../../shared/base/guest-memory.ts";
import { paths } from "../paths.ts";

/** The agent's own memory that the kernel does not take from it; a Node agent at work has about 40 to 55 MiB. */
const agentMinBytes = 64 * 1024 * 1024;
/** In a VM that small the containers may still have this much; then the guest has what is left. */
const leastContainerBytes = 64 * 1024 * 1024;
/** Memory that only allocations which cannot wait may use. Where huge pages are on, the kernel sets four times as much, and does so again whenever memory comes or goes. */
const keptFreeKib = 16 * 1024;

/** What a limit file says when there is none; the protocol's word for it is the largest number. */
export const unlimited = 2n ** 64n - 1n;

/** Names of the top-level cgroups (docs/agent.md). */
export const cgroups = { agent: "/agent", containers: "/containers", vm: "/vm" } as const;

/** Path of a cgroup's file below the mount. */
export function cgroupFile(cgroup: string, file: string): string {
  return `${paths.cgroup}${cgroup}/${file}`;
}

/**
 * Makes the tree: the agent protected in its own group, containers below one parent with a maximum,
 * processes of `exec --vm` apart. A group with processes of its own cannot pass controllers on
 * (cgroup-v2, "no internal processes"), so the agent leaves the root first.
 */
export function makeCgroupTree(): void {
  for (const cgroup of Object.values(cgroups)) mkdirSync(cgroupFile(cgroup, ""), { recursive: true });
  writeFileSync(cgroupFile(cgroups.agent, "cgroup.procs"), String(process.pid));
  const controllers = readFileSync(cgroupFile("", "cgroup.controllers"), "latin1").trim().split(" ").filter((name) => name !== "");
  const enable = controllers.map((name) => `+${name}`).join(" ");
  writeFileSync(cgroupFile("", "cgroup.subtree_control"), enable);
  writeFileSync(cgroupFile(cgroups.containers, "cgroup.subtree_control"), enable);
  if (controllers.includes("memory")) {
    writeFileSync(cgroupFile(cgroups.agent, "memory.min"), String(agentMinBytes));
    limitContainers();
  }
}

/** Sets what all containers together may use, no less than `leastBytes`; again after memory was plugged or taken away. */
export function limitContainers(leastBytes = 0): void {
  writeFileSync("/proc/sys/vm/min_free_kbytes", String(keptFreeKib));
  const file = cgroupFile(cgroups.containers, "memory.max");
  if (existsSync(file)) writeFileSync(file, String(Math.max(containersMaxBytes(readMemTotalBytes()), leastBytes)));
}

/** What there is for them, in whole pages. */
function containersMaxBytes(totalBytes: number): number {
  return Math.floor(Math.max(leftForContainers(totalBytes), Math.min(leastContainerBytes, totalBytes)) / 4096) * 4096;
}

function readMemTotalBytes(): number {
  const kib = /^MemTotal:\s+(\d+) kB$/m.exec(readFileSync("/proc/meminfo", "latin1"))?.[1];
  return Number(kib ?? 0) * 1024;
}

/** Pids in a cgroup and below; empty when it is gone. */
export function cgroupPids(cgroup: string): number[] {
  const own = readIfThere(cgroupFile(cgroup, "cgroup.procs")).split("\n").filter((line) => line !== "").map(Number);
  return [...own, ...childGroups(cgroup).flatMap((child) => cgroupPids(`${cgroup}/${child}`))];
}

/** SIGKILL to every process in a cgroup and below, also frozen ones. False when the cgroup is gone. */
export function killCgroup(cgroup: string): boolean {
  try {
    writeFileSync(cgroupFile(cgroup, "cgroup.kill"), "1");
    return true;
  } catch (error) {
    if (isErrnoException(error, "ENOENT") || isErrnoException(error, "ENODEV")) return false;
    throw error;
  }
}

/** Makes a cgroup below one that is there. */
export function makeCgroup(cgroup: string): string {
  mkdirSync(cgroupFile(cgroup, ""));
  return cgroup;
}

/** Removes a cgroup without processes and the groups below it; gone already is success. */
export function removeCgroup(cgroup: string): void {
  for (const child of childGroups(cgroup)) removeCgroup(`${cgroup}/${child}`);
  try {
    rmdirSync(cgroupFile(cgroup, ""));
  } catch (error) {
    if (!isErrnoException(error, "ENOENT")) throw error;
  }
}

/** Value of a key in a flat-keyed file such as memory.events; 0 when the cgroup or the key is missing. */
export function cgroupCounter(cgroup: string, file: string, key: string): number {
  return findFlatKeyed(readIfThere(cgroupFile(cgroup, file)), key);
}

/** One value of what {@link parseFlatKeyed} reads; 0 when it is not there. A process's end waits for this. */
export function findFlatKeyed(text: string, key: string): number {
  const at = `\n${text}`.indexOf(`\n${key} `);
  return at === -1 ? 0 : Number.parseInt(text.slice(at + key.length + 1), 10) || 0;
}

/** Parses "key value" lines (cgroup-v2, "flat keyed"). */
export function parseFlatKeyed(text: string): Map<string, number> {
  return new Map(text.split("\n").flatMap((line): [string, number][] => {
    const [key, value] = line.split(" ");
    return key === undefined || value === undefined || !/^\d+$/.test(value) ? [] : [[key, Number(value)]];
  }));
}

/** A number, or "max"; 0 for a file that is missing. */
export function parseAmount(text: string): bigint {
  const trimmed = text.trim();
  if (trimmed === "max") return unlimited;
  return /^\d+$/.test(trimmed) ? BigInt(trimmed) : 0n;
}

/** A cgroup's file; empty when the cgroup, or its controller, is gone. */
export function readIfThere(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch (error) {
    if (isErrnoException(error, "ENOENT") || isErrnoException(error, "ENODEV") || isErrnoException(error, "EOPNOTSUPP")) return "";
    throw error;
  }
}

function childGroups(cgroup: string): string[] {
  try {
    return readdirSync(cgroupFile(cgroup, ""), { withFileTypes: true }).filter((entry) => entry.isDirectory()).map(({ name }) => name);
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return [];
    throw error;
  }
}
