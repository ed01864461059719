import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { RuntimeError } from "../shared/base/errors.ts";
import { MetricsSchema, type Metrics } from "../shared/protocol/gen/containerd/metrics_pb.ts";
import type { StatsResponse } from "../shared/protocol/gen/owner_pb.ts";

/**
 * Bytes and packets of one network interface of the sandbox, since its start.
 *
 * @example
 * for (const { name, receivedBytes, sentBytes } of (await sandbox.stats()).network) console.log(name, receivedBytes, sentBytes);
 */
export interface NetworkStats {
  /** As in the sandbox, e.g. `eth0`. */
  readonly name: string;
  readonly receivedBytes: number;
  readonly receivedPackets: number;
  readonly sentBytes: number;
  readonly sentPackets: number;
  /** Packets that were dropped, or broken, in either direction. */
  readonly lostPackets: number;
}

/**
 * A process of this machine that serves the sandbox.
 *
 * @example
 * for (const { name, memoryBytes } of (await sandbox.stats()).host.processes) console.log(name, memoryBytes);
 */
export interface HostProcessStats {
  /** `qemu` (with the guest's memory), `owner`, `supervisor`, `passt` (network), `virtiofsd` (volumes). */
  readonly name: string;
  readonly pid: number;
  /** CPU time since its start. */
  readonly cpuMs: number;
  /** Its share of the machine's memory: what it shares with others is divided by their number. */
  readonly memoryBytes: number;
}

/**
 * What a sandbox uses. Times and counts grow from its start on; the difference of two looks, divided by
 * the time between them, is a rate.
 *
 * @example
 * const before = await sandbox.stats();
 * await sandbox.run("i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done");
 * const after = await sandbox.stats();
 * console.log((after.cpu.usageMs - before.cpu.usageMs) / (after.monotonicMs - before.monotonicMs), "CPUs busy");
 */
export interface SandboxStats {
  /** When it was read. */
  readonly time: Date;
  /** The same by a clock that nobody sets; only its differences mean something. */
  readonly monotonicMs: number;
  /** Of its processes. */
  readonly cpu: {
    readonly usageMs: number;
    readonly userMs: number;
    readonly systemMs: number;
    /** How long they were held back by {@link SandboxOptions.cpus}. */
    readonly throttledMs: number;
    /** CPUs of the VM. */
    readonly vcpuCount: number;
  };
  /** Of its processes. */
  readonly memory: {
    /** Without what the kernel can take back at once, as docker counts. */
    readonly usedBytes: number;
    /** {@link SandboxOptions.memoryMiB}, or without it the VM's memory. */
    readonly limitBytes: number;
    /** The most there has been, file cache included; 0 where the kernel does not tell. */
    readonly peakBytes: number;
    readonly swapBytes: number;
    /** Processes that the kernel has killed for want of memory. */
    readonly oomKills: number;
  };
  readonly pids: {
    readonly current: number;
    /** Undefined: no limit. */
    readonly limit: number | undefined;
  };
  readonly network: readonly NetworkStats[];
  /** Of all its disks together. */
  readonly blkio: {
    readonly readBytes: number;
    readonly writtenBytes: number;
    readonly readCount: number;
    readonly writeCount: number;
  };
  /** What it costs this machine. */
  readonly host: {
    readonly cpuMs: number;
    readonly memoryBytes: number;
    readonly processes: readonly HostProcessStats[];
  };
}

/** @internal The owner's answer in the library's words. @throws RuntimeError `unavailable` (reason `sandbox_gone`) when the container has ended. */
export function toStats(containerId: string, answer: StatsResponse): SandboxStats {
  const found = answer.containers.find((one) => one.containerId === containerId)?.metrics;
  const metrics = found === undefined ? undefined : anyUnpack(found, MetricsSchema);
  if (metrics === undefined) throw new RuntimeError("unavailable", "the sandbox has ended", { reason: "sandbox_gone" });
  const processes = answer.hostProcesses.map(({ name, pid, cpuNanos, memoryBytes }) => ({ name, pid, cpuMs: Number(cpuNanos) / 1e6, memoryBytes: Number(memoryBytes) }));
  return {
    time: new Date(),
    monotonicMs: Number(answer.readAtNanos) / 1e6,
    ...guestStats(metrics, answer),
    host: { cpuMs: sum(processes, ({ cpuMs }) => cpuMs), memoryBytes: sum(processes, ({ memoryBytes }) => memoryBytes), processes },
  };
}

function guestStats({ cpu, memory, memoryEvents, pids, network, io }: Metrics, guest: StatsResponse): Omit<SandboxStats, "time" | "monotonicMs" | "host"> {
  const devices = io?.usage ?? [];
  const guestBytes = Number(guest.memoryBytes), limitBytes = Number(memory?.usageLimit ?? 0n), pidLimit = Number(pids?.limit ?? 0n);
  return {
    cpu: {
      usageMs: Number(cpu?.usageUsec ?? 0n) / 1e3,
      userMs: Number(cpu?.userUsec ?? 0n) / 1e3,
      systemMs: Number(cpu?.systemUsec ?? 0n) / 1e3,
      throttledMs: Number(cpu?.throttledUsec ?? 0n) / 1e3,
      vcpuCount: guest.vcpuCount,
    },
    memory: {
      usedBytes: Math.max(0, Number((memory?.usage ?? 0n) - (memory?.inactiveFile ?? 0n))),
      limitBytes: limitBytes === 0 ? guestBytes : Math.min(limitBytes, guestBytes),
      peakBytes: Number(memory?.maxUsage ?? 0n),
      swapBytes: Number(memory?.swapUsage ?? 0n),
      oomKills: Number(memoryEvents?.oomKill ?? 0n),
    },
    pids: { current: Number(pids?.current ?? 0n), limit: Number.isSafeInteger(pidLimit) && pidLimit > 0 ? pidLimit : undefined },
    network: network.map(({ name, rxBytes, rxPackets, rxErrors, rxDropped, txBytes, txPackets, txErrors, txDropped }) => ({
      name,
      receivedBytes: Number(rxBytes),
      receivedPackets: Number(rxPackets),
      sentBytes: Number(txBytes),
      sentPackets: Number(txPackets),
      lostPackets: Number(rxErrors + rxDropped + txErrors + txDropped),
    })),
    blkio: {
      readBytes: sum(devices, ({ rbytes }) => Number(rbytes)),
      writtenBytes: sum(devices, ({ wbytes }) => Number(wbytes)),
      readCount: sum(devices, ({ rios }) => Number(rios)),
      writeCount: sum(devices, ({ wios }) => Number(wios)),
    },
  };
}

function sum<T>(values: readonly T[], valueOf: (value: T) => number): number {
  return values.reduce((total, value) => total + valueOf(value), 0);
}
