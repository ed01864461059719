import assert from "node:assert/strict";
import { test } from "node:test";
import { orAbandon } from "../../shared/base/deadline.ts";
import { RuntimeError, describeError, type ErrorCode } from "../../shared/base/errors.ts";
import type { RunnableSpec } from "../../shared/oci/runtime-spec.ts";
import { SandboxFixture } from "../../../test/support/sandbox-fixture.ts";
import type { ContainerRequest } from "./container.ts";
import type { Sandbox } from "./sandbox.ts";

const failsWith = (code: ErrorCode, text: RegExp) => (error: unknown): boolean => RuntimeError.is(error, code) && text.test(describeError(error));
const within = { timeoutMs: 5_000 };

const spec: RunnableSpec = {
  ociVersion: "1.0.2",
  process: { user: { uid: 0, gid: 0 }, args: ["true"], cwd: "/" },
  root: { path: "rootfs" },
  mounts: [{ destination: "/w", type: "bind", source: "/", options: ["rbind"] }],
};

const request = (containerId: string): ContainerRequest => ({
  containerId, bundle: "/nowhere", spec, user: "", createCwd: false, guestEtcFiles: false, terminalSize: undefined,
  rootfs: [{ type: "erofs", source: `/images/${containerId}`, options: ["ro"] }, { type: "ext4", source: `/disks/${containerId}`, options: ["rw"] }],
  io: { terminal: false, stdin: true, log: undefined, holdOutput: false },
});

/** A container whose process runs. */
async function startContainer(sandbox: Sandbox, containerId: string): Promise<void> {
  await sandbox.createContainer(request(containerId), within);
  await sandbox.startContainer(containerId, within);
}

const exec = (execId: string) => ({
  containerId: "c1", execId, process: { user: { uid: 0, gid: 0 }, args: ["true"], cwd: "/" }, user: "", terminalSize: undefined, autoRemove: false,
  io: { terminal: false, stdin: false, log: undefined, holdOutput: false },
});

const sandboxSteps = [
  "claim user", "start virtiofsd", "start network", "boot VM", "connect to the agent", "greet the agent", "refresh the guest", "grow memory", "grow vCPUs",
  "bring vCPUs online", "plug NIC", "configure network", "plug share", "mount share",
];
const stepsWithVm = sandboxSteps.slice(sandboxSteps.indexOf("connect to the agent"));
const containerSteps = ["plug disks", "share host folders", "share root file system", "create container in the guest"];

test("create() takes its steps in order, and stop() gives everything back", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  assert.deepEqual(sandbox.timings.map(({ name }) => name), sandboxSteps);
  assert.deepEqual([...fixture.vm.plugged], ["net0", "share"]);
  assert.deepEqual(fixture.held, ["user", "shares", "network", "vm", "record user", "record shares", "record network", "record vm"]);
  await Promise.all([sandbox.stop(), sandbox.stop()]);
  assert.equal((await sandbox.ended).reason, "powered_off");
  assert.deepEqual(fixture.held, []);
  assert.deepEqual(fixture.agent.calls.filter((call) => call === "powerOff"), ["powerOff"]);
});

for (const step of sandboxSteps) {
  test(`create() that fails at "${step}" names it and leaves nothing`, async () => {
    using fixture = await SandboxFixture.open();
    fixture.hook = (_operation, name) => { if (name === step) throw new RuntimeError("resource_exhausted", "no more of it"); };
    await assert.rejects(fixture.create(), (error) => failsWith("resource_exhausted", new RegExp(`^create sandbox "s1": ${step}: no more of it$`))(error) && RuntimeError.is(error) && error.cleanupErrors.length === 0);
    assert.deepEqual(fixture.held, []);
  });
}

for (const step of stepsWithVm) {
  test(`create() whose VM dies at "${step}" ends at once with the guest's last words`, async () => {
    using fixture = await SandboxFixture.open();
    fixture.hook = (_operation, name) => { if (name === step) fixture.endVm("panicked", "the last words"); };
    const began = performance.now();
    await assert.rejects(fixture.create(), (error) => failsWith("unavailable", /the VM panicked; end of its console:\nthe last words/)(error) && RuntimeError.is(error) && error.reason === "vmm_died");
    assert.ok(performance.now() - began < 2_000);
    assert.deepEqual(fixture.held, []);
  });
}

