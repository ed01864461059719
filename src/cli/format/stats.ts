import type { Metrics } from "../../shared/protocol/gen/containerd/metrics_pb.ts";
import type { HostProcess } from "../../shared/protocol/gen/owner_pb.ts";
import { formatSize } from "./size.ts";

/** CPU time at two moments, both in nanoseconds. */
export interface CpuSample {
  readonly cpuNanos: bigint;
  readonly atNanos: bigint;
}

/** A container's line, in docker's words. */
export interface StatsLine {
  readonly Container: string;
  readonly ID: string;
  readonly Name: string;
  readonly CPUPerc: string;
  readonly MemUsage: string;
  readonly MemPerc: string;
  readonly NetIO: string;
  readonly BlockIO: string;
  readonly PIDs: string;
}

/** Percent of one CPU between two samples; 0 without a first one. */
export function cpuPercent(before: CpuSample | undefined, now: CpuSample): number {
  const elapsed = Number(now.atNanos - (before?.atNanos ?? now.atNanos));
  return elapsed <= 0 || before === undefined ? 0 : Math.max(0, Number(now.cpuNanos - before.cpuNanos) / elapsed * 100);
}

/** What a container uses. docker counts memory without what the kernel can take back at once; a container without a limit has the guest's. */
export function statsLine(container: { readonly id: string; readonly name: string }, metrics: Metrics, cpu: number, guestMemoryBytes: bigint): StatsLine {
  const { memory, io, network, pids } = metrics;
  const used = larger(0n, (memory?.usage ?? 0n) - (memory?.inactiveFile ?? 0n));
  const limit = memory === undefined || memory.usageLimit === 0n || memory.usageLimit > guestMemoryBytes ? guestMemoryBytes : memory.usageLimit;
  const devices = io?.usage ?? [];
  return {
    Container: container.id,
    ID: container.id,
    Name: container.name,
    CPUPerc: `${cpu.toFixed(2)}%`,
    MemUsage: `${formatBinary(used)} / ${formatBinary(limit)}`,
    MemPerc: `${limit === 0n ? "0.00" : (Number(used) / Number(limit) * 100).toFixed(2)}%`,
    NetIO: `${formatSize(sum(network.map(({ rxBytes }) => rxBytes)))} / ${formatSize(sum(network.map(({ txBytes }) => txBytes)))}`,
    BlockIO: `${formatSize(sum(devices.map(({ rbytes }) => rbytes)))} / ${formatSize(sum(devices.map(({ wbytes }) => wbytes)))}`,
    PIDs: String(pids?.current ?? 0n),
  };
}

/** What a sandbox, or one of its processes, costs the host. */
export interface HostCost {
  readonly CPUPerc: string;
  /** Its own memory, and its share of what several processes map. */
  readonly MemUsage: string;
  /** What nobody else maps: what ends with it. */
  readonly PrivateMem: string;
  /** Its share of what several map: the template's memory, programs, libraries. */
  readonly SharedMem: string;
}

/** What a sandbox costs the host: all its processes, then each. */
export function hostLine(sandboxId: string, processes: readonly HostProcess[], percentOf: (process: HostProcess) => number): HostCost & { readonly Sandbox: string; readonly Processes: readonly (HostCost & { readonly Name: string; readonly PID: number })[] } {
  const total = (field: "memoryBytes" | "privateBytes"): bigint => processes.reduce((sum, process) => sum + process[field], 0n);
  return {
    Sandbox: sandboxId,
    ...hostCost(processes.reduce((sum, process) => sum + percentOf(process), 0), total("memoryBytes"), total("privateBytes")),
    Processes: processes.map((process) => ({ Name: process.name, PID: process.pid, ...hostCost(percentOf(process), process.memoryBytes, process.privateBytes) })),
  };
}

function hostCost(cpu: number, memoryBytes: bigint, privateBytes: bigint): HostCost {
  return { CPUPerc: `${cpu.toFixed(2)}%`, MemUsage: formatBinary(memoryBytes), PrivateMem: formatBinary(privateBytes), SharedMem: formatBinary(larger(0n, memoryBytes - privateBytes)) };
}

/** `1.5MiB`: powers of 1024, four digits, as docker shows memory. */
export function formatBinary(bytes: bigint): string {
  const names = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = Number(bytes), index = 0;
  while (value >= 1024 && index < names.length - 1) {
    value /= 1024;
    index++;
  }
  return `${Number(value.toPrecision(4))}${names[index]}`;
}

function sum(values: readonly bigint[]): number {
  return Number(values.reduce((total, value) => total + value, 0n));
}

function larger(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
