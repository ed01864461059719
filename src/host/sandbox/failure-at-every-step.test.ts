// Every step of every operation of a sandbox fails once, in every way: before it has done anything, after
// it has done everything, by its time, with the guest, with the VMM. Nothing may stay, and the first error
// is the one that is told. The lists are those that the code executes.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import type { StepHook } from "../../shared/base/steps.ts";
import { SandboxFixture } from "../../../test/support/sandbox-fixture.ts";
import { containerRequest, execRequest, plainSpec } from "../../../test/support/sandbox-requests.ts";
import { createContainerSteps } from "./container.ts";
import { equipGuestSteps, takeHostSteps } from "./create-sandbox.ts";
import { execSteps, startContainerSteps } from "./process-start.ts";
import { growSteps } from "./sandbox-room.ts";
import type { Sandbox } from "./sandbox.ts";
import { serveSharesSteps, withdrawSharesSteps } from "./share-steps.ts";
import { bootGuestSteps, restoreGuestSteps } from "./start-guest.ts";
import { updateSteps } from "./update-container.ts";

const gibibyte = 1024 ** 3;
const within = { timeoutMs: 5_000 };
/** Long enough, most often, for the steps that do not hang. */
const shortMs = 150;

/** The ways a step fails. */
const kinds = {
  "error before it": (fixture, phase) => { if (phase === "before") throw injected(fixture); },
  "error after it": (fixture, phase) => { if (phase === "after") throw injected(fixture); },
  "time-out": () => new Promise<void>(() => { /* for ever */ }),
  "guest reset": async (fixture) => {
    // The agent goes first; QEMU, told not to reboot, follows.
    fixture.agent.close();
    await new Promise((resolve) => { setTimeout(resolve, 2); });
    fixture.endVm("died", "rebooting");
  },
  "VMM death": (fixture) => fixture.endVm("died", "killed"),
} as const satisfies Record<string, (fixture: SandboxFixture, phase: "before" | "after") => void | Promise<void>>;
type Kind = keyof typeof kinds;
const expectedCode: Readonly<Record<Kind, string>> = { "error before it": "resource_exhausted", "error after it": "resource_exhausted", "time-out": "deadline_exceeded", "guest reset": "unavailable", "VMM death": "unavailable" };
/** After these the sandbox goes on. */
const survivable: readonly Kind[] = ["error before it", "error after it", "time-out"];

function injected(_fixture: SandboxFixture): RuntimeError {
  return new RuntimeError("resource_exhausted", "no more of it");
}

/** An operation on a sandbox that is up. */
interface Operation {
  readonly steps: readonly { readonly name: string }[];
  /** What its errors begin with; default: its name. */
  readonly told?: string;
  /** What it takes away may be gone when it fails, and is brought back when it is needed. */
  readonly partly?: boolean;
  readonly prepare: (sandbox: Sandbox) => Promise<void>;
  readonly run: (sandbox: Sandbox, timeoutMs: number) => Promise<unknown>;
  /** Brings back what was before, after a success or a failure that the sandbox survived. */
  readonly undo: (sandbox: Sandbox) => Promise<void>;
}

const makeContainer = async (sandbox: Sandbox): Promise<void> => { await sandbox.createContainer(containerRequest("c1"), within); };
const startContainer = async (sandbox: Sandbox): Promise<void> => {
  await makeContainer(sandbox);
  await sandbox.startContainer("c1", within);
};
const removeContainer = async (sandbox: Sandbox): Promise<void> => {
  if (!sandbox.containers.has("c1")) return;
  await sandbox.stopContainer("c1", within);
  await sandbox.deleteContainer("c1", within);
};