for (const method of ["hello", "refresh", "onlineCPUMem", "updateInterface", "updateRoutes", "createSandbox", "addStorages"]) {
  test(`create() leaves nothing when the agent refuses ${method}`, async () => {
    using fixture = await SandboxFixture.open();
    fixture.agent.fail(method, new RuntimeError("failed_precondition", "the guest cannot"));
    await assert.rejects(fixture.create(), failsWith("failed_precondition", /^create sandbox "s1": .*the guest cannot/));
    assert.deepEqual(fixture.held, []);
  });

  test(`create() gives up in time when the agent does not answer ${method}`, async () => {
    using fixture = await SandboxFixture.open();
    fixture.agent.hang(method);
    const began = performance.now();
    await assert.rejects(fixture.create(300), (error) => RuntimeError.is(error, "deadline_exceeded"));
    assert.ok(performance.now() - began < 2_000);
    assert.deepEqual(fixture.held, []);
  });
}

test("create() gives up in time on an agent that never greets", async () => {
  using fixture = await SandboxFixture.open({ agentGreets: false });
  await assert.rejects(fixture.create(200), failsWith("deadline_exceeded", /^create sandbox "s1": connect to the agent: wait for the agent/));
  assert.deepEqual(fixture.held, []);
});

for (const step of containerSteps) {
  test(`createContainer() that fails at "${step}" leaves nothing, and works the next time`, async () => {
    using fixture = await SandboxFixture.open();
    let failing = true;
    fixture.hook = (_operation, name) => { if (failing && name === step) throw new RuntimeError("unavailable", "not now"); };
    const sandbox = await fixture.create();
    await assert.rejects(sandbox.createContainer(request("c1"), within), failsWith("unavailable", new RegExp(`^create container "c1": ${step}: not now$`)));
    assert.deepEqual([[...fixture.vm.plugged], fixture.agent.containers, [...sandbox.containers.keys()]], [["net0", "share"], [], []]);
    failing = false;
    await startContainer(sandbox, "c1");
    assert.equal(fixture.vm.plugged.size, 4);
    await sandbox.stop(0);
    assert.deepEqual(fixture.held, []);
  });
}

test("createContainer() that the guest refuses gives the disks back", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  fixture.agent.fail("createContainer", new RuntimeError("not_found", "no such user", { reason: "user_not_found" }));
  await assert.rejects(sandbox.createContainer(request("c1"), within), (error) => RuntimeError.is(error, "not_found") && error.reason === "user_not_found");
  assert.deepEqual([...fixture.vm.plugged], ["net0", "share"]);
  await sandbox.stop(0);
});

test("containers of one sandbox share an image's disk; it goes with the last one", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  const [image, first, second] = [{ type: "erofs", source: "/images/same", options: ["ro"] }, request("c1"), request("c2")];
  await sandbox.createContainer({ ...first, rootfs: [image, ...first.rootfs.slice(1)] }, within);
  await sandbox.createContainer({ ...second, rootfs: [image, ...second.rootfs.slice(1)] }, within);
  assert.equal(fixture.vm.plugged.size, 2 + 3);
  await sandbox.deleteContainer("c1", within);
  assert.equal(fixture.vm.plugged.size, 2 + 2);
  await sandbox.deleteContainer("c2", within);
  assert.deepEqual([[...fixture.vm.plugged], fixture.agent.containers], [["net0", "share"], []]);
  await sandbox.stop(0);
});

test("an id that exists, and operations in the wrong state, are refused by name", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  await sandbox.createContainer(request("c1"), within);
  await assert.rejects(sandbox.createContainer(request("c1"), within), failsWith("already_exists", /container "c1" exists already/));
  assert.throws(() => sandbox.registerExec(exec("e1")), failsWith("failed_precondition", /exec container "c1": it is created, must be running/));
  await assert.rejects(sandbox.pause("c1", within), failsWith("failed_precondition", /pause container "c1": it is created/));
  await sandbox.startContainer("c1", within);
  await assert.rejects(sandbox.startContainer("c1", within), failsWith("failed_precondition", /start container "c1": it is running, must be created/));
  await assert.rejects(sandbox.deleteContainer("c1", within), failsWith("failed_precondition", /delete container "c1": it is running/));
  await assert.rejects(sandbox.kill("c2", "", 9, false, within), (error) => RuntimeError.is(error, "not_found") && error.reason === "container_not_found");
  await sandbox.stop(0);
});

