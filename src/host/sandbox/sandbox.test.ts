import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { eventually, orAbandon } from "../../shared/base/deadline.ts";
import { RuntimeError, describeError, type ErrorCode } from "../../shared/base/errors.ts";
import { Logger } from "../../shared/base/log.ts";
import type { RunnableSpec } from "../../shared/oci/runtime-spec.ts";
import { SandboxFixture } from "../../../test/support/sandbox-fixture.ts";
import { containerRequest, execRequest, plainSpec } from "../../../test/support/sandbox-requests.ts";
import type { Sandbox } from "./sandbox.ts";

const failsWith = (code: ErrorCode, text: RegExp) => (error: unknown): boolean => RuntimeError.is(error, code) && text.test(describeError(error));
const within = { timeoutMs: 5_000 };

/** A container whose process runs. */
async function startContainer(sandbox: Sandbox, containerId: string): Promise<void> {
  await sandbox.createContainer(containerRequest(containerId), within);
  await sandbox.startContainer(containerId, within);
}

const exec = (execId: string): ReturnType<typeof execRequest> => execRequest("c1", execId);

test("2.1 Create, 2.1 Delete: create() takes its steps in order, and stop() gives everything back", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  assert.deepEqual(sandbox.timings.map(({ name }) => name), [
    "write the plan", "claim user", "start virtiofsd", "start network", "boot VM", "connect to the agent", "greet and refresh the guest", "grow memory", "grow vCPUs",
    "bring vCPUs online", "plug NIC", "configure network", "plug share", "mount share",
  ]);
  assert.deepEqual([...fixture.vm.plugged], ["net0", "share"]);
  assert.deepEqual(fixture.held, ["user", "shares", "network", "vm", "record sandbox", "record user", "record shares", "record network", "record vm"]);
  await Promise.all([sandbox.stop(), sandbox.stop()]);
  assert.equal((await sandbox.ended).reason, "powered_off");
  assert.deepEqual(fixture.held, []);
  assert.deepEqual(fixture.agent.calls.filter((call) => call === "powerOff"), ["powerOff"]);
});

test("create() gives up in time on an agent that never greets", async () => {
  using fixture = await SandboxFixture.open({ agentGreets: false });
  await assert.rejects(fixture.create(200), failsWith("deadline_exceeded", /^create sandbox "s1": connect to the agent: the guest.s agent did not answer in time$/));
  assert.deepEqual(fixture.held, []);
});

test("createContainer() that the guest refuses gives the disks back", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  fixture.agent.fail("createContainer", new RuntimeError("not_found", "no such user", { reason: "user_not_found" }));
  await assert.rejects(sandbox.createContainer(containerRequest("c1"), within), (error) => RuntimeError.is(error, "not_found") && error.reason === "user_not_found");
  assert.deepEqual([...fixture.vm.plugged], ["net0", "share"]);
  await sandbox.stop(0);
});

test("containers of one sandbox share an image's disk; it goes with the last one", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  const [image, first, second] = [{ type: "erofs", source: "/images/same", options: ["ro"] }, containerRequest("c1"), containerRequest("c2")];
  await sandbox.createContainer({ ...first, rootfs: [image, ...first.rootfs.slice(1)] }, within);
  await sandbox.createContainer({ ...second, rootfs: [image, ...second.rootfs.slice(1)] }, within);
  assert.equal(fixture.vm.plugged.size, 2 + 3);
  await sandbox.deleteContainer("c1", within);
  assert.equal(fixture.vm.plugged.size, 2 + 2);
  await sandbox.deleteContainer("c2", within);
  assert.deepEqual([[...fixture.vm.plugged], fixture.agent.containers], [["net0", "share"], []]);
  await sandbox.stop(0);
});

test("2.1 CreateContainer, 2.1 thin wrappers: an id that exists, and operations in the wrong state, are refused by name", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  await sandbox.createContainer(containerRequest("c1"), within);
  await assert.rejects(sandbox.createContainer(containerRequest("c1"), within), failsWith("already_exists", /container "c1" exists already/));
  await assert.rejects(sandbox.pause("c1", within), failsWith("failed_precondition", /pause container "c1": it is created/));
  await sandbox.startContainer("c1", within);
  await assert.rejects(sandbox.startContainer("c1", within), failsWith("failed_precondition", /start container "c1": it is running, must be created/));
  await assert.rejects(sandbox.deleteContainer("c1", within), failsWith("failed_precondition", /delete container "c1": it is running/));
  await assert.rejects(sandbox.kill("c2", "", 9, false, within), (error) => RuntimeError.is(error, "not_found") && error.reason === "container_not_found");
  await sandbox.stop(0);
});