/** Shows a folder of the host. */
const sharingSpec = { ...plainSpec, mounts: [...plainSpec.mounts ?? [], { destination: "/data", type: "bind", source: "/tmp", options: ["rbind"] }] };
const save = (sandbox: Sandbox, timeoutMs: number): Promise<unknown> => sandbox.capture({ stateFd: -1, memoryFd: -1 }, async () => { /* there is none */ }, { goOn: true, timeoutMs });
/** A container that shows a folder comes and goes: the guest has the shared folder from then on. */
const showFolder = async (sandbox: Sandbox): Promise<void> => {
  await removeContainer(sandbox);
  await sandbox.createContainer(containerRequest("c1", sharingSpec), within);
  await removeContainer(sandbox);
};

/** More than a VM boots with, so that room has to be made. */
const largeSpec = { ...plainSpec, linux: { resources: { memory: { limit: 3 * gibibyte } } } };

const operations: Readonly<Record<string, Operation>> = {
  "create container": { steps: createContainerSteps, prepare: async () => { /* nothing */ }, run: (sandbox, timeoutMs) => sandbox.createContainer(containerRequest("c1", largeSpec), { timeoutMs }), undo: removeContainer },
  "start container": { steps: startContainerSteps, prepare: makeContainer, run: (sandbox, timeoutMs) => sandbox.startContainer("c1", { timeoutMs }), undo: removeContainer },
  "start exec": {
    steps: execSteps,
    prepare: startContainer,
    run: async (sandbox, timeoutMs) => {
      sandbox.registerExec(execRequest("c1", "e1"));
      try {
        await sandbox.startExec("c1", "e1", { timeoutMs });
      } catch (error) {
        sandbox.deleteExec("c1", "e1"); // as its caller does; its record is kept until then
        throw error;
      }
    },
    undo: removeContainer,
  },
  "update container": {
    steps: updateSteps,
    prepare: async (sandbox) => {
      await sandbox.createContainer(containerRequest("c1", largeSpec), within);
      await sandbox.startContainer("c1", within);
    },
    // More of one and less of the other, so that every step has something to do.
    run: (sandbox, timeoutMs) => sandbox.update("c1", { memory: { limit: gibibyte }, cpu: { quota: 300_000, period: 100_000 } }, { timeoutMs }),
    undo: removeContainer,
  },
  "save sandbox": { steps: withdrawSharesSteps, prepare: showFolder, run: save, undo: showFolder, partly: true },
  "create container after a save": { steps: serveSharesSteps, told: "create container", prepare: async (sandbox) => { await save(sandbox, within.timeoutMs); }, run: (sandbox, timeoutMs) => sandbox.createContainer(containerRequest("c1", sharingSpec), { timeoutMs }), undo: showFolder },
  "grow sandbox": { steps: growSteps, prepare: startContainer, run: async (sandbox, timeoutMs) => { assert.equal(await sandbox.growMemory({ timeoutMs }), true); }, undo: removeContainer },
};

const counts = new Map<string, number>();
const count = (operation: string): void => { counts.set(operation, (counts.get(operation) ?? 0) + 1); };
after(() => {
  for (const [operation, tried] of counts) console.log(`${operation}: ${tried} failures, steps × failure kinds`);
});

/** Fails one step in that way, once; says whether it has come to that. */
function failAt(fixture: SandboxFixture, step: string, kind: Kind, endVm?: () => void): { readonly hook: StepHook; readonly reached: () => boolean } {
  let over = false;
  const hook: StepHook = (_operation, name, phase) => {
    if (name !== step || over) return undefined;
    if (phase === "before" && kind === "error after it") return undefined;
    over = true;
    return kind === "VMM death" && endVm !== undefined ? endVm() : kinds[kind](fixture, phase);
  };
  return { hook, reached: () => over };
}

/** Tries again with twice the time when it was over before the step came, which a machine with too much to do can bring about. */
async function untilReached(attempt: (shortMs: number) => Promise<boolean>): Promise<void> {
  for (let timeMs = shortMs; !(await attempt(timeMs)); timeMs *= 2);
}

