// Which operation is allowed in which state, tried on a sandbox with an agent behind it: the operations of a
// container in each of its states, and all of them in a sandbox that is paused or over.
import assert from "node:assert/strict";
import { test } from "node:test";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import { SandboxFixture } from "../../../test/support/sandbox-fixture.ts";
import { containerRequest, execRequest } from "../../../test/support/sandbox-requests.ts";
import type { ContainerOperation, ContainerState } from "./container-state.ts";
import type { Sandbox } from "./sandbox.ts";

const within = { timeoutMs: 5_000 };
const SIGTERM = 15;
/** Files are worked on by the owner, which asks for the state by itself. */
type Operation = Exclude<ContainerOperation, "file"> | "create";
type State = Exclude<ContainerState, "creating">;

/** Brings container "c1" into each state. */
const reach: Readonly<Record<State, (sandbox: Sandbox, fixture: SandboxFixture) => Promise<unknown>>> = {
  created: (sandbox) => sandbox.createContainer({ ...containerRequest("c1"), io: { ...containerRequest("c1").io, terminal: true } }, within),
  running: async (sandbox, fixture) => {
    await reach.created(sandbox, fixture);
    await sandbox.startContainer("c1", within);
  },
  paused: async (sandbox, fixture) => {
    await reach.running(sandbox, fixture);
    await sandbox.pause("c1", within);
  },
  stopped: async (sandbox, fixture) => {
    await reach.running(sandbox, fixture);
    fixture.agent.exit("c1", "", 3);
    await sandbox.container("c1").init.wait(within);
  },
};

const operations: Readonly<Record<Operation, (sandbox: Sandbox) => unknown>> = {
  create: (sandbox) => sandbox.createContainer(containerRequest("c1"), within),
  start: (sandbox) => sandbox.startContainer("c1", within),
  stop: (sandbox) => sandbox.stopContainer("c1", within),
  delete: (sandbox) => sandbox.deleteContainer("c1", within),
  exec: (sandbox) => { sandbox.registerExec(execRequest("c1", "e1")); },
  // A wait is allowed when it waits; it ends with the process.
  wait: (sandbox) => Promise.race([sandbox.process("c1", "").wait(), new Promise((resolve) => { setTimeout(resolve, 10); })]),
  kill: (sandbox) => sandbox.kill("c1", "", SIGTERM, true, within),
  signal: (sandbox) => sandbox.kill("c1", "", SIGTERM, false, within),
  winsize: (sandbox) => sandbox.resize("c1", "", { rows: 1, columns: 1 }, within),
  ioStream: (sandbox) => { sandbox.process("c1", "").io.attach({ output: () => undefined, outputEnd: () => undefined }).detach(); },
  stats: (sandbox) => sandbox.stats("c1", within),
  update: (sandbox) => sandbox.update("c1", { pids: { limit: 5 } }, within),
  pause: (sandbox) => sandbox.pause("c1", within),
  resume: (sandbox) => sandbox.resume("c1", within),
};

/** x: allowed; else the code of the refusal. Columns: created, running, paused, stopped. */
const table: Readonly<Record<Operation, readonly [string, string, string, string]>> = {
  create: ["already_exists", "already_exists", "already_exists", "already_exists"],
  start: ["x", "failed_precondition", "failed_precondition", "failed_precondition"],
  stop: ["x", "x", "x", "x"],
  delete: ["x", "failed_precondition", "failed_precondition", "x"],
  exec: ["x", "x", "failed_precondition", "failed_precondition"],
  wait: ["x", "x", "x", "x"],
  kill: ["x", "x", "x", "not_found"],
  signal: ["x", "x", "x", "not_found"],
  winsize: ["x", "x", "x", "x"],
  ioStream: ["x", "x", "x", "x"],
  stats: ["x", "x", "x", "x"],
  update: ["x", "x", "x", "failed_precondition"],
  pause: ["failed_precondition", "x", "failed_precondition", "failed_precondition"],
  resume: ["failed_precondition", "failed_precondition", "x", "failed_precondition"],
};

