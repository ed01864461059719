import assert from "node:assert/strict";
import { test } from "node:test";
import { parseAmount } from "./cgroup-tree.ts";
import { cgroupStats } from "./stats.ts";
import { parseNetDev } from "../network/network-stats.ts";

const files: Readonly<Record<string, string>> = {
  "cpu.stat": "usage_usec 900\nuser_usec 600\nsystem_usec 300\nnr_periods 5\nnr_throttled 2\nthrottled_usec 40\n",
  "memory.current": "1000\n", "memory.peak": "1500\n", "memory.max": "max\n", "memory.swap.current": "7\n", "memory.swap.max": "70\n",
  "memory.stat": "anon 600\nfile 400\nkernel 50\npgmajfault 3\n", "memory.events": "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\n",
  "pids.current": "4\n", "pids.max": "max\n",
  "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 rbytes=10 wbytes=20 rios=30 wios=40 dbytes=50 dios=60\ngarbage\n",
  "hugetlb.2MB.current": "2097152\n", "hugetlb.2MB.events": "max 1\n",
};
const read = (file: string): string => files[file] ?? "";

test("D12: user and system time are the right way round, in nanoseconds", () => {
  const { cpuStats } = cgroupStats(read, []);
  assert.deepEqual([cpuStats?.cpuUsage?.totalUsage, cpuStats?.cpuUsage?.usageInUsermode, cpuStats?.cpuUsage?.usageInKernelmode], [900_000n, 600_000n, 300_000n]);
  assert.deepEqual([cpuStats?.throttlingData?.periods, cpuStats?.throttlingData?.throttledPeriods, cpuStats?.throttlingData?.throttledTime], [5n, 2n, 40_000n]);
});

test("D12: every device of io.stat and every interface has figures of its own", () => {
  const { blkioStats } = cgroupStats(read, []);
  assert.deepEqual(blkioStats?.ioServiceBytesRecursive.map(({ major, minor, op, value }) => `${major}:${minor} ${op} ${value}`), ["8:0 Read 1", "8:0 Write 2", "8:0 Discard 5", "8:16 Read 10", "8:16 Write 20", "8:16 Discard 50"]);
  assert.deepEqual(blkioStats?.ioServicedRecursive.map(({ value }) => value), [3n, 4n, 6n, 30n, 40n, 60n]);
  const counters = Array.from({ length: 16 }, (_, index) => index + 1).join(" ");
  assert.deepEqual(parseNetDev(`Inter-|\n face |\n    lo: ${counters}\n  eth0: ${counters}\n  eth1: ${counters}\n`).map(({ name, rxBytes, rxDropped, txBytes, txDropped }) => [name, rxBytes, rxDropped, txBytes, txDropped]), [["eth0", 1n, 4n, 9n, 12n], ["eth1", 1n, 4n, 9n, 12n]]);
});

test("1.1 MemoryStats, PidsStats, HugetlbStats: memory, swap, failures, pids and huge pages; no limit is the largest number, for pids 0", () => {
  const { memoryStats, pidsStats, hugetlbStats } = cgroupStats(read, ["2MB"]);
  assert.deepEqual([memoryStats?.usage?.usage, memoryStats?.usage?.maxUsage, memoryStats?.usage?.failcnt, memoryStats?.usage?.limit], [1000n, 1500n, 9n, 2n ** 64n - 1n]);
  assert.deepEqual([memoryStats?.cache, memoryStats?.swapUsage?.usage, memoryStats?.swapUsage?.limit, memoryStats?.kernelUsage?.usage, memoryStats?.useHierarchy, memoryStats?.stats["events.oom_kill"]], [400n, 7n, 70n, 50n, true, 1n]);
  assert.deepEqual([pidsStats?.current, pidsStats?.limit], [4n, 0n]);
  assert.deepEqual([hugetlbStats["2MB"]?.usage, hugetlbStats["2MB"]?.failcnt], [2_097_152n, 1n]);
  assert.deepEqual([parseAmount(""), parseAmount("x"), parseAmount("12\n")], [0n, 0n, 12n]);
});
