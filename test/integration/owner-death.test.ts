// The death of an owner at an exact instant, without a VM: real owner processes, doubles on the sockets of the VM.
// - killed before each of its writes to the store, a life of a container goes on to the same end
// - no transition costs more than two fsyncs
// - a VM that dies, with an owner or without one, gives every waiter an answer within a second
import { create } from "@bufbuild/protobuf";
import { AnySchema, anyPack } from "@bufbuild/protobuf/wkt";
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Writable } from "node:stream";
import { after, before, test } from "node:test";
import { AttachClient } from "../../src/host/control/attach-client.ts";
import { connectOwner, type OwnerClient } from "../../src/host/control/owner-client.ts";
import { doneBefore } from "../../src/host/control/repeated-calls.ts";
import { ownerToken } from "../../src/host/control/start-owner.ts";
import { ContainerStore, type ContainerRecord } from "../../src/host/store/container-store.ts";
import { containerPaths } from "../../src/host/store/paths.ts";
import { readContainerLog } from "../../src/host/store/container-log.ts";
import { taggedEnvironment } from "../../src/host/store/tagged-process.ts";
import { eventually, orAbandon } from "../../src/shared/base/deadline.ts";
import { CreateOptionsSchema, ExecSpecSchema } from "../../src/shared/protocol/gen/owner_pb.ts";
import { startProcess, terminateProcess, type ManagedProcess } from "../../src/shared/linux/run-process.ts";
import { LeftSandbox, sandboxId } from "../support/left-sandbox.ts";
import { watchHost, type HostWatch } from "../support/host-clean.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
const within = { timeoutMs: 60_000 };
const life = "life";
let watch: HostWatch;

before(() => { watch = watchHost(); });
after(() => watch.assertHostClean());

/** What a life comes to; the same whatever happens to its owners. */
const expected = { initOutput: "one two three", execOutput: "exec output", execCode: 5, initCode: 7, status: ["exited", 7] as const, plugged: [] as string[], records: ["sandbox", "vmm"] };

/** Starts an owner under strace, which counts its system calls or kills it at one of them. */
async function traceOwner(left: LeftSandbox, straceArgs: readonly string[]): Promise<ManagedProcess> {
  const traced = await startProcess("strace", ["-f", "-qq", ...straceArgs, ...left.ownerCommand], { stdio: ["ignore", "ignore", "ignore"], cwd: "/", env: taggedEnvironment(ownerToken(sandboxId)) });
  await eventually("the owner", () => connectOwner(left.folders, sandboxId, { revive: false }).then((client) => {
    client.close();
    return true;
  }, () => undefined), within);
  return traced;
}