/** The parity rows (docs/parity.md) each operation answers for. */
const rowsOf: Readonly<Record<string, string>> = { "create container": "1.3 rollbackFailingContainerCreation, 1.3 create, D2, D3, D4, D5, D7", "start container": "1.3 start, 2.1 Start", "start exec": "1.3 enter", "update container": "1.3 update, D1" };

/** What the caller of an operation got. */
async function failureOf(work: Promise<unknown>): Promise<RuntimeError> {
  const error: unknown = await work.then(() => assert.fail("it worked"), (reason: unknown) => reason);
  assert.ok(RuntimeError.is(error), String(error));
  return error;
}

function assertFirstError(error: RuntimeError, operation: string, step: string, kind: Kind): void {
  assert.equal(error.code, expectedCode[kind], describeError(error));
  assert.ok(describeError(error).startsWith(`${operation}`) && describeError(error).includes(step), describeError(error));
  assert.deepEqual(error.cleanupErrors.map(describeError), []);
}

for (const { name: step } of [...takeHostSteps, ...bootGuestSteps, ...equipGuestSteps]) {
  for (const kind of Object.keys(kinds) as Kind[]) { // the keys of the table above
    test(`2.1 Create: create sandbox: ${kind} at "${step}" leaves nothing`, () => untilReached(async (timeMs) => {
      using fixture = await SandboxFixture.open();
      const { hook, reached } = failAt(fixture, step, kind);
      fixture.hook = hook;
      const error = await failureOf(fixture.create(kind === "time-out" ? timeMs : within.timeoutMs));
      if (kind === "time-out" && !reached()) return false;
      // Without a VM yet, its death is noticed by the first step that needs it.
      if (error.message !== "" && survivable.includes(kind)) assertFirstError(error, `create sandbox "s1": ${step}`, step, kind);
      else assert.equal(error.code, "unavailable", describeError(error));
      assert.deepEqual(fixture.held, []);
      count("create sandbox");
      return true;
    }));
  }
}

for (const { name: step } of restoreGuestSteps) {
  for (const kind of Object.keys(kinds) as Kind[]) { // the keys of the table above
    if (kind === "guest reset") continue; // it takes the one agent of both VMs with it
    test(`restore sandbox: ${kind} at "${step}" boots cold, or leaves nothing when the time is over`, async () => {
      using fixture = await SandboxFixture.open();
      fixture.config = { ...fixture.config, template: "t1" };
      fixture.hook = failAt(fixture, step, kind, () => fixture.restoredVm.end("died")).hook;
      const creating = fixture.create(kind === "time-out" ? shortMs : 5_000);
      if (kind === "time-out") {
        assert.equal((await failureOf(creating)).code, "deadline_exceeded");
      } else {
        const sandbox = await creating;
        // A VM that dies before it is made is the next one, which lives.
        assert.equal(sandbox.vm.startedBy, kind === "VMM death" && step === "restore VM" ? sandbox.vm.startedBy : "cold");
        assert.equal(fixture.held.includes("restored vm"), sandbox.vm.startedBy === "template");
        await sandbox.stop(0);
      }
      assert.deepEqual(fixture.held, []);
      count("restore sandbox");
    });
  }
}

test("2.1 startVM: a sandbox whose config names a template is not booted", async () => {
  using fixture = await SandboxFixture.open();
  fixture.config = { ...fixture.config, template: "t1" };
  const sandbox = await fixture.create();
  assert.deepEqual([sandbox.vm.startedBy, sandbox.timings.some(({ name }) => name === "boot VM")], ["template", false]);
  await sandbox.stop(0);
  assert.deepEqual(fixture.held, []);
});