test("1.3 storeContainer, 1.3 setContainerState: an exit is recorded before it is announced, and acknowledged after", async () => {
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

test("2.1 Monitor: the death of the VM ends every process with 137, tells everybody, and the stop still gives all back", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  await startContainer(sandbox, "c1");
  await sandbox.createContainer(containerRequest("c2"), within);
  const second = sandbox.registerExec(exec("e1"));
  await sandbox.startExec("c1", "e1", within);
  fixture.sharesExit.resolve(); // virtiofsd ends with its VM, and may be the first to be missed
  fixture.endVm("died", "boom");
  const ends = await Promise.all([sandbox.container("c1").init, sandbox.container("c2").init, second].map((process) => process.wait(within)));
  assert.deepEqual(ends.map(({ exitStatus, reason }) => [exitStatus, reason]), [[137, "vmm_died"], [137, "vmm_died"], [137, "vmm_died"]]);
  assert.deepEqual(fixture.recorded.map(({ containerId }) => containerId).toSorted(), ["c1", "c2"]);
  assert.equal((await sandbox.ended).consoleTail, "boom");
  await sandbox.stop();
  assert.deepEqual(fixture.held, []);
});

test("a process that its VM takes with it says how that ended", async () => {
  for (const [how, expected] of [["panicked", "guest_panicked"], ["reset", "guest_reset"], ["powered_off", "guest_powered_off"]] as const) {
    using fixture = await SandboxFixture.open();
    const sandbox = await fixture.create();
    await startContainer(sandbox, "c1");
    fixture.endVm(how);
    assert.equal((await sandbox.container("c1").init.wait(within)).reason, expected);
    await sandbox.stop();
  }
});

test("the death of virtiofsd ends the VM: what touches a volume hangs where nothing can end it", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  await startContainer(sandbox, "c1");
  fixture.agent.hang("createContainer");
  const making = sandbox.createContainer(containerRequest("c2"), within);
  making.catch(() => { /* looked at below */ });
  fixture.sharesExit.resolve();
  const { exitStatus, reason } = await sandbox.container("c1").init.wait(within);
  assert.deepEqual([exitStatus, reason], [137, "virtiofsd_died"]);
  await assert.rejects(making, (error) => RuntimeError.is(error, "unavailable") && error.reason === "virtiofsd_died");
  assert.ok(fixture.vm.kills > 0);
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
  const creating = assert.rejects(sandbox.createContainer(containerRequest("c1"), within), (error) => RuntimeError.is(error, "unavailable"));
  await eventually("the call in the guest", () => (fixture.agent.calls.includes("createContainer c1") ? true : undefined), within);
  await sandbox.stop(0);
  await orAbandon(creating, "the end of the creation", { timeoutMs: 2_000 });
  assert.deepEqual(fixture.held, []);
});

/** What may go wrong during a stop, and the longest the caller may be held. */
const stuck: Readonly<Record<string, (fixture: SandboxFixture) => void>> = {
  "a wedged guest": ({ agent }) => { for (const method of ["powerOff", "signalProcess", "removeContainer"]) agent.hang(method); },
  "a dead agent": ({ agent }) => agent.close(),
  "an unresponsive monitor": ({ vm }) => { for (const method of ["unplug", "resume", "pause", "resizeMemory"]) vm.hanging.add(method); },
  "all of it": (fixture) => { for (const name of ["a wedged guest", "an unresponsive monitor"]) stuck[name]?.(fixture); },
};

for (const [what, spoil] of Object.entries(stuck)) {
  test(`2.1 Stop, D6: ${what} holds no stop past its limit, and nothing stays`, async () => {
    using fixture = await SandboxFixture.open();
    const sandbox = await fixture.create();
    await startContainer(sandbox, "c1");
    await sandbox.createContainer(containerRequest("c2"), within);
    await sandbox.pause("c1", within);
    spoil(fixture);
    const began = performance.now();
    await sandbox.stopContainer("c1", { timeoutMs: 100 });
    assert.equal(sandbox.container("c1").state, "stopped");
    await sandbox.stop(200);
    assert.ok(performance.now() - began < 2_500, `${performance.now() - began} ms`);
    assert.deepEqual([sandbox.state, fixture.held], ["stopped", []]);
    for (const id of ["c1", "c2"]) assert.equal((await sandbox.container(id).init.wait(within)).exitStatus, 137);
  });
}

test("1.3 stop: a stop of what is stopped does nothing, and ends in stopped from every state", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  await startContainer(sandbox, "c1");
  await sandbox.stopContainer("c1", within);
  const calls = fixture.agent.calls.length;
  assert.equal((await sandbox.stopContainer("c1", within)).state, "stopped");
  assert.equal(fixture.agent.calls.slice(calls).filter((call) => !call.startsWith("acknowledge")).length, 0);
  await sandbox.stop(0);
});

test("the VM that cannot be killed holds a stop no longer than its limit", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  await sandbox.createContainer(containerRequest("c1"), within);
  fixture.vm.killable = false;
  const stopping = sandbox.stop(0);
  await eventuallyTicked(context, stopping, 30_000);
  assert.equal(sandbox.state, "stopped");
  assert.equal(sandbox.container("c1").init.end?.exitStatus, 137);
});

/** Moves the mocked clock until the work is done. */
async function eventuallyTicked(context: TestContext, work: Promise<unknown>, limitMs: number): Promise<void> {
  let over = false;
  void work.finally(() => { over = true; });
  for (let ms = 0; ms < limitMs && !over; ms += 500) {
    context.mock.timers.tick(500);
    for (let turn = 0; turn < 20 && !over; turn++) await new Promise((resolve) => { setImmediate(resolve); });
  }
  assert.ok(over, `not over after ${limitMs} ms`);
}

