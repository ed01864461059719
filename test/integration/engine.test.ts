// The engine with real guests, in this process: what the doubles of the unit tests stand for.
// - a stop holds nobody: a guest that stands still, a QEMU that is stopped
// - memory and vCPUs follow the containers' limits; a paused sandbox costs no CPU and wakes with the right time
// - what runs out of memory is told by name, and the agent lives
// - a container for execs is ahead of its start and of its first exec
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, afterEach, before, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { ensureGuestImage } from "../../src/host/guest-image/guest-image.ts";
import { stateFolders } from "../../src/host/store/paths.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { RuntimeError } from "../../src/shared/base/errors.ts";
import { keepEvidence } from "../support/evidence.ts";
import { watchHost, type HostWatch } from "../support/host-clean.ts";
import { requires } from "../support/requires.ts";
import { callTimeoutMs, SandboxHost, type HostedSandbox } from "../support/sandbox-host.ts";

const skip = requires("root");
const mebibyte = 1024 ** 2;
const within = { timeoutMs: callTimeoutMs };
let watch: HostWatch;
let host: SandboxHost;
let main: HostedSandbox;

before(async () => {
  if (skip !== false) return;
  await ensureGuestImage(stateFolders(undefined)); // it stays, so it is no part of what the host is compared with
  watch = watchHost();
  host = await SandboxHost.open();
  main = await host.create("engine-a", { maxMemoryBytes: 2048 * mebibyte });
});

afterEach((context) => {
  if ("passed" in context && context.passed === false) keepEvidence(host.folders, context.name);
});

after(async () => {
  if (skip !== false) return;
  await host[Symbol.asyncDispose]();
  await watch.assertHostClean();
});

test("2.1 Stop, D6: a stopped QEMU and a guest that stands still hold nobody", { skip }, async () => {
  for (const how of ["SIGSTOP", "vCPUs"] as const) {
    const hosted = await host.create(`engine-stop-${how.toLowerCase()}`);
    await host.start(hosted, "c1");
    if (how === "SIGSTOP") process.kill(hosted.sandbox.vm.identity.pid, "SIGSTOP");
    else await hosted.sandbox.vm.pause(within);
    const began = performance.now();
    const stopped = await hosted.sandbox.stopContainer("c1", { timeoutMs: 1_000 });
    assert.deepEqual([stopped.state, stopped.init.end?.exitStatus, stopped.init.end?.reason], ["stopped", 137, "forced"]);
    await hosted.sandbox.stop(2_000);
    const tookMs = performance.now() - began;
    assert.ok(tookMs < 10_000, `${how}: ${tookMs} ms`);
    assert.deepEqual([hosted.sandbox.state, hosted.ledger.records], ["stopped", []]);
  }
});

const memTotal = async (): Promise<number> => Number((await host.run(main, "", "grep MemTotal /proc/meminfo | tr -dc 0-9")).output) * 1024;