for (const [operation, { steps, told = operation, partly = false, prepare, run, undo }] of Object.entries(operations)) {
  for (const { name: step } of steps) {
    for (const kind of Object.keys(kinds) as Kind[]) { // the keys of the table above
      test(`${rowsOf[operation] ?? operation}: ${operation}: ${kind} at "${step}" leaves nothing`, () => untilReached(async (timeMs) => {
        using fixture = await SandboxFixture.open();
        const sandbox = await fixture.create();
        const empty = [fixture.held.toSorted(), fixture.agent.held, [...fixture.vm.plugged], fixture.vm.pluggedMemoryBytes];
        await prepare(sandbox);
        const before = [fixture.held.toSorted(), fixture.agent.held.filter((what) => !what.startsWith("c1/ ")), [...fixture.vm.plugged], fixture.vm.pluggedMemoryBytes];
        const { hook, reached } = failAt(fixture, step, kind);
        fixture.hook = hook;
        const error = await failureOf(run(sandbox, kind === "time-out" ? timeMs : within.timeoutMs));
        if (kind === "time-out" && !reached()) {
          await sandbox.stop(0);
          return false;
        }
        // Writing needs no VM, and from one that is gone all is unplugged: the step after it notices that there is none.
        if (!["write the plan", "unplug share"].includes(step) || survivable.includes(kind)) assertFirstError(error, told, step, kind);
        if (survivable.includes(kind)) {
          if (!partly) assert.deepEqual([fixture.held.toSorted(), fixture.agent.held.filter((what) => !what.startsWith("c1/ ")), [...fixture.vm.plugged], fixture.vm.pluggedMemoryBytes], before);
          await undo(sandbox);
          assert.deepEqual([fixture.held.toSorted(), fixture.agent.held, [...fixture.vm.plugged], fixture.vm.pluggedMemoryBytes], empty);
          // And the next one works.
          await prepare(sandbox);
          await run(sandbox, 5_000);
          await undo(sandbox);
          assert.deepEqual([fixture.held.toSorted(), fixture.agent.held, [...fixture.vm.plugged], fixture.vm.pluggedMemoryBytes], empty);
          await sandbox.stop(0);
        } else {
          assert.equal(error.reason, "vmm_died");
          await sandbox.ended;
          await sandbox.stop();
        }
        assert.equal(sandbox.state, "stopped");
        assert.deepEqual(fixture.held, []);
        count(operation);
        return true;
      }));
    }
  }
}

const guestCallsOfCreate = ["hello", "refresh", "onlineCPUMem", "updateInterface", "updateRoutes", "createSandbox", "addStorages"];

for (const method of guestCallsOfCreate) {
  test(`2.1 agent.startSandbox: create sandbox leaves nothing when the agent refuses ${method}, or does not answer it`, async () => {
    using refused = await SandboxFixture.open();
    refused.agent.fail(method, new RuntimeError("failed_precondition", "the guest cannot"));
    const error = await failureOf(refused.create());
    assert.deepEqual([error.code, refused.held], ["failed_precondition", []]);
    assert.match(describeError(error), /^create sandbox "s1": .*the guest cannot/);
    using silent = await SandboxFixture.open();
    silent.agent.hang(method);
    assert.equal((await failureOf(silent.create(shortMs))).code, "deadline_exceeded");
    assert.deepEqual(silent.held, []);
  });
}

test("a guest that makes a container after its caller has given up is told to remove it", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  fixture.agent.delay("createContainer", 2 * shortMs);
  assert.equal((await failureOf(sandbox.createContainer(containerRequest("c1"), { timeoutMs: shortMs }))).code, "deadline_exceeded");
  assert.deepEqual([fixture.agent.held, [...fixture.vm.plugged]], [[], ["net0", "share"]]);
  await sandbox.stop(0);
});

test("what could not be undone hangs on the first error", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  fixture.hook = failAt(fixture, "create container in the guest", "error after it").hook;
  fixture.agent.fail("removeContainer", new RuntimeError("internal", "crun is stuck"));
  const error = await failureOf(sandbox.createContainer(containerRequest("c1"), within));
  assert.equal(describeError(error), 'create container "c1": create container in the guest: no more of it');
  assert.deepEqual(error.cleanupErrors.map(describeError), ["give back container in the guest: crun is stuck"]);
  await sandbox.stop(0);
});
