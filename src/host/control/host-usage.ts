import { readFileSync } from "node:fs";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { isErrnoException } from "../../shared/base/errors.ts";
import type { HostProcessSchema } from "../../shared/protocol/gen/owner_pb.ts";
import { savedMemoryName } from "../hypervisor/guest-memory.ts";
import { findTaggedProcesses } from "../store/tagged-process.ts";

/** Clock ticks a second in /proc: USER_HZ is 100 on every architecture we run on. */
const nanosPerTick = 10_000_000n;
/** Before each mapping of smaps. */
const mappingStart = /^(?=[0-9a-f]+-[0-9a-f]+ )/m;
/** Names of the helpers, and the ends of their tokens in the environment. */
const helpers = { virtiofsd: "virtiofsd", passt: "passt" } as const;

/** What the sandbox costs the host: each of its processes, with its memory and CPU time. */
export function readHostUsage(sandboxId: string, vmmPid: number): MessageInitShape<typeof HostProcessSchema>[] {
  const found = Object.entries(helpers).flatMap(([name, suffix]) => findTaggedProcesses(`${sandboxId}/${suffix}`).map(({ pid }) => ({ name, pid })));
  const processes = [{ name: "qemu", pid: vmmPid }, { name: "owner", pid: process.pid }, { name: "supervisor", pid: process.ppid }, ...found];
  return processes.flatMap(({ name, pid }) => {
    const stat = readProc(pid, "stat"), status = readProc(pid, "status");
    // A supervisor that has gone leaves us to init.
    if (stat === "" || pid === 1) return [];
    return [{ name, pid, cpuNanos: BigInt(parseCpuTicks(stat)) * nanosPerTick, ...readMemory(pid) ?? withoutRights(status) }];
  });
}

/** A process's memory: its share of what several processes map counts, and what is its own alone. Undefined when we may not look, or it is gone. */
export function readMemory(pid: number): ProcessMemory | undefined {
  return parseMemory(readProc(pid, "smaps_rollup"), readProc(pid, "smaps"));
}

/** See {@link readMemory}. */
export interface ProcessMemory {
  readonly memoryBytes: bigint;
  readonly privateBytes: bigint;
}

/**
 * The same from the text of smaps_rollup and smaps (proc(5)). Pages of a saved VM's memory that only this process
 * has mapped so far are there for all that start from it; its own are those it has written.
 */
export function parseMemory(smapsRollup: string, smaps: string): ProcessMemory | undefined {
  const proportional = parseKib(smapsRollup, "Pss");
  if (proportional === undefined) return undefined;
  const ofOthers = smaps.split(mappingStart).filter((mapping) => mapping.includes(savedMemoryName)).reduce((sum, mapping) => sum + privateKib(mapping) - (parseKib(mapping, "Anonymous") ?? 0), 0);
  return { memoryBytes: BigInt(proportional) * 1024n, privateBytes: BigInt(Math.max(0, privateKib(smapsRollup) - ofOthers)) * 1024n };
}

/** All of it counts as its own. */
function withoutRights(status: string): ProcessMemory {
  const memoryBytes = BigInt(parseKib(status, "VmRSS") ?? 0) * 1024n;
  return { memoryBytes, privateBytes: memoryBytes };
}

function privateKib(text: string): number {
  return ["Private_Clean", "Private_Dirty", "Private_Hugetlb"].reduce((sum, name) => sum + (parseKib(text, name) ?? 0), 0);
}

/** User and system time of /proc/PID/stat, whose second field, the name, may hold anything (proc(5)). */
export function parseCpuTicks(stat: string): number {
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return Number(fields[11] ?? 0) + Number(fields[12] ?? 0);
}

/** The value of a `Name:   123 kB` line. */
export function parseKib(text: string, name: string): number | undefined {
  const found = new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(text)?.[1];
  return found === undefined ? undefined : Number(found);
}

/** Empty when the process is gone, or not ours to look into. */
function readProc(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "latin1");
  } catch (error) {
    if (["ENOENT", "ESRCH", "EACCES", "EPERM"].some((code) => isErrnoException(error, code))) return "";
    throw error;
  }
}