/** The parity rows (docs/parity.md) of each operation's guard. */
const rows: Readonly<Record<Operation, string>> = {
  create: "1.3 create", start: "1.3 start", stop: "1.3 stop", delete: "1.3 delete", exec: "1.3 enter", wait: "1.3 wait", kill: "1.3 kill", signal: "1.3 signalProcess",
  winsize: "1.3 winsizeProcess", ioStream: "1.3 ioStream", stats: "1.3 stats", update: "1.3 update", pause: "1.3 pause", resume: "1.3 resume",
};

/** How an operation ended: x, or the code of its refusal. */
async function outcomeOf(operation: Operation, sandbox: Sandbox): Promise<{ readonly code: string; readonly message: string; readonly reason: string | undefined }> {
  try {
    await operations[operation](sandbox);
    return { code: "x", message: "", reason: undefined };
  } catch (error) {
    assert.ok(RuntimeError.is(error), String(error));
    return { code: error.code, message: describeError(error), reason: error.reason };
  }
}

for (const operation of Object.keys(table) as Operation[]) { // the keys of the table above
  test(`${rows[operation]}: ${operation} is allowed and refused in every state of the container`, async () => {
    for (const [index, state] of (Object.keys(reach) as State[]).entries()) { // in the order of the columns
      using fixture = await SandboxFixture.open();
      const sandbox = await fixture.create();
      await reach[state](sandbox, fixture);
      const { code, message, reason } = await outcomeOf(operation, sandbox);
      assert.equal(code, table[operation][index], `${operation} of a ${state} container: ${message}`);
      if (code === "failed_precondition") assert.deepEqual([reason, message.includes(`it is ${state}`)], ["wrong_state", true], message);
      await sandbox.stop(0);
      assert.deepEqual(fixture.held, []);
    }
  });
}

/** What needs a guest that runs; the others are answered by what the host knows. */
const needGuest: readonly Operation[] = ["create", "start", "exec", "kill", "signal", "winsize", "stats", "update", "pause", "resume"];

test("1.3 checkSandboxRunning: what needs the guest is refused in a paused sandbox, waits and streams go on", async () => {
  for (const operation of Object.keys(table) as Operation[]) { // the keys of the table above
    if (operation === "stop" || operation === "delete") continue;
    using fixture = await SandboxFixture.open();
    const sandbox = await fixture.create();
    await reach[operation === "start" ? "created" : operation === "resume" ? "paused" : "running"](sandbox, fixture);
    await sandbox.pauseSandbox(within);
    assert.equal(sandbox.state, "paused");
    const { code, reason, message } = await outcomeOf(operation, sandbox);
    assert.deepEqual([code, reason], needGuest.includes(operation) ? ["failed_precondition", "sandbox_paused"] : ["x", undefined], `${operation}: ${message}`);
    await sandbox.stop(0);
  }
});

test("1.2 error texts, 1.3 checkSandboxRunning: a sandbox that is over answers by name", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  await reach.running(sandbox, fixture);
  await sandbox.stop(0);
  for (const operation of ["start", "exec", "stats", "update", "pause", "resume", "create"] as const) {
    const { code, reason, message } = await outcomeOf(operation, sandbox);
    assert.deepEqual([code, reason, message.includes('sandbox "s1" is stopped, must be running')], ["failed_precondition", "wrong_state", true], message);
  }
  assert.equal((await outcomeOf("kill", sandbox)).code, "not_found");
  assert.equal((await sandbox.process("c1", "").wait(within)).exitStatus, 137);
});

test("pauseSandbox() and resumeSandbox() follow each other only, and the clock is set after it", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  await assert.rejects(sandbox.resumeSandbox(within), (error) => RuntimeError.is(error, "failed_precondition") && error.message.includes("it is running, must be paused"));
  await sandbox.pauseSandbox(within);
  assert.equal(fixture.vm.paused, true);
  await assert.rejects(sandbox.pauseSandbox(within), (error) => RuntimeError.is(error, "failed_precondition") && error.reason === "sandbox_paused");
  await sandbox.resumeSandbox(within);
  assert.deepEqual([fixture.vm.paused, fixture.agent.calls.includes("setGuestDateTime"), sandbox.state], [false, true, "running"]);
  // A polite stop of a paused sandbox lets the guest end in order.
  await sandbox.pauseSandbox(within);
  await sandbox.stop();
  assert.equal((await sandbox.ended).reason, "powered_off");
});