test("2.2 Plug memory, 2.2 Plug vCPU, 2.2 virtio-mem, 2.2 After memory change: a container's limits are plugged, grow with update, and go back with it", { skip }, async () => {
  const atFirst = await memTotal();
  await host.start(main, "c1", { memory: { limit: 512 * mebibyte }, cpu: { quota: 150_000, period: 100_000 } });
  assert.ok(await memTotal() > 600 * mebibyte);
  assert.equal((await host.run(main, "", "nproc")).output, "2");
  assert.equal((await host.run(main, "c1", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max")).output, `${512 * mebibyte}\n150000 100000`);
  await main.sandbox.update("c1", { memory: { limit: 1536 * mebibyte }, cpu: { quota: 50_000, period: 100_000, cpus: "0" }, pids: { limit: 77 } }, within);
  assert.ok(await memTotal() > 1500 * mebibyte);
  assert.equal((await host.run(main, "c1", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpuset.cpus")).output, `${1536 * mebibyte}\n50000 100000\n77\n0`);
  // tmpfs file systems follow.
  assert.ok(Number((await host.run(main, "", "df -m /tmp | tail -1 | awk '{print $2}'")).output) > 700);
  const before = main.sandbox.size;
  await assert.rejects(main.sandbox.update("c1", { memory: { limit: 1024 * 1024 * mebibyte } }, within), (error) => RuntimeError.is(error, "resource_exhausted") && error.reason === "memory_too_large");
  await assert.rejects(main.sandbox.update("c1", { cpu: { quota: 100_000_000, period: 100_000 } }, within), (error) => RuntimeError.is(error, "resource_exhausted") && error.reason === "too_many_cpus");
  assert.deepEqual([main.sandbox.size, main.sandbox.container("c1").resources.memory?.limit], [before, 1536 * mebibyte]);
  await host.remove(main, "c1");
  await eventually("memory to go back", async () => (await memTotal() < atFirst + 32 * mebibyte ? true : undefined), { timeoutMs: 30_000, intervalMs: 500 });
  // What containers may use together follows what the guest has given back.
  await eventually("the limit of all containers to follow", async () => (Number((await host.run(main, "", "cat /sys/fs/cgroup/containers/memory.max")).output) < await memTotal() ? true : undefined), { timeoutMs: 30_000, intervalMs: 500 });
});

test("1.3 enter: an exec joins a container before its start", { skip }, async () => {
  await main.sandbox.createContainer(await host.request("c1"), within);
  assert.deepEqual(await host.run(main, "c1", "echo here"), { exitStatus: 0, output: "here", oomKilled: false });
  await host.remove(main, "c1");
});

test("a container for execs runs before it is started, and its first exec has a crun that waited: with exit code, output and kill as any; unused it goes with the container", { skip }, async () => {
  const cruns = async (): Promise<string> => (await host.run(main, "", "ps -o comm,args | grep '^crun.*[e]xec' | wc -l")).output;
  const ids = ["ahead", "unused"];
  for (const containerId of ids) await main.sandbox.createContainer({ ...await host.request(containerId), forExecs: true }, within);
  assert.equal(await cruns(), "2");
  assert.equal((await host.run(main, "ahead", "ps -o args | grep -c '^[s]leep 100000'")).output, "1");
  for (const containerId of ids) await main.sandbox.startContainer(containerId, within);
  await assert.rejects(main.sandbox.startContainer("ahead", within), (error) => RuntimeError.is(error, "failed_precondition"));
  const alone = (execId: string) => ({ ...within, execId, ownCgroup: true });
  assert.deepEqual(await host.run(main, "ahead", "cat /proc/self/cgroup; sleep 1000 >/dev/null 2>&1 & exit 7", alone("first")), { exitStatus: 7, output: "0::/spare", oomKilled: false });
  assert.equal(await cruns(), "1");
  const left = async (): Promise<string> => (await host.run(main, "ahead", "ps -o args | grep -c '^[s]leep 1000$'")).output;
  assert.equal(await left(), "1");
  await main.sandbox.agent.guest.killTree({ containerId: "ahead", execId: "first" }, within);
  await eventually("what the exec left to end", async () => (await left() === "0" ? true : undefined), { timeoutMs: callTimeoutMs, intervalMs: 100 });
  assert.deepEqual(await host.run(main, "ahead", "cat /proc/self/cgroup", alone("second")), { exitStatus: 0, output: "0::/exec-second", oomKilled: false });
  for (const containerId of ids) await host.remove(main, containerId);
  assert.equal(await cruns(), "0");
  assert.equal((await host.run(main, "", "ls /run/casemate/bundles /sys/fs/cgroup/containers | grep -E 'ahead|unused' | wc -l")).output, "0");
});

test("a container that eats memory is ended by name, the agent lives; a sandbox without room tells so too", { skip }, async () => {
  const eat = "tail /dev/zero";
  await host.start(main, "c1", { memory: { limit: 64 * mebibyte } }, ["sh", "-c", eat]);
  const end = await main.sandbox.container("c1").init.wait(within);
  assert.deepEqual([end.exitStatus, end.oomKilled], [137, true]);
  await eventually("the event", () => (main.events.some(({ action, containerId }) => action === "oom" && containerId === "c1") ? true : undefined), { timeoutMs: 10_000 });
  assert.ok(!main.events.some(({ action, containerId }) => action === "oom" && containerId === ""), "its own limit is not the guest's");
  await host.remove(main, "c1");
  // One that has lost its limit may have more than there is.
  await host.start(main, "c2", { memory: { limit: 1200 * mebibyte } });
  await main.sandbox.update("c2", { memory: { limit: -1 } }, within);
  await host.run(main, "c2", eat);
  await eventually("the guest's event", () => (main.events.some(({ action, containerId }) => action === "oom" && containerId === "") ? true : undefined), { timeoutMs: 10_000 });
  assert.equal((await host.run(main, "", "echo alive")).output, "alive");
  if (main.sandbox.container("c2").state === "running") assert.equal((await host.run(main, "c2", "echo alive")).output, "alive");
  await host.remove(main, "c2");
});

/** CPU time of QEMU so far, in clock ticks of 10 ms. */
function cpuTicks(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return Number(fields[11]) + Number(fields[12]);
}

test("a paused container stands still; a paused sandbox costs no CPU, and its clock is right when it goes on", { skip }, async () => {
  await host.start(main, "c1", {}, ["sh", "-c", "while :; do :; done"]);
  await main.sandbox.pause("c1", within);
  assert.equal((await main.sandbox.stats("c1", within)).cgroupStats?.pidsStats?.current, 1n);
  await main.sandbox.resume("c1", within);
  await main.sandbox.pauseSandbox(within);
  const ticks = cpuTicks(main.sandbox.vm.identity.pid);
  await delay(3_000);
  assert.ok(cpuTicks(main.sandbox.vm.identity.pid) - ticks <= 3, `${cpuTicks(main.sandbox.vm.identity.pid) - ticks} ticks`);
  await main.sandbox.resumeSandbox(within);
  const before = Date.now();
  const guest = Number((await host.run(main, "", "date +%s")).output) * 1000;
  assert.ok(guest >= before - 1_500 && guest <= Date.now() + 1_500, `${guest - before} ms off`);
  const { cgroupStats } = await main.sandbox.stats("c1", within);
  const cpu = cgroupStats?.cpuStats?.cpuUsage;
  // A loop of the shell is user time (D12).
  assert.ok(cpu !== undefined && cpu.usageInUsermode > cpu.usageInKernelmode && cpu.totalUsage >= cpu.usageInUsermode);
  await host.remove(main, "c1");
});