class Collected extends Writable {
  text = "";

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

/** create, start, output, exec, pause, resume, update, exits, delete. `mark` is told when a transition is over. */
async function live(left: LeftSandbox, client: OwnerClient, mark: (transition: string) => void = () => undefined): Promise<typeof expected> {
  const { agent, folders } = left;
  const { task } = { task: async (work: (client: OwnerClient) => Promise<unknown>, settled?: Parameters<typeof client.call<undefined>>[1]) => client.call(async (present) => { await work(present); return undefined; }, settled) };
  const store = addContainer(left);
  await task(({ task: { create: make } }) => make(createRequest(left)), doneBefore.create);
  mark("create");
  const initOutput = new Collected(), execOutput = new Collected();
  const init = await AttachClient.open(client, { containerId: life, execId: "" }, { stdin: undefined, stdout: initOutput, stderr: new Collected() });
  const initEnd = init.run();
  await task(({ task: { start } }) => start({ id: life }), doneBefore.start);
  mark("start");
  await agent.print(life, "", "one ");
  const process = { user: { uid: 0, gid: 0 }, args: ["true"], cwd: "/" };
  const spec = anyPack(ExecSpecSchema, create(ExecSpecSchema, { processJson: Buffer.from(JSON.stringify(process)), holdOutput: true, autoRemove: true }));
  await task(({ task: { exec } }) => exec({ id: life, execId: "e1", spec }), doneBefore.create);
  mark("register an exec");
  const exec = await AttachClient.open(client, { containerId: life, execId: "e1" }, { stdin: undefined, stdout: execOutput, stderr: new Collected() });
  const execEnd = exec.run();
  await task(({ task: { start } }) => start({ id: life, execId: "e1" }), doneBefore.start);
  mark("start an exec");
  await agent.print(life, "e1", "exec output");
  await task(({ task: { pause } }) => pause({ id: life }), doneBefore.pause);
  mark("pause");
  await task(({ task: { resume } }) => resume({ id: life }), doneBefore.resume);
  mark("resume");
  await agent.print(life, "", "two ");
  await task(({ task: { update } }) => update({ id: life, resources: create(AnySchema, { typeUrl: "json", value: Buffer.from("{\"pids\":{\"limit\":50}}") }) }));
  mark("update");
  agent.exit(life, "e1", expected.execCode);
  const execExit = await execEnd;
  mark("end of an exec");
  await agent.print(life, "", "three");
  agent.exit(life, "", expected.initCode);
  const waited = await client.call(async (present) => (await present.task.wait({ id: life })).exitStatus);
  const initExit = await initEnd;
  mark("end of a container");
  const log = [...readContainerLog(containerPaths(folders, life).log)].filter(({ fd }) => fd === 1).map(({ bytes }) => Buffer.from(bytes).toString()).join("");
  assert.equal(log, expected.initOutput, "the log");
  assert.equal(waited, expected.initCode, "the wait");
  await task(({ task: { delete: remove } }) => remove({ id: life }), doneBefore.delete);
  mark("delete");
  const { status, exitCode } = store.readStatus(life);
  return {
    initOutput: initOutput.text, execOutput: execOutput.text, execCode: execExit.type === "exit" ? execExit.exitStatus : -1, initCode: initExit.type === "exit" ? initExit.exitStatus : -1, status: [status, exitCode] as never,
    plugged: left.qmp.vmm.held,
    records: (JSON.parse(readFileSync(left.paths.ledger, "utf8")) as { records: { kind: string }[] }).records.map(({ kind }) => kind).filter((kind) => kind !== "exec"),
  };
}

function addContainer(left: LeftSandbox): ContainerStore {
  const store = new ContainerStore(left.folders);
  const record = JSON.parse(readFileSync(join(import.meta.dirname, "../fixtures/state-v1/container.json"), "utf8")) as ContainerRecord; // a whole one
  store.create({ ...record, containerId: life, sandboxId, name: life }, { process: { args: ["true"], cwd: "/" }, root: { path: "rootfs" } });
  for (const name of ["image", "disk"]) writeFileSync(join(left.root, name), "x");
  return store;
}

function createRequest(left: LeftSandbox): Parameters<OwnerClient["task"]["create"]>[0] {
  const { folder } = containerPaths(left.folders, life);
  return {
    id: life,
    bundle: folder,
    rootfs: [{ type: "erofs", source: join(left.root, "image"), options: ["ro"] }, { type: "ext4", source: join(left.root, "disk"), options: ["rw"] }],
    options: anyPack(CreateOptionsSchema, create(CreateOptionsSchema, { containerFolder: folder })),
  };
}

/** Numbers in the lines that strace has written so far. */
function countCalls(path: string, name: string): number {
  return readFileSync(path, "latin1").split("\n").filter((line) => line.includes(`${name}(`)).length;
}

let writes = 0;

test("no transition costs more than two fsyncs", { skip }, async () => {
  await using left = await LeftSandbox.make("empty");
  mkdirSync(join(left.root, "trace"));
  const trace = join(left.root, "trace/strace");
  const owner = await traceOwner(left, ["-o", trace, "-e", "trace=fsync,fdatasync,rename"]);
  const client = await connectOwner(left.folders, sandboxId, { revive: false });
  const costs: [transition: string, fsyncs: number][] = [];
  let before = countCalls(trace, "fsync");
  assert.deepEqual(await live(left, client, (transition) => {
    const now = countCalls(trace, "fsync");
    costs.push([transition, now - before]);
    before = now;
  }), expected);
  console.log(`fsyncs: ${costs.map(([transition, fsyncs]) => `${transition} ${fsyncs}`).join(", ")}`);
  assert.deepEqual(costs.filter(([, fsyncs]) => fsyncs > 2), []);
  writes = countCalls(trace, "rename");
  client.close();
  await terminateProcess(owner.identity, 0);
});

test("an owner that is killed before any of its writes loses and doubles nothing", { skip }, async () => {
  assert.ok(writes > 10, `${writes} writes`);
  for (let write = 1; write <= writes; write++) {
    await using left = await LeftSandbox.make("empty");
    const owner = await traceOwner(left, ["-o", "/dev/null", "-e", "trace=rename", "-e", `inject=rename:signal=SIGKILL:when=${write}`]);
    const client = await connectOwner(left.folders, sandboxId);
    assert.deepEqual(await orAbandon(live(left, client), `the life whose owner dies at write ${write}`, within), expected, `killed at write ${write}`);
    client.close();
    await terminateProcess(owner.identity, 0);
  }
  console.log(`${writes} owners killed, one before each write`);
});

for (const withOwner of [true, false]) {
  test(`a VM that dies ${withOwner ? "under its owner" : "while there is none"} gives every waiter an answer in a second`, { skip }, async () => {
    await using left = await LeftSandbox.make("empty");
    const client = await connectOwner(left.folders, sandboxId);
    addContainer(left);
    await client.task.create(createRequest(left));
    await client.task.start({ id: life });
    const waits = Array.from({ length: 10 }, () => client.task.wait({ id: life }));
    const attach = await AttachClient.open(client, { containerId: life, execId: "" }, { stdin: undefined, stdout: new Collected(), stderr: new Collected() });
    const attached = attach.run();
    attached.catch(() => { /* awaited below, or the owner is gone */ });
    for (const wait of waits) wait.catch(() => { /* awaited below, or the owner is gone */ });
    const store = new ContainerStore(left.folders);
    if (withOwner) {
      const began = performance.now();
      left.vmm.child.kill("SIGKILL");
      const ends = await orAbandon(Promise.all(waits), "the waits", within);
      assert.ok(performance.now() - began < 1_000, `took ${performance.now() - began} ms`);
      assert.deepEqual(new Set(ends.map(({ exitStatus }) => exitStatus)), new Set([137]));
      const end = await attached;
      assert.deepEqual(end.type === "exit" ? [end.exitStatus, end.reason] : end, [137, "vmm_died"]);
      assert.deepEqual([store.readStatus(life).exitCode, store.readStatus(life).error], [137, "vmm_died"]);
    } else {
      left.killOwners();
      left.vmm.child.kill("SIGKILL");
      await left.vmm.exited;
      // The next owner finds no VM, gives back what there is, and says so on disk.
      await assert.rejects(client.call(async ({ task }) => { await task.wait({ id: life }); }), { reason: "no_owner" });
      assert.deepEqual([store.readStatus(life).status, store.readStatus(life).exitCode], ["exited", 137]);
    }
    client.close();
  });
}
