// What keeps a program that uses the library from waiting, and a sandbox from staying:
// - statistics, a volume, a published port of one sandbox
// - every call ends by its time limit or signal, also when nobody answers; what it was doing ends too
// - streams, calls and time limits across the death of the owner
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { after, before, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { ownerToken } from "../../src/host/control/start-owner.ts";
import { ContainerStore } from "../../src/host/store/container-store.ts";
import { findTaggedProcesses } from "../../src/host/store/tagged-process.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { signalProcess } from "../../src/shared/linux/proc.ts";
import { RuntimeError, Sandbox } from "../../src/index.ts";
import { useCasemate } from "../support/cli.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
const mebibyte = 1024 * 1024;
const shared = mkdtempSync("/tmp/cm-shared-");
let sandbox: Sandbox;
after(async () => {
  await sandbox.close(); // before the folders go
  rmSync(shared, { recursive: true });
});
const casemate = useCasemate();
const root = casemate.folders.data;

before(async () => {
  writeFileSync(join(shared, "page"), "from the host\n");
  sandbox = await Sandbox.create({ root, image: "busybox", memoryMiB: 256, ports: [80], volumes: [`${shared}:/host:ro`, "kept:/kept"], command: ["httpd", "-f", "-p", "80", "-h", "/host"] });
});

const code = (wanted: string, reason?: string) => (error: unknown): boolean => RuntimeError.is(error) && error.code === wanted && (reason === undefined || error.reason === reason);

/** A signal to the owner of a sandbox, not to its supervisor. */
function signalOwner({ id }: Sandbox, signal: NodeJS.Signals): void {
  const owners = findTaggedProcesses(ownerToken(new ContainerStore(casemate.folders).find(id).sandboxId)).filter(({ pid }) => !readFileSync(`/proc/${pid}/cmdline`, "latin1").includes("owner-supervisor"));
  for (const owner of owners) assert.ok(signalProcess(owner, signal));
  assert.equal(owners.length, 1);
}

test("stats() tells what a sandbox uses and what it costs the host", { skip }, async () => {
  const before = await sandbox.stats();
  assert.equal(await (await fetch(`${sandbox.url(80)}/page`)).text(), "from the host\n");
  await sandbox.run(`i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/data bs=1M count=4 conv=fsync 2>/dev/null`);
  const sleeper = sandbox.spawn(["sleep", "1000"]);
  await sleeper.started;
  const { time, monotonicMs, cpu, memory, pids, network, blkio, host } = await sandbox.stats({ timeoutMs: 30_000 });
  await sleeper.killTree();
  assert.ok(cpu.usageMs > before.cpu.usageMs && cpu.userMs > before.cpu.userMs && cpu.usageMs - before.cpu.usageMs <= 2 * (monotonicMs - before.monotonicMs), JSON.stringify([before.cpu, cpu]));
  assert.equal(cpu.vcpuCount, 1);
  assert.equal(memory.limitBytes, 256 * mebibyte);
  assert.ok(memory.usedBytes > 0 && memory.usedBytes < memory.limitBytes && memory.peakBytes >= 4 * mebibyte, JSON.stringify(memory)); // what was written is in its file cache
  assert.deepEqual([memory.oomKills, pids.current >= 2], [0, true]);
  const [before0] = before.network, [eth0] = network;
  assert.ok(before0 !== undefined && eth0 !== undefined && eth0.name === before0.name && eth0.sentBytes > before0.sentBytes && eth0.receivedPackets > before0.receivedPackets, JSON.stringify(network));
  assert.ok(blkio.writtenBytes - before.blkio.writtenBytes >= 4 * mebibyte && blkio.writeCount > before.blkio.writeCount, JSON.stringify(blkio));
  assert.deepEqual([...new Set(host.processes.map(({ name }) => name))].sort(), ["owner", "passt", "qemu", "supervisor", "virtiofsd"]);
  assert.ok(host.memoryBytes > 64 * mebibyte && host.cpuMs > before.host.cpuMs && time > before.time);
});

test("volumes: a folder of the host, which stays as it is, and a named one", { skip }, async () => {
  assert.equal(await sandbox.files.read("/host/page"), "from the host\n");
  await assert.rejects(sandbox.files.write("/host/page", "changed"), RuntimeError);
  assert.equal(readFileSync(join(shared, "page"), "utf8"), "from the host\n");
  await sandbox.files.write("/kept/note", "stays");
  assert.equal((await sandbox.run("cat /kept/note")).stdout, "stays");
  await assert.rejects(sandbox.snapshot("no"), (error) => code("failed_precondition", "shares_in_use")(error) && /container "\w{12}" \(\/host, \/kept\)/.test((error as Error).message));
});

test("every call gives up in time when the owner does not answer", { skip }, async () => {
  signalOwner(sandbox, "SIGSTOP");
  try {
    const calls: Readonly<Record<string, (options: { timeoutMs?: number; signal?: AbortSignal }) => Promise<unknown>>> = {
      run: (options) => sandbox.run(["true"], options),
      stats: (options) => sandbox.stats(options),
      read: (options) => sandbox.files.read("/etc/hosts", options),
      write: (options) => sandbox.files.write("/late", "late", options),
      list: (options) => sandbox.files.list("/", options),
      upload: (options) => sandbox.files.upload(shared, "/late", options),
      readStream: (options) => sandbox.files.readStream("/etc/hosts", options).toArray(),
      pause: (options) => sandbox.pause(options),
      setTimeouts: (options) => sandbox.setTimeouts({}, options),
      load: (options) => Sandbox.load(sandbox.id, { root, lease: true, ...options }),
    };
    for (const [name, call] of Object.entries(calls)) {
      await assert.rejects(call({ timeoutMs: 300 }), code("deadline_exceeded"), name);
      await assert.rejects(call({ signal: AbortSignal.timeout(100) }), code("canceled"), name);
      await assert.rejects(call({ signal: AbortSignal.abort() }), code("canceled"), name);
    }
  } finally {
    signalOwner(sandbox, "SIGCONT");
  }
  // What arrived late has frozen it, and nobody who gave up has taken it along.
  await eventually("the pause that was given up", () => (sandbox.info().status === "paused" ? true : undefined), { timeoutMs: 20_000 });
  await sandbox.resume();
  assert.equal((await sandbox.run("echo on")).stdout, "on\n");
});

test("work on files that is given up ends, and so does what it reads from", { skip }, async () => {
  const endless = Readable.from((async function* pieces() { for (;;) { yield Buffer.alloc(1000); await delay(10); } })());
  await assert.rejects(sandbox.files.write("/endless", endless, { timeoutMs: 1_000 }), code("deadline_exceeded"));
  await eventually("the end of the input", () => (endless.destroyed ? true : undefined), { timeoutMs: 5_000 });
  const silent = new Readable({ read: () => undefined });
  const stop = new AbortController();
  const writing = sandbox.files.write("/silent", silent, { signal: stop.signal });
  setTimeout(() => stop.abort(), 300);
  await assert.rejects(writing, code("canceled"));
  await sandbox.files.remove("/endless"); // no handle is in the way, and the sandbox answers
});

test("wait() may be given up without the process", { skip }, async () => {
  const cat = sandbox.spawn(["cat"], { stdin: "pipe" });
  await assert.rejects(cat.wait({ timeoutMs: 200 }), code("deadline_exceeded"));
  cat.stdin.end("still here");
  assert.equal(await cat.stdout.text(), "still here");
  assert.equal((await cat.wait({ timeoutMs: 20_000 })).exitCode, 0);
});

test("processes and calls go on when the owner dies; a stream that was half written says so", { skip }, async () => {
  const cat = sandbox.spawn(["cat"], { stdin: "pipe" });
  const lines = cat.stdout.lines();
  cat.stdin.write("before\n");
  assert.equal((await lines.next()).value, "before");
  const half = Promise.withResolvers<void>(), rest = Promise.withResolvers<void>();
  const content = (async function* pieces() {
    yield Buffer.alloc(2 * mebibyte);
    half.resolve();
    await rest.promise;
    yield Buffer.alloc(2 * mebibyte);
  })();
  const writing = assert.rejects(sandbox.files.write("/half", content), code("aborted", "stream_interrupted"));
  await half.promise;
  signalOwner(sandbox, "SIGKILL");
  rest.resolve();
  await writing;
  await sandbox.files.write("/whole", "again", { timeoutMs: 30_000 });
  assert.equal(await sandbox.files.read("/whole"), "again");
  cat.stdin.end("after\n");
  assert.equal((await lines.next()).value, "after");
  assert.equal((await cat.wait()).exitCode, 0);
  assert.ok((await sandbox.stats()).host.processes.some(({ name }) => name === "owner"));
});

test("time limits are kept by the next owner too", { skip }, async () => {
  const brief = await Sandbox.create({ root, image: "busybox", network: "none", detached: true, timeoutMs: 60_000, idleTimeoutMs: 60_000 });
  await brief.setTimeouts({ timeoutMs: 12_000 });
  await brief.close(); // nobody is connected any more
  signalOwner(brief, "SIGKILL");
  // Idle: whoever runs holds it off, also over the death of an owner.
  await sandbox.setTimeouts({ idleTimeoutMs: 3_000 });
  const busy = sandbox.run("sleep 6; echo done");
  await delay(500);
  signalOwner(sandbox, "SIGKILL");
  assert.equal((await busy).stdout, "done\n");
  for (const { id } of [sandbox, brief]) await eventually("the end of a sandbox", () => (existsSync(join(root, "containers", id)) ? undefined : true), { timeoutMs: 30_000, intervalMs: 100 });
  await assert.rejects(sandbox.run(["true"]), code("unavailable", "sandbox_gone"));
});
