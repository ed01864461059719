import { create } from "@bufbuild/protobuf";
import { CgroupStatsSchema, type BlkioStatsEntry, BlkioStatsEntrySchema, type CgroupStats, type HugetlbStats, HugetlbStatsSchema } from "../../shared/protocol/gen/agent/agent_pb.ts";
import { cgroupFile, parseAmount, parseFlatKeyed, readIfThere, unlimited } from "./cgroup-tree.ts";
import { readdirSync } from "node:fs";

const nanosPerMicro = 1000n;
/** Reads a file of the cgroup; empty when it does not exist. */
export type CgroupReader = (file: string) => string;

/** The figures of a container's cgroup. */
export function readCgroupStats(cgroup: string): CgroupStats {
  return cgroupStats((file) => readIfThere(cgroupFile(cgroup, file)), hugePageSizes());
}

/** Translates cgroup v2's files (kernel: admin-guide/cgroup-v2) into the protocol's message, whose fields are cgroup v1's. */
export function cgroupStats(read: CgroupReader, pageSizes: readonly string[]): CgroupStats {
  const cpu = parseFlatKeyed(read("cpu.stat"));
  const micros = (key: string): bigint => BigInt(cpu.get(key) ?? 0) * nanosPerMicro;
  return create(CgroupStatsSchema, {
    cpuStats: {
      cpuUsage: { totalUsage: micros("usage_usec"), usageInUsermode: micros("user_usec"), usageInKernelmode: micros("system_usec") },
      throttlingData: { periods: BigInt(cpu.get("nr_periods") ?? 0), throttledPeriods: BigInt(cpu.get("nr_throttled") ?? 0), throttledTime: micros("throttled_usec") },
    },
    memoryStats: memoryStats(read),
    pidsStats: { current: parseAmount(read("pids.current")), limit: limitOrZero(read("pids.max")) },
    blkioStats: blkioStats(read("io.stat")),
    hugetlbStats: Object.fromEntries(pageSizes.map((size) => [size, hugetlbStats(read, size)])),
  });
}

function memoryStats(read: CgroupReader): NonNullable<CgroupStats["memoryStats"]> {
  const stat = parseFlatKeyed(read("memory.stat")), events = parseFlatKeyed(read("memory.events"));
  const parts = {
    cache: BigInt(stat.get("file") ?? 0),
    usage: { usage: parseAmount(read("memory.current")), maxUsage: parseAmount(read("memory.peak")), failcnt: BigInt(events.get("max") ?? 0), limit: parseAmount(read("memory.max")) },
    swapUsage: { usage: parseAmount(read("memory.swap.current")), maxUsage: 0n, failcnt: 0n, limit: parseAmount(read("memory.swap.max")) },
    kernelUsage: { usage: BigInt(stat.get("kernel") ?? 0), maxUsage: 0n, failcnt: 0n, limit: unlimited },
    useHierarchy: true,
    stats: Object.fromEntries([...stat, ...[...events].map(([key, value]): [string, number] => [`events.${key}`, value])].map(([key, value]) => [key, BigInt(value)])),
  };
  const message = create(CgroupStatsSchema, { memoryStats: parts }).memoryStats;
  if (message === undefined) throw new Error("a message that was given is missing");
  return message;
}

function hugetlbStats(read: CgroupReader, size: string): HugetlbStats {
  const events = parseFlatKeyed(read(`hugetlb.${size}.events`));
  return create(HugetlbStatsSchema, { usage: parseAmount(read(`hugetlb.${size}.current`)), failcnt: BigInt(events.get("max") ?? 0) });
}

/** io.stat: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`. */
function blkioStats(text: string): { ioServiceBytesRecursive: BlkioStatsEntry[]; ioServicedRecursive: BlkioStatsEntry[] } {
  const bytes: BlkioStatsEntry[] = [], operations: BlkioStatsEntry[] = [];
  for (const line of text.split("\n")) {
    const [device = "", ...pairs] = line.split(" ");
    const numbers = /^(\d+):(\d+)$/.exec(device);
    if (numbers === null) continue;
    const values = new Map(pairs.map((pair) => pair.split("=")).map(([key = "", value = "0"]) => [key, value]));
    const entry = (op: string, key: string): BlkioStatsEntry => create(BlkioStatsEntrySchema, { major: BigInt(numbers[1] ?? 0), minor: BigInt(numbers[2] ?? 0), op, value: parseAmount(values.get(key) ?? "0") });
    bytes.push(entry("Read", "rbytes"), entry("Write", "wbytes"), entry("Discard", "dbytes"));
    operations.push(entry("Read", "rios"), entry("Write", "wios"), entry("Discard", "dios"));
  }
  return { ioServiceBytesRecursive: bytes, ioServicedRecursive: operations };
}

/** For pids the protocol's "no limit" is 0. */
function limitOrZero(text: string): bigint {
  const limit = parseAmount(text);
  return limit === unlimited ? 0n : limit;
}

/** Sizes as hugetlb's cgroup files name them: 2MB, 1GB. */
function hugePageSizes(): string[] {
  try {
    return readdirSync("/sys/kernel/mm/hugepages").flatMap((name) => {
      const kib = Number(/^hugepages-(\d+)kB$/.exec(name)?.[1] ?? Number.NaN);
      if (Number.isNaN(kib)) return [];
      return [kib >= 1024 ** 2 ? `${kib / 1024 ** 2}GB` : kib >= 1024 ? `${kib / 1024}MB` : `${kib}KB`];
    });
  } catch {
    return []; // a kernel without huge pages has no such folder
  }
}
