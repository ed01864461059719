import assert from "node:assert/strict";
import { test } from "node:test";
import { RuntimeError } from "../../shared/base/errors.ts";
import { leftForContainers, memoryFor } from "../../shared/base/guest-memory.ts";
import type { OciResources } from "../../shared/oci/runtime-spec.ts";
import { mergeResources, inverseOf } from "./container-resources.ts";
import { defaultMemoryBytes, memoryStepBytes } from "./sandbox-config.ts";
import { parseCpuset, requireWithin, targetSize } from "./sandbox-size.ts";

const mebibyte = 1024 ** 2;
const base = { memoryBytes: 256 * mebibyte, vcpuCount: 1 };
const cpu = (quota: number | undefined, period: number | undefined, cpus?: string): OciResources => ({ cpu: { ...(quota !== undefined && { quota }), ...(period !== undefined && { period }), ...(cpus !== undefined && { cpus }) } });
const memory = (limit: number): OciResources => ({ memory: { limit } });
const upToStep = (bytes: number): number => Math.ceil(bytes / memoryStepBytes) * memoryStepBytes;

const vcpuCases: readonly [containers: readonly OciResources[], vcpuCount: number][] = [
  [[], 1],
  [[cpu(4000, 1000)], 4],
  [[cpu(1500, 1000), cpu(1000, 1000)], 3],
  [[cpu(1500, 1000), cpu(1500, 1000)], 3],
  [[cpu(-1, 1000)], 1],
  [[cpu(4000, 0)], 1],
  [[cpu(undefined, undefined, "0-1")], 2],
  [[cpu(undefined, undefined, "0-1"), cpu(undefined, undefined, "2")], 3],
  [[cpu(undefined, undefined, "0-1"), cpu(undefined, undefined, "1")], 2],
  // A cpuset counts only where no quota does.
  [[cpu(4000, 1000), cpu(undefined, undefined, "0-7")], 4],
];

test("2.2 vCPU target: quotas together, else cpusets together, never below what the sandbox was made with", () => {
  for (const [containers, vcpuCount] of vcpuCases) assert.equal(targetSize(base, containers).vcpuCount, vcpuCount, JSON.stringify(containers));
  assert.equal(targetSize({ ...base, vcpuCount: 3 }, [cpu(1000, 1000)]).vcpuCount, 3);
});

test("D10: a cpuset that cannot be read is an error, and no target of 0", () => {
  for (const cpus of ["a", "3-1", "0-", "-1", "0,,1", "0-99999", "1".repeat(5000)]) {
    assert.throws(() => targetSize(base, [cpu(undefined, undefined, cpus)]), (error) => RuntimeError.is(error, "invalid_argument") && error.reason === "bad_cpuset", cpus);
  }
  assert.deepEqual([...parseCpuset(" 0-2,5 ")], [0, 1, 2, 5]);
  assert.deepEqual([...parseCpuset("")], []);
});

test("2.2 Memory target: limits and huge pages together, a default for those without", () => {
  const target = (...containers: OciResources[]): number => targetSize(base, containers).memoryBytes;
  assert.equal(target(), base.memoryBytes);
  assert.equal(target(memory(500 * mebibyte)), upToStep(memoryFor(500 * mebibyte)));
  assert.equal(target(memory(500 * mebibyte), memory(700 * mebibyte)), upToStep(memoryFor(1200 * mebibyte)));
  assert.equal(target({}), upToStep(defaultMemoryBytes));
  assert.equal(target(memory(-1)), upToStep(defaultMemoryBytes));
  assert.equal(target(memory(500 * mebibyte), {}), upToStep(defaultMemoryBytes + 500 * mebibyte));
  assert.equal(target({ ...memory(500 * mebibyte), hugepageLimits: [{ pageSize: "2MB", limit: 64 * mebibyte }, { pageSize: "1GB", limit: -1 }] }), upToStep(memoryFor(564 * mebibyte)));
});

