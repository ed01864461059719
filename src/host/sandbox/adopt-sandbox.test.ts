import assert from "node:assert/strict";
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { eventually } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { SandboxFixture } from "../../../test/support/sandbox-fixture.ts";
import { containerRequest, execRequest } from "../../../test/support/sandbox-requests.ts";
import { ContainerLogWriter, readLogRun } from "../store/container-log.ts";
import { adoptSandboxSteps } from "./adopt-sandbox.ts";
import type { Sandbox } from "./sandbox.ts";

const within = { timeoutMs: 5_000 };

async function startContainer(sandbox: Sandbox, containerId: string): Promise<void> {
  await sandbox.createContainer(containerRequest(containerId), within);
  await sandbox.startContainer(containerId, within);
}

/** The owner dies: its connection ends, the VM goes on. */
async function die(sandbox: Sandbox): Promise<void> {
  await sandbox.saveTemplate(-1, within);
}

test("1.3 GetPatchedOCISpec, 1.3 newContainer, 2.1 Release, 2.6 SandboxState, 2.6 ContainerState, D23: a sandbox is taken over with its containers, execs and what they hold", async () => {
  using fixture = await SandboxFixture.open();
  const first = await fixture.create();
  await startContainer(first, "c1");
  await first.createContainer(containerRequest("c2"), within);
  for (const execId of ["e1", "e2"]) first.registerExec(execRequest("c1", execId));
  await first.startExec("c1", "e1", within);
  await first.startContainer("c2", within);
  await first.pause("c2", within);
  await die(first);
  const plugged = [...fixture.vm.plugged];
  const second = await fixture.adopt();
  assert.deepEqual([...second.containers.values()].map(({ containerId, state }) => [containerId, state]), [["c1", "running"], ["c2", "paused"]]);
  const { execs } = second.container("c1");
  assert.deepEqual([...execs.values()].map(({ execId, state }) => [execId, state]), [["e1", "running"], ["e2", "created"]]);
  assert.deepEqual([second.addresses, [...fixture.vm.plugged]], [first.addresses, plugged]);
  await second.startExec("c1", "e2", within);
  fixture.agent.exit("c1", "e1", 7);
  assert.equal((await second.process("c1", "e1").wait(within)).exitStatus, 7);
  await second.resume("c2", within);
  fixture.agent.exit("c1", "", 3);
  assert.equal((await second.container("c1").init.wait(within)).exitStatus, 3);
  await second.deleteContainer("c1", within);
  assert.deepEqual(fixture.agent.containers, ["c2"]);
  assert.equal(fixture.vm.plugged.size, plugged.length - 2);
  await second.createContainer(containerRequest("c3"), within);
  await second.stop();
  assert.deepEqual(fixture.held, []);
});

test("D13, 2.1 Cleanup after shim crash: what ended while there was no owner is told with its code; what was recorded is told again", async () => {
  using fixture = await SandboxFixture.open();
  const first = await fixture.create();
  await startContainer(first, "c1");
  for (const execId of ["before", "between"]) {
    first.registerExec(execRequest("c1", execId));
    await first.startExec("c1", execId, within);
  }
  fixture.agent.exit("c1", "before", 5);
  await first.process("c1", "before").wait(within);
  await die(first);
  fixture.agent.exit("c1", "between", 6);
  fixture.agent.exit("c1", "", 9);
  const second = await fixture.adopt();
  const ends = await Promise.all(["before", "between", ""].map((execId) => second.process("c1", execId).wait(within)));
  assert.deepEqual(ends.map(({ exitStatus }) => exitStatus), [5, 6, 9]);
  assert.deepEqual(fixture.recorded.map(({ containerId, end }) => [containerId, end.exitStatus]), [["c1", 9]]);
  await second.stop();
  assert.deepEqual(fixture.held, []);
});

for (const paused of [false, true]) {
  test(`what a guest has given back while there was no owner is no more for its containers, ${paused ? "as soon as it goes on" : "at once"}`, async () => {
    using fixture = await SandboxFixture.open();
    const first = await fixture.create();
    await startContainer(first, "c1");
    if (paused) await first.pauseSandbox(within);
    await die(first);
    const asked = (): number => fixture.agent.calls.filter((call) => call.startsWith("onlineCPUMem")).length;
    const before = asked();
    const second = await fixture.adopt();
    if (paused) {
      assert.equal(asked(), before);
      await second.resumeSandbox(within);
    }
    await eventually("the guest to be told", () => (asked() > before ? true : undefined), within);
    await second.stop();
    assert.deepEqual(fixture.held, []);
  });
}

