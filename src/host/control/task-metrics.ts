import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { anyPack, type Any } from "@bufbuild/protobuf/wkt";
import type { BlkioStats, StatsContainerResponse } from "../../shared/protocol/gen/agent/agent_pb.ts";
import { MetricsSchema, type IOEntrySchema, type MemoryStatSchema } from "../../shared/protocol/gen/containerd/metrics_pb.ts";

const nanosPerMicro = 1000n;
/** Keys of memory.stat that containerd's message has under the same name. */
const memoryKeys = {
  anon: "anon", file: "file", kernelStack: "kernel_stack", slab: "slab", sock: "sock", shmem: "shmem", fileMapped: "file_mapped", fileDirty: "file_dirty",
  fileWriteback: "file_writeback", anonThp: "anon_thp", inactiveAnon: "inactive_anon", activeAnon: "active_anon", inactiveFile: "inactive_file", activeFile: "active_file",
  unevictable: "unevictable", slabReclaimable: "slab_reclaimable", slabUnreclaimable: "slab_unreclaimable", pgfault: "pgfault", pgmajfault: "pgmajfault",
} as const satisfies Partial<Record<keyof MessageInitShape<typeof MemoryStatSchema>, string>>;
/** The agent's words of an operation, and containerd's fields for its bytes and its count. */
const operations = { Read: ["rbytes", "rios"], Write: ["wbytes", "wios"] } as const;

/** The agent's statistics as containerd's clients read them: field by field, every device and interface on its own. */
export function toTaskMetrics({ cgroupStats, networkStats }: StatsContainerResponse): Any {
  const { cpuStats, memoryStats, pidsStats, blkioStats, hugetlbStats = {} } = cgroupStats ?? {};
  const { cpuUsage, throttlingData } = cpuStats ?? {};
  const stats = memoryStats?.stats ?? {};
  const event = (key: string): bigint => stats[`events.${key}`] ?? 0n;
  return anyPack(MetricsSchema, create(MetricsSchema, {
    pids: { current: pidsStats?.current ?? 0n, limit: pidsStats?.limit ?? 0n },
    cpu: {
      usageUsec: (cpuUsage?.totalUsage ?? 0n) / nanosPerMicro,
      userUsec: (cpuUsage?.usageInUsermode ?? 0n) / nanosPerMicro,
      systemUsec: (cpuUsage?.usageInKernelmode ?? 0n) / nanosPerMicro,
      nrPeriods: throttlingData?.periods ?? 0n,
      nrThrottled: throttlingData?.throttledPeriods ?? 0n,
      throttledUsec: (throttlingData?.throttledTime ?? 0n) / nanosPerMicro,
    },
    memory: {
      ...Object.fromEntries(Object.entries(memoryKeys).map(([field, key]) => [field, stats[key] ?? 0n])),
      usage: memoryStats?.usage?.usage ?? 0n,
      usageLimit: memoryStats?.usage?.limit ?? 0n,
      maxUsage: memoryStats?.usage?.maxUsage ?? 0n,
      swapUsage: memoryStats?.swapUsage?.usage ?? 0n,
      swapLimit: memoryStats?.swapUsage?.limit ?? 0n,
    },
    memoryEvents: { low: event("low"), high: event("high"), max: event("max"), oom: event("oom"), oomKill: event("oom_kill") },
    io: { usage: blkioStats === undefined ? [] : ioEntries(blkioStats) },
    hugetlb: Object.entries(hugetlbStats).map(([pagesize, { usage, maxUsage }]) => ({ pagesize, current: usage, max: maxUsage })),
    network: networkStats.map(({ $typeName: _name, ...counters }) => counters),
  }));
}

function ioEntries({ ioServiceBytesRecursive, ioServicedRecursive }: BlkioStats): MessageInitShape<typeof IOEntrySchema>[] {
  const devices = new Map<string, { major: bigint; minor: bigint; rbytes: bigint; wbytes: bigint; rios: bigint; wios: bigint }>();
  for (const [list, index] of [[ioServiceBytesRecursive, 0], [ioServicedRecursive, 1]] as const) {
    for (const { major, minor, op, value } of list) {
      const key = `${major}:${minor}`;
      const device = devices.get(key) ?? { major, minor, rbytes: 0n, wbytes: 0n, rios: 0n, wios: 0n };
      const field = op === "Read" || op === "Write" ? operations[op][index] : undefined;
      if (field !== undefined) device[field] += value;
      devices.set(key, device);
    }
  }
  return [...devices.values()];
}