test("1.3 ContainerConfig.valid: a container without a usable id is refused before anything is taken", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  for (const containerId of ["", "../x", "a/b", "-a", "a b", "x".repeat(129)]) {
    await assert.rejects(sandbox.createContainer(containerRequest(containerId), within), (error) => RuntimeError.is(error, "invalid_argument") && error.reason === "bad_id", containerId);
  }
  assert.equal(fixture.agent.calls.filter((call) => call.startsWith("createContainer")).length, 0);
  await sandbox.stop(0);
});

test("2.2 static_sandbox_resource_mgmt: a sandbox has memory for the containers it has, and gives it back", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  const limited = (limit: number): RunnableSpec => ({ ...plainSpec, linux: { resources: { memory: { limit } } } });
  const sizes: number[] = [];
  const note = (): void => { sizes.push(fixture.vm.pluggedMemoryBytes); };
  note();
  for (const id of ["c1", "c2"]) {
    await sandbox.createContainer(containerRequest(id, limited(2 * 1024 ** 3)), within);
    note();
  }
  for (const id of ["c2", "c1"]) {
    await sandbox.deleteContainer(id, within);
    note();
  }
  assert.ok((sizes[0] ?? 0) < (sizes[1] ?? 0) && (sizes[1] ?? 0) < (sizes[2] ?? 0), sizes.join());
  assert.deepEqual(sizes.slice(3), [sizes[1], sizes[0]]);
  await sandbox.stop(0);
});

test("a guest that is short of memory gets more, once for any number of complaints, up to the maximum, and gives it back with its last container without a limit", async () => {
  using fixture = await SandboxFixture.open();
  fixture.config = { ...fixture.config, maxMemoryBytes: 3 * 1024 ** 3 };
  const sandbox = await fixture.create();
  const plugged = (): number => fixture.vm.pluggedMemoryBytes;
  const limited = { ...plainSpec, linux: { resources: { memory: { limit: 256 * 1024 ** 2 } } } };
  await sandbox.createContainer(containerRequest("limited", limited), within);
  assert.equal(await sandbox.growMemory(within), false, "who has a limit gets what it says");
  await sandbox.createContainer(containerRequest("open"), within);
  const before = plugged();
  // A hostile guest complains without end: one growth at a time.
  for (let complaint = 0; complaint < 200; complaint++) fixture.agent.appendEvent({ case: "memoryShort", value: { limitBytes: 1n } });
  await eventually("the growth", () => (plugged() > before ? true : undefined), within);
  await eventually("the acknowledgement", () => (fixture.agent.calls.includes("acknowledgeEvents 200") ? true : undefined), within);
  while (await sandbox.growMemory(within));
  assert.equal(sandbox.size.memoryBytes, 3 * 1024 ** 3);
  // What has grown gives way to a claim, and is known to a new owner.
  await sandbox.createContainer(containerRequest("second", limited), within);
  assert.equal(sandbox.size.memoryBytes, 3 * 1024 ** 3);
  for (const id of ["open", "second", "limited"]) await sandbox.deleteContainer(id, within);
  assert.equal(plugged(), before);
  // The guest has given it back: what its containers may use is set anew.
  const shared = (): number => fixture.agent.calls.filter((call) => call.startsWith("onlineCPUMem")).length, sharedBefore = shared();
  fixture.vm.memoryResized();
  await eventually("the new limit", () => (shared() > sharedBefore ? true : undefined), within);
  await sandbox.stop(0);
  assert.deepEqual(fixture.held, []);
});

test("1.3 getters: a container knows its id, its sandbox's processes their own, and the pid the guest gave", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  const container = await sandbox.createContainer(containerRequest("c1"), within);
  assert.deepEqual([container.containerId, container.bundle, container.init.execId, container.init.guestPid > 0, sandbox.container("c1") === container], ["c1", "/nowhere", "", true, true]);
  const process = sandbox.registerExec(exec("e1"));
  // A further process has its name before it runs, and its pid from then on.
  assert.deepEqual([process.execId, process.guestPid, sandbox.process("c1", "e1") === process], ["e1", 0, true]);
  await sandbox.startContainer("c1", within);
  await sandbox.startExec("c1", "e1", within);
  assert.ok(process.guestPid > 0);
  await sandbox.stop(0);
});

test("1.3 Logger: what is logged of a container names it", async () => {
  using fixture = await SandboxFixture.open();
  const lines: string[] = [];
  fixture.log = new Logger({ write: (line) => lines.push(line) });
  const sandbox = await fixture.create();
  await startContainer(sandbox, "c1");
  fixture.agent.hang("signalProcess");
  await sandbox.stopContainer("c1", { timeoutMs: 20 });
  const line = JSON.parse(lines.find((text) => text.includes("container not stopped in order")) ?? "{}") as Record<string, unknown>; // written by Logger
  assert.deepEqual([line["level"], line["containerId"]], ["warn", "c1"]);
  await sandbox.stop(0);
});