test("the log goes on without a byte lost or doubled", async () => {
  using fixture = await SandboxFixture.open();
  const first = await fixture.create();
  const path = join(fixture.folder, "c1-data", "log");
  mkdirSync(join(fixture.folder, "c1-data"));
  const log = await ContainerLogWriter.open(path);
  await first.createContainer({ ...containerRequest("c1"), io: { terminal: false, stdin: false, log, holdOutput: false } }, within);
  await first.startContainer("c1", within);
  await fixture.agent.print("c1", "", "one ");
  const text = (): string => [...readLogRun(path, log.runId)].map(({ bytes }) => Buffer.from(bytes).toString()).join("");
  await eventually("the first output", () => (text() === "one " ? true : undefined), within);
  await die(first);
  await fixture.agent.print("c1", "", "two ");
  const second = await fixture.adopt();
  await fixture.agent.print("c1", "", "three");
  fixture.agent.exit("c1", "", 0);
  await second.container("c1").init.wait(within);
  assert.equal(text(), "one two three");
  await second.stop(0);
});

for (const [what, method] of [["being made", "createContainer"], ["being removed", "removeContainer"]] as const) {
  test(`a container that was ${what} when its owner died is gone, and can be made again`, async () => {
    using fixture = await SandboxFixture.open();
    const first = await fixture.create();
    if (method === "removeContainer") {
      await startContainer(first, "c1");
      fixture.agent.exit("c1", "", 0);
      await first.container("c1").init.wait(within);
      // Removed in the guest, and the owner dies before it strikes the record.
      await first.agent.agent.removeContainer({ containerId: "c1" }, within);
    } else {
      fixture.agent.hang(method);
      void first.createContainer(containerRequest("c1"), within).catch(() => { /* its owner dies */ });
      await eventually("the call", () => (fixture.agent.calls.includes("createContainer c1") ? true : undefined), within);
    }
    await die(first);
    fixture.agent.answer(method);
    const second = await fixture.adopt();
    await startContainer(second, "c1");
    assert.equal(fixture.vm.plugged.size, 4);
    await second.stop();
    assert.deepEqual(fixture.held, []);
  });
}

test("a paused sandbox stays so when the owner that takes it over dies while it lets the guest answer", async () => {
  using fixture = await SandboxFixture.open();
  const first = await fixture.create();
  await startContainer(first, "c1");
  await first.pauseSandbox(within);
  await die(first);
  await fixture.vm.resume(); // and the end of that owner
  const second = await fixture.adopt();
  assert.deepEqual([second.state, fixture.vm.paused], ["paused", true]);
  await second.resumeSandbox(within);
  await die(second);
  const third = await fixture.adopt();
  assert.deepEqual([third.state, fixture.vm.paused], ["running", false]);
  await third.stop();
  assert.deepEqual(fixture.held, []);
});

for (const [name, paused] of adoptSandboxSteps.flatMap((step) => (step.name.includes("pause") ? [true] : [false, true]).map((paused) => [step.name, paused] as const))) {
  test(`a take-over that fails at "${name}" leaves ${paused ? "a paused" : "the"} sandbox as it is`, async () => {
    using fixture = await SandboxFixture.open();
    const first = await fixture.create();
    await startContainer(first, "c1");
    if (paused) await first.pauseSandbox(within);
    await die(first);
    const held = fixture.held;
    fixture.hook = (operation, step, phase) => { if (operation.startsWith("take over") && step === name && phase === "after") throw new RuntimeError("unavailable", "not now"); };
    await assert.rejects(fixture.adopt(), (error) => RuntimeError.is(error, "unavailable") && error.cleanupErrors.length === 0);
    assert.deepEqual([fixture.held, fixture.vm.kills, fixture.agent.containers, fixture.vm.paused], [held, 0, ["c1"], paused]);
    fixture.hook = undefined;
    const second = await fixture.adopt();
    assert.deepEqual([second.container("c1").state, second.state], ["running", paused ? "paused" : "running"]);
    if (paused) await second.resumeSandbox(within);
    await second.stop();
    assert.deepEqual(fixture.held, []);
    assert.ok(!existsSync(join(fixture.folder, "held-vm")));
  });
}
