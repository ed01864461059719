import { RuntimeError } from "../../shared/base/errors.ts";
import type { OciResources } from "../../shared/oci/runtime-spec.ts";
import { memoryFor } from "../../shared/base/guest-memory.ts";
import { mebibytes } from "../../shared/base/mebibytes.ts";
import type { VmLimits } from "../hypervisor/virtual-machine.ts";
import { defaultMemoryBytes, memoryStepBytes } from "./sandbox-config.ts";

/** What a sandbox's VM has, or is to have. */
export interface SandboxSize {
  /** Boot memory and what is plugged. */
  readonly memoryBytes: number;
  readonly vcpuCount: number;
}

/** Longest cpuset list we read, and the largest CPU number Linux knows (CONFIG_NR_CPUS of distributions). */
const maxCpusetLength = 4096, maxCpu = 8191;

/**
 * The size a sandbox needs for its containers, never below `base`, which is what it was made with.
 * Memory: their limits and huge pages together, and the guest's own need; containers without a limit
 * share the default instead. vCPUs: their quotas together, or without any quota their cpusets together.
 * @throws RuntimeError `invalid_argument` (reason `bad_cpuset`).
 */
export function targetSize(base: SandboxSize, containers: Iterable<OciResources>): SandboxSize {
  const all = [...containers];
  const limits = all.map((resources) => memoryNeed(resources));
  const need = sum(limits) + sum(all.map(hugePageBytes));
  // Those without a limit get more when the guest is short of it.
  const wanted = limits.includes(0) ? defaultMemoryBytes + need : memoryFor(need);
  const memoryBytes = all.length === 0 ? 0 : wanted;
  const quotas = sum(all.map(({ cpu }) => (cpu?.quota !== undefined && cpu.quota > 0 && cpu.period !== undefined && cpu.period > 0 ? cpu.quota / cpu.period : 0)));
  const cpus = new Set(all.flatMap(({ cpu }) => [...parseCpuset(cpu?.cpus ?? "")]));
  return {
    memoryBytes: Math.max(base.memoryBytes, Math.ceil(memoryBytes / memoryStepBytes) * memoryStepBytes),
    vcpuCount: Math.max(base.vcpuCount, quotas > 0 ? Math.ceil(quotas) : cpus.size),
  };
}

/** @throws RuntimeError `resource_exhausted` (reasons `memory_too_large`, `too_many_cpus`) naming the need and the limit. */
export function requireWithin(size: SandboxSize, limits: VmLimits): void {
  if (size.memoryBytes > limits.memoryBytes) throw new RuntimeError("resource_exhausted", `the sandbox would need ${mebibytes(size.memoryBytes)} MiB of memory: it can have ${mebibytes(limits.memoryBytes)} MiB`, { reason: "memory_too_large", hint: "lower the memory limits of its containers" });
  if (size.vcpuCount > limits.vcpuCount) throw new RuntimeError("resource_exhausted", `the sandbox would need ${size.vcpuCount} vCPUs: it can have ${limits.vcpuCount}`, { reason: "too_many_cpus", hint: "lower the CPU limits of its containers" });
}

/** The CPUs of a list as the kernel writes it: `0-2,5` (cpuset(7), "List format"). @throws RuntimeError `invalid_argument` (reason `bad_cpuset`). */
export function parseCpuset(list: string): Set<number> {
  const bad = (): RuntimeError => new RuntimeError("invalid_argument", `cpuset "${list.slice(0, 80)}": must be a list of CPUs`, { reason: "bad_cpuset", hint: "for example 0-2,5" });
  if (list.length > maxCpusetLength) throw bad();
  const cpus = new Set<number>();
  for (const part of list.trim() === "" ? [] : list.trim().split(",")) {
    const [, first, last] = /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(part.trim()) ?? [];
    const from = Number(first), to = Number(last ?? first);
    if (first === undefined || to < from || to > maxCpu) throw bad();
    for (let cpu = from; cpu <= to; cpu++) cpus.add(cpu);
  }
  return cpus;
}

/** Whether a container with these has a memory limit of its own. */
export function limitsMemory(resources: OciResources): boolean {
  return memoryNeed(resources) > 0;
}

/** 0: no limit. A negative one is OCI's word for none. */
function memoryNeed({ memory }: OciResources): number {
  return Math.max(0, memory?.limit ?? 0);
}

function hugePageBytes({ hugepageLimits }: OciResources): number {
  return sum((hugepageLimits ?? []).map(({ limit }) => Math.max(0, limit)));
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
