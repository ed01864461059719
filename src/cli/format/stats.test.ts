import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { MetricsSchema } from "../../shared/protocol/gen/containerd/metrics_pb.ts";
import { HostProcessSchema } from "../../shared/protocol/gen/owner_pb.ts";
import { cpuPercent, formatBinary, hostLine, statsLine } from "./stats.ts";

const mebibyte = 1024n * 1024n;

test("statsLine() shows what docker shows", () => {
  const metrics = create(MetricsSchema, {
    memory: { usage: 30n * mebibyte, inactiveFile: 10n * mebibyte, usageLimit: 2n ** 64n - 1n }, pids: { current: 3n },
    io: { usage: [{ rbytes: 1_500n, wbytes: 0n }, { rbytes: 500n, wbytes: 7_000_000n }] }, network: [{ rxBytes: 100n, txBytes: 2_000n }],
  });
  assert.deepEqual(statsLine({ id: "abc", name: "web" }, metrics, 12.345, 200n * mebibyte), {
    Container: "abc", ID: "abc", Name: "web", CPUPerc: "12.35%", MemUsage: "20MiB / 200MiB", MemPerc: "10.00%", NetIO: "100B / 2kB", BlockIO: "2kB / 7MB", PIDs: "3",
  });
  assert.equal(statsLine({ id: "a", name: "b" }, create(MetricsSchema, { memory: { usage: mebibyte, usageLimit: 4n * mebibyte } }), 0, 200n * mebibyte).MemPerc, "25.00%");
});

test("cpuPercent() is of one CPU, and 0 before there are two looks", () => {
  assert.equal(cpuPercent({ cpuNanos: 0n, atNanos: 0n }, { cpuNanos: 2_000n, atNanos: 1_000n }), 200);
  assert.equal(cpuPercent(undefined, { cpuNanos: 5n, atNanos: 5n }), 0);
  // A container that was made again counts from 0.
  assert.equal(cpuPercent({ cpuNanos: 100n, atNanos: 0n }, { cpuNanos: 5n, atNanos: 10n }), 0);
});

test("hostLine() sums the sandbox's processes and names each", () => {
  const processes = [{ name: "qemu", pid: 7, memoryBytes: 200n * mebibyte, privateBytes: 150n * mebibyte }, { name: "owner", pid: 8, memoryBytes: 50n * mebibyte, privateBytes: 20n * mebibyte }].map((process) => create(HostProcessSchema, process));
  assert.deepEqual(hostLine("s1", processes, ({ pid }) => pid), {
    Sandbox: "s1", CPUPerc: "15.00%", MemUsage: "250MiB", PrivateMem: "170MiB", SharedMem: "80MiB",
    Processes: [
      { Name: "qemu", PID: 7, CPUPerc: "7.00%", MemUsage: "200MiB", PrivateMem: "150MiB", SharedMem: "50MiB" },
      { Name: "owner", PID: 8, CPUPerc: "8.00%", MemUsage: "50MiB", PrivateMem: "20MiB", SharedMem: "30MiB" },
    ],
  });
  assert.equal(formatBinary(1536n), "1.5KiB");
});
