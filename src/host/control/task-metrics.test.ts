import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { StatsContainerResponseSchema } from "../../shared/protocol/gen/agent/agent_pb.ts";
import { MetricsSchema } from "../../shared/protocol/gen/containerd/metrics_pb.ts";
import { parseCpuTicks, parseKib } from "./host-usage.ts";
import { toTaskMetrics } from "./task-metrics.ts";

const entry = (major: bigint, op: string, value: bigint): { major: bigint; minor: bigint; op: string; value: bigint } => ({ major, minor: 0n, op, value });

test("D8, D12, 2.6 Metrics families (shim), 2.6 Metrics (agent, guest): every list, device and interface arrives, user and system time the right way round", () => {
  const metrics = anyUnpack(toTaskMetrics(create(StatsContainerResponseSchema, {
    cgroupStats: {
      cpuStats: { cpuUsage: { totalUsage: 9_000n, usageInUsermode: 6_000n, usageInKernelmode: 3_000n }, throttlingData: { periods: 5n, throttledPeriods: 2n, throttledTime: 4_000n } },
      memoryStats: { usage: { usage: 100n, limit: 200n, maxUsage: 150n }, swapUsage: { usage: 1n, limit: 2n }, stats: { anon: 60n, inactive_file: 30n, pgmajfault: 7n, "events.oom_kill": 3n } },
      pidsStats: { current: 4n, limit: 10n },
      blkioStats: {
        ioServiceBytesRecursive: [entry(8n, "Read", 11n), entry(8n, "Write", 12n), entry(8n, "Discard", 99n), entry(9n, "Read", 21n)],
        ioServicedRecursive: [entry(8n, "Read", 1n), entry(9n, "Write", 2n)],
      },
      hugetlbStats: { "2MB": { usage: 5n, maxUsage: 6n } },
    },
    networkStats: [{ name: "eth0", rxBytes: 1n, txBytes: 2n }, { name: "eth1", rxDropped: 3n }],
  })), MetricsSchema);
  assert.ok(metrics !== undefined);
  const { cpu, memory, memoryEvents, pids, io, hugetlb, network } = metrics;
  assert.deepEqual([cpu?.usageUsec, cpu?.userUsec, cpu?.systemUsec, cpu?.nrPeriods, cpu?.nrThrottled, cpu?.throttledUsec], [9n, 6n, 3n, 5n, 2n, 4n]);
  assert.deepEqual([memory?.usage, memory?.usageLimit, memory?.maxUsage, memory?.swapUsage, memory?.anon, memory?.inactiveFile, memory?.pgmajfault], [100n, 200n, 150n, 1n, 60n, 30n, 7n]);
  assert.deepEqual([memoryEvents?.oomKill, pids?.current, pids?.limit], [3n, 4n, 10n]);
  assert.deepEqual(io?.usage.map(({ major, rbytes, wbytes, rios, wios }) => [major, rbytes, wbytes, rios, wios]), [[8n, 11n, 12n, 1n, 0n], [9n, 21n, 0n, 0n, 2n]]);
  assert.deepEqual(hugetlb.map(({ pagesize, current, max }) => [pagesize, current, max]), [["2MB", 5n, 6n]]);
  assert.deepEqual(network.map(({ name, rxBytes, txBytes, rxDropped }) => [name, rxBytes, txBytes, rxDropped]), [["eth0", 1n, 2n, 0n], ["eth1", 0n, 0n, 3n]]);
});

test("toTaskMetrics() of a guest that says nothing is all zeros", () => {
  const metrics = anyUnpack(toTaskMetrics(create(StatsContainerResponseSchema)), MetricsSchema);
  assert.deepEqual([metrics?.cpu?.usageUsec, metrics?.memory?.usage, metrics?.io?.usage, metrics?.network], [0n, 0n, [], []]);
});

test("2.6 Metrics (VMM): CPU time and memory of a process are read whatever its name is", () => {
  assert.equal(parseCpuTicks("12 (a) b (c)) S 1 12 12 0 -1 4194560 1 2 3 4 70 30 5 6 20 0 1 0 1"), 100);
  assert.deepEqual([parseKib("Rss:  9 kB\nPss:      123 kB\nPss_Dirty: 7 kB\n", "Pss"), parseKib("", "Pss")], [123, undefined]);
});