test("a VM made for a limit leaves as much to its containers, of whatever size", () => {
  // What a kernel of 1 GiB of boot memory counts: 896 MiB.
  for (const limit of [0, 64, 700, 1024, 65_536, 1_048_576]) assert.ok(Math.abs(leftForContainers(memoryFor(limit * mebibyte) - 128 * mebibyte) - limit * mebibyte) < 1, String(limit));
});

test("D11, 2.2 Swap: every container's share counts, whichever other names one of its own", () => {
  // The defect: a container with a size of its own replaced the total of those before it.
  const containers = [memory(100 * mebibyte), { memory: { limit: 200 * mebibyte, swap: 300 * mebibyte } }, memory(400 * mebibyte)];
  assert.equal(targetSize(base, containers).memoryBytes, upToStep(memoryFor(700 * mebibyte)));
});

test("2.2 bounds: what the VM cannot have is refused by name", () => {
  const limits = { memoryBytes: 1024 * mebibyte, vcpuCount: 2 };
  requireWithin({ memoryBytes: 1024 * mebibyte, vcpuCount: 2 }, limits);
  assert.throws(() => requireWithin({ memoryBytes: 1025 * mebibyte, vcpuCount: 2 }, limits), (error) => RuntimeError.is(error, "resource_exhausted") && error.reason === "memory_too_large" && error.message.includes("1025 MiB of memory: it can have 1024 MiB"));
  assert.throws(() => requireWithin({ memoryBytes: 0, vcpuCount: 3 }, limits), (error) => RuntimeError.is(error, "resource_exhausted") && error.reason === "too_many_cpus");
});

const before: OciResources = { cpu: { quota: 100_000, period: 100_000, cpus: "0" }, memory: { limit: 1000, swap: 2000 }, pids: { limit: 10 } };
const merges: readonly [change: OciResources, after: OciResources][] = [
  [{}, before],
  [{ cpu: { quota: 0, period: 0, cpus: "", shares: 512 } }, { ...before, cpu: { ...before.cpu, shares: 512 } }],
  [{ cpu: { quota: -1 } }, { ...before, cpu: { ...before.cpu, quota: -1 } }],
  [{ memory: { limit: 3000 } }, { ...before, memory: { limit: 3000, swap: 2000 } }],
  [{ pids: { limit: -1 } }, { ...before, pids: { limit: -1 } }],
  [{ blockIO: { weight: 300 } }, { ...before, blockIO: { weight: 300 } }],
  [{ hugepageLimits: [{ pageSize: "2MB", limit: 1 }] }, { ...before, hugepageLimits: [{ pageSize: "2MB", limit: 1 }] }],
];

test("D1: an update of one limit forgets none of the others", () => {
  for (const [change, after] of merges) assert.deepEqual(mergeResources(before, change), after, JSON.stringify(change));
  const twice = mergeResources(mergeResources(before, { hugepageLimits: [{ pageSize: "2MB", limit: 1 }, { pageSize: "1GB", limit: 2 }] }), { hugepageLimits: [{ pageSize: "2MB", limit: 3 }] });
  assert.deepEqual(twice.hugepageLimits, [{ pageSize: "1GB", limit: 2 }, { pageSize: "2MB", limit: 3 }]);
});

test("inverseOf() names what the change named, with the values before it", () => {
  assert.deepEqual(inverseOf(before, { cpu: { quota: 5, shares: 5 }, memory: { limit: 5, reservation: 5 }, pids: { limit: 5 }, blockIO: { weight: 5 } }), {
    cpu: { quota: 100_000, shares: 1024 }, memory: { limit: 1000, reservation: -1 }, pids: { limit: 10 }, blockIO: { weight: 100 },
  });
  assert.deepEqual(inverseOf({}, { memory: { limit: 5 }, pids: { limit: 5 } }), { memory: { limit: -1 }, pids: { limit: -1 } });
});