test("an exit is recorded before it is announced, and acknowledged after", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  await startContainer(sandbox, "c1");
  await fixture.agent.print("c1", "", "output");
  fixture.agent.exit("c1", "", 7);
  const { exitStatus } = await sandbox.container("c1").init.wait(within);
  assert.deepEqual([exitStatus, sandbox.container("c1").state], [7, "stopped"]);
  assert.deepEqual(fixture.recorded.map(({ containerId, end }) => [containerId, end.exitStatus]), [["c1", 7]]);
  await assert.rejects(sandbox.kill("c1", "", 9, false, within), (error) => RuntimeError.is(error, "not_found") && error.reason === "process_finished");
  await sandbox.deleteContainer("c1", within);
  assert.ok(fixture.agent.calls.indexOf("acknowledgeEvents 1") > 0);
  await sandbox.stop(0);
});

test("an exec that cannot start ends with docker's status and can be deleted", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  await startContainer(sandbox, "c1");
  for (const [execId, reason, status] of [["e1", "executable_not_found", 127], ["e2", "executable_not_executable", 126]] as const) {
    const process = sandbox.registerExec(exec(execId));
    fixture.agent.fail("exec", new RuntimeError("not_found", "cannot run", { reason }));
    await assert.rejects(sandbox.startExec("c1", execId, within), failsWith("not_found", /cannot run/));
    assert.equal((await process.wait(within)).exitStatus, status);
    assert.equal(sandbox.deleteExec("c1", execId), process);
    assert.throws(() => sandbox.process("c1", execId), failsWith("not_found", new RegExp(execId)));
  }
  await sandbox.stop(0);
});

test("the death of the VM ends every process with 137, tells everybody, and the stop still gives all back", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  await startContainer(sandbox, "c1");
  await sandbox.createContainer(request("c2"), within);
  const second = sandbox.registerExec(exec("e1"));
  await sandbox.startExec("c1", "e1", within);
  fixture.endVm("died", "boom");
  const ends = await Promise.all([sandbox.container("c1").init, sandbox.container("c2").init, second].map((process) => process.wait(within)));
  assert.deepEqual(ends.map(({ exitStatus, reason }) => [exitStatus, reason]), [[137, "vmm_died"], [137, "vmm_died"], [137, "vmm_died"]]);
  assert.deepEqual(fixture.recorded.map(({ containerId }) => containerId).toSorted(), ["c1", "c2"]);
  assert.equal((await sandbox.ended).consoleTail, "boom");
  await sandbox.stop();
  assert.deepEqual(fixture.held, []);
});

test("a lost agent ends the VM: nobody could see or stop its processes", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  await startContainer(sandbox, "c1");
  fixture.agent.close();
  assert.equal((await sandbox.container("c1").init.wait(within)).reason, "vmm_died");
  assert.ok(fixture.vm.kills > 0);
  await sandbox.stop();
  assert.deepEqual(fixture.held, []);
});

test("stop() of a guest that does not power off ends it by force after the time", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  fixture.agent.hang("powerOff");
  const began = performance.now();
  await orAbandon(sandbox.stop(400), "stop", within);
  const tookMs = performance.now() - began;
  assert.ok(tookMs >= 150 && tookMs < 2_000, `took ${tookMs} ms`);
  assert.ok(fixture.vm.kills > 0);
  assert.deepEqual(fixture.held, []);
});

test("stop() while a container is being made ends both", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  fixture.agent.hang("createContainer");
  const creating = assert.rejects(sandbox.createContainer(request("c1"), within), (error) => RuntimeError.is(error, "unavailable"));
  await sandbox.stop(0);
  await orAbandon(creating, "the end of the creation", { timeoutMs: 2_000 });
  assert.deepEqual(fixture.held, []);
});
