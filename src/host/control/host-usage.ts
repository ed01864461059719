import { readFileSync } from "node:fs";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { isErrnoException } from "../../shared/base/errors.ts";
import type { HostProcessSchema } from "../../shared/protocol/gen/owner_pb.ts";
import { findTaggedProcesses } from "../store/tagged-process.ts";

/** Clock ticks a second in /proc: USER_HZ is 100 on every architecture we run on. */
const nanosPerTick = 10_000_000n;
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
    return [{ name, pid, cpuNanos: BigInt(parseCpuTicks(stat)) * nanosPerTick, memoryBytes: BigInt(parseKib(readProc(pid, "smaps_rollup"), "Pss") ?? parseKib(status, "VmRSS") ?? 0) * 1024n }];
  });
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
