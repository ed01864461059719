// What fails half way leaves nothing, with real VMs: every step of every operation, in every way a step fails.
// - the set-up of a network, a sandbox's start from a template and by booting, a container's creation and start,
//   an exec, an update, growth under pressure
// - by an error before and after the step, by the caller's time, by a guest that answers when that is over,
//   by a reset of the guest, by the death of the VMM
// - the caller gets the first error; the ledger is as before, and so are the guest, the VM and the host
// Here each step fails in a few ways, in turn. `npm run test:failures` does all, and prints the table.
import assert from "node:assert/strict";
import { closeSync, copyFileSync, existsSync, mkdirSync, openSync, readdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { ensureGuestImage } from "../../src/host/guest-image/guest-image.ts";
import { networkSteps } from "../../src/host/network/passt.ts";
import { createContainerSteps, type ContainerRequest } from "../../src/host/sandbox/container.ts";
import { equipGuestSteps, takeHostSteps } from "../../src/host/sandbox/create-sandbox.ts";
import { execSteps, startContainerSteps } from "../../src/host/sandbox/process-start.ts";
import { serveSharesSteps, withdrawSharesSteps } from "../../src/host/sandbox/share-steps.ts";
import type { SandboxConfig } from "../../src/host/sandbox/sandbox-config.ts";
import { growSteps } from "../../src/host/sandbox/sandbox-room.ts";
import type { Sandbox } from "../../src/host/sandbox/sandbox.ts";
import { bootGuestSteps, restoreGuestSteps } from "../../src/host/sandbox/start-guest.ts";
import { updateSteps } from "../../src/host/sandbox/update-container.ts";
import { sandboxPaths, stateFolders } from "../../src/host/store/paths.ts";
import { findTaggedProcesses, type TaggedProcessRecord } from "../../src/host/store/tagged-process.ts";
import { eventually, type WaitOptions } from "../../src/shared/base/deadline.ts";
import { RuntimeError, describeError } from "../../src/shared/base/errors.ts";
import { createMemoryFile } from "../../src/shared/linux/memfd.ts";
import { signalProcess, type ProcessIdentity } from "../../src/shared/linux/proc.ts";
import type { OciResources } from "../../src/shared/oci/runtime-spec.ts";
import { keepEvidence } from "../support/evidence.ts";
import { FailureTable, failureKinds, type FailureKind } from "../support/failure-table.ts";
import { watchHost, type HostWatch } from "../support/host-clean.ts";
import { requires } from "../support/requires.ts";
import { callTimeoutMs, startTimeoutMs, SandboxHost, type HostedSandbox } from "../support/sandbox-host.ts";

const skip = requires("root");
const all = process.env["CASEMATE_ALL_FAILURES"] === "1";
const mebibyte = 1024 ** 2;
const table = new FailureTable();
let watch: HostWatch;
let host: SandboxHost;
let sandboxes = 0;

before(async () => {
  if (skip !== false) return;
  await ensureGuestImage(stateFolders(undefined)); // it stays, so it is no part of what the host is compared with
  watch = watchHost();
  host = await SandboxHost.open();
});

afterEach((context) => {
  if ("passed" in context && context.passed === false) keepEvidence(host.folders, context.name);
});

after(async () => {
  if (skip !== false) return;
  await endSurvivor();
  console.log(table.format());
  await host[Symbol.asyncDispose]();
  await watch.assertHostClean();
});

/** After these the VM is gone. */
const ends = (kind: FailureKind): boolean => kind === "guest reset" || kind === "VMM death";
/** In these the caller waits until its time is over. */
const takesTime = (kind: FailureKind): boolean => kind === "time-out" || kind === "late answer";
const expectedCodes: Readonly<Record<FailureKind, string>> = { "error before": "resource_exhausted", "error after": "resource_exhausted", "time-out": "deadline_exceeded", "late answer": "deadline_exceeded", "guest reset": "unavailable", "VMM death": "unavailable" };

interface Failing {
  /** As the hook is told, without the name of what it is done to. */
  readonly operation: string;
  /** For people. */
  readonly title: string;
  readonly steps: readonly { readonly name: string }[];
  /** Whether there is a VM by then. */
  readonly hasVm: boolean;
  /** Ways that every run tries at each step. Default: none. */
  readonly always?: readonly FailureKind[];
  /** How many of the other ways every run tries at each step, in turn. Default 1. */
  readonly others?: number;
  readonly attempt: (step: string, kind: FailureKind) => Promise<"clean" | "boots cold">;
}

/** There is no guest before these. */
const makesVm = (step: string): boolean => step === "restore VM" || step === "boot VM";

/** Fails each step in all ways, or in those that are due; goes on after one that is not as it should be. */
async function failEach({ operation, title, steps, hasVm, always = [], others = 1, attempt }: Failing): Promise<void> {
  const problems: string[] = [];
  for (const [index, { name: step }] of steps.entries()) {
    const possible = failureKinds.filter((kind) => (hasVm && !(kind === "late answer" && makesVm(step))) || !(ends(kind) || kind === "late answer"));
    for (const kind of failureKinds.filter((one) => !possible.includes(one))) table.note(title, step, kind, "no VM");
    const inTurn = possible.filter((kind) => !always.includes(kind));
    const due = all ? possible : [...always, ...inTurn.slice(index % inTurn.length).slice(0, others)];
    for (const kind of due) {
      const began = performance.now();
      let result: Parameters<FailureTable["note"]>[3] = "FAILED";
      try {
        result = await attempt(step, kind);
      } catch (error) {
        problems.push(`${operation}: ${kind} at "${step}": ${describeError(error)}`);
        if (all) console.log(problems.at(-1));
      } finally {
        host.hook = undefined;
      }
      table.note(title, step, kind, result);
      if (all) console.log(`${title}: ${step}: ${kind}: ${result} (${((performance.now() - began) / 1000).toFixed(1)} s)`);
    }
  }
  assert.deepEqual(problems, []);
}

const findVmm = (sandboxId: string): ProcessIdentity | undefined => (host.ledger(sandboxId).records.find(({ kind }) => kind === "vmm") as TaggedProcessRecord | undefined)?.identity; // its kind

/** Kills a VMM as soon as there is one. */
async function killVmm(sandboxId: string): Promise<void> {
  signalProcess(await eventually("a VMM", () => findVmm(sandboxId), { timeoutMs: callTimeoutMs, intervalMs: 2 }), "SIGKILL");
}

/** Lets a VM stand still until the caller's time is over and a little more. */
function stall(sandboxId: string, timeMs: number): void {
  const identity = findVmm(sandboxId);
  assert.ok(identity !== undefined && signalProcess(identity, "SIGSTOP"));
  setTimeout(() => signalProcess(identity, "SIGCONT"), timeMs + 500);
}

/** Fails a step once, in that way; says whether it has come to that. `timeMs`: what the caller has. */
function failOnce(sandboxId: string, operation: string, step: string, kind: FailureKind, timeMs: number): { readonly reached: () => boolean } {
  let reached = false;
  const atEnd = kind === "error after" || kind === "time-out" || (kind === "guest reset" && makesVm(step));
  host.hook = async (running, name, phase) => {
    if (reached || name !== step || !running.startsWith(operation) || (phase === "after") !== atEnd) return;
    reached = true;
    if (kind === "time-out") await new Promise(() => { /* until the caller's time is over */ });
    else if (kind === "late answer") stall(sandboxId, timeMs);
    else if (kind === "guest reset") await host.resetGuest(sandboxId);
    else if (kind !== "VMM death") throw new RuntimeError("resource_exhausted", "injected");
    else if (makesVm(step)) void killVmm(sandboxId); // in the middle of it; a kill that fails shows as a start that works
    else await killVmm(sandboxId);
  };
  return { reached: () => reached };
}

function assertFailure(error: unknown, operation: string, kind: FailureKind): void {
  assert.ok(RuntimeError.is(error), `not an error of ours: ${String(error)}`);
  assert.equal(error.code, expectedCodes[kind], describeError(error));
  assert.ok(describeError(error).startsWith(operation), describeError(error));
  if (ends(kind)) assert.equal(error.reason, "vmm_died", describeError(error));
  assert.deepEqual(error.cleanupErrors.map(describeError), []);
}

const failureOf = async (work: Promise<unknown>): Promise<unknown> => work.then(() => undefined, (error: unknown) => error);

/** Tries again with twice the time when it was over before the step came, which a machine with much to do can bring about. */
async function untilReached<T>(timeMs: number, attempt: (timeMs: number) => Promise<{ readonly reached: boolean; readonly result: T }>): Promise<T> {
  for (let time = timeMs; ; time *= 2) {
    const { reached, result } = await attempt(time);
    if (reached) return result;
    if (time >= startTimeoutMs) throw new Error("the step was never reached");
  }
}

/** Nothing of a sandbox is left that an owner would have to give back. */
function assertNothingHeld(sandboxId: string): void {
  assert.deepEqual(host.ledger(sandboxId).records, []);
  for (const helper of ["qemu", "passt", "virtiofsd", "vmm"]) assert.deepEqual(findTaggedProcesses(`${sandboxId}/${helper}`), [], helper);
}

const startConfig: Partial<SandboxConfig> = { shares: true, network: "user", memoryBytes: 1280 * mebibyte, vcpuCount: 2 };

interface StartCase {
  /** What the caller has when its time is to be over. */
  readonly timeMs?: number;
  readonly change?: Partial<SandboxConfig>;
  /** Another way to start follows, unless the caller's time is over. */
  readonly fallsBack?: boolean;
}

/** Fails one step of a start. */
async function failStart(operation: string, step: string, kind: FailureKind, { timeMs = 8_000, change = {}, fallsBack = false }: StartCase = {}): Promise<"clean" | "boots cold"> {
  const goesOn = fallsBack && kind !== "time-out";
  return untilReached(goesOn || !takesTime(kind) ? startTimeoutMs : timeMs, async (timeoutMs) => {
    const sandboxId = `failing-${sandboxes++}`;
    const { reached } = failOnce(sandboxId, operation, step, kind, timeoutMs);
    const outcome: unknown = await host.create(sandboxId, { ...startConfig, ...change }, { timeoutMs }).catch((error: unknown) => error);
    if (goesOn) {
      assert.ok(outcome !== null && typeof outcome === "object" && "sandbox" in outcome, `the start failed: ${describeError(outcome)}`);
      const { sandbox } = outcome as HostedSandbox; // it is no error
      assert.equal(sandbox.vm.startedBy, "cold");
      await sandbox.stop(0);
    } else {
      assertFailure(outcome, `create sandbox "${sandboxId}"`, kind);
    }
    assertNothingHeld(sandboxId);
    return { reached: reached(), result: goesOn ? "boots cold" : "clean" };
  });
}

test("a sandbox's start that fails at any step of what it takes from the host leaves nothing", { skip }, async () => {
  await failEach({ operation: "create sandbox", title: "start a sandbox", steps: takeHostSteps, hasVm: false, attempt: (step, kind) => failStart("create sandbox", step, kind) });
  await failEach({ operation: "set up network", title: "set up its network", steps: networkSteps, hasVm: false, attempt: (step, kind) => failStart("set up network", step, kind) });
});

test("a template that fails at any step costs a cold boot, and a boot that fails leaves nothing", { skip }, async () => {
  // A cold boot takes 10 s: one of each here.
  const some = <T>(steps: readonly T[], at: number): readonly T[] => (all ? steps : steps.slice(at, at + 1));
  await failEach({ operation: "create sandbox", title: "start it from a template", steps: some(restoreGuestSteps, 2), hasVm: true, always: ["VMM death"], others: 0, attempt: (step, kind) => failStart("create sandbox", step, kind, { fallsBack: true }) });
  await failEach({ operation: "create sandbox", title: "boot it", steps: some(bootGuestSteps, 1), hasVm: true, always: ["late answer"], others: 0, attempt: (step, kind) => failStart("create sandbox", step, kind, { timeMs: 20_000, change: { template: undefined } }) });
});

test("a sandbox's start that fails at any step with its guest leaves nothing", { skip }, async () => {
  await failEach({ operation: "create sandbox", title: "equip its guest", steps: equipGuestSteps, hasVm: true, attempt: (step, kind) => failStart("create sandbox", step, kind) });
});

/** What there is of containers in the guest, the VM and the ledger, and of shares on the host. */
async function traces(hosted: HostedSandbox): Promise<string> {
  const { output } = await host.run(hosted, "", "ls /sys/fs/cgroup/containers | grep -v '\\.' ; grep -e casemate/containers -e casemate/images /proc/mounts; ls /sys/class/block | grep '^sd'; ls -d /run/casemate/bundles/* /run/casemate/containers/* 2>/dev/null; ps | grep -c '[s]leep 100000'");
  const { disks } = await hosted.sandbox.vm.describePlugged({ timeoutMs: callTimeoutMs });
  const shared = sandboxPaths(host.folders, hosted.sandbox.config.sandboxId).share;
  // Execs in the guest itself, such as that above, are kept for a while.
  const records = hosted.ledger.records.filter(({ kind }) => kind !== "exec").map(({ kind, name }) => `${kind} ${name}`).toSorted();
  return JSON.stringify([output, disks, existsSync(shared) ? readdirSync(shared, { recursive: true }).toSorted() : [], records, hosted.sandbox.size.memoryBytes]);
}

/** A container that uses all a container can: disks and a share, or a folder of the host as its root. */
async function request(rootOnHost: boolean, resources: OciResources): Promise<ContainerRequest> {
  const plain = await host.request("c1", resources);
  const folder = join(host.folders.data, "shared");
  mkdirSync(join(folder, "bin"), { recursive: true });
  for (const name of ["dev", "proc", "sys", "data"]) mkdirSync(join(folder, name), { recursive: true });
  if (!existsSync(join(folder, "bin/busybox"))) {
    copyFileSync("/bin/busybox", join(folder, "bin/busybox"));
    for (const name of ["sh", "sleep", "true"]) symlinkSync("busybox", join(folder, "bin", name));
  }
  return {
    ...plain,
    ...(rootOnHost && { rootfs: [{ type: "bind", source: folder, options: ["rw"] }] }),
    spec: { ...plain.spec, mounts: [...plain.spec.mounts ?? [], { destination: "/data", type: "bind", source: folder, options: ["rbind", "ro"] }] },
  };
}

interface Life {
  readonly operation: string;
  /** The sandbox was saved before, for which the shared folder was taken from it. */
  readonly afterSave: boolean;
  readonly rootOnHost: boolean;
  /** What the call that is to fail may take. */
  readonly timeoutMs: number;
}

/** Saves the sandbox into files that are forgotten. */
async function save(sandbox: Sandbox, wait: WaitOptions): Promise<void> {
  const stateFd = openSync(join(host.folders.run, "saved-state"), "w", 0o600), memoryFd = createMemoryFile("casemate-test", 0);
  try {
    await sandbox.capture({ stateFd, memoryFd }, async () => { /* no disk is written to */ }, { goOn: true, ...wait });
  } finally {
    for (const fd of [stateFd, memoryFd]) closeSync(fd);
  }
}

/** A container that shows a folder comes and goes: the guest has the shared folder from then on. */
async function showFolder(hosted: HostedSandbox): Promise<void> {
  await hosted.sandbox.createContainer(await request(false, {}), { timeoutMs: callTimeoutMs });
  await host.remove(hosted, "c1");
}

/** A container's life, up to the operation that is to fail. Returns what that failed with. */
async function failureOfLife(hosted: HostedSandbox, { operation, afterSave, rootOnHost, timeoutMs }: Life): Promise<unknown> {
  const { sandbox } = hosted;
  const growing = operation === "grow sandbox";
  const container = await request(rootOnHost, growing ? {} : { memory: { limit: 1200 * mebibyte } });
  if (afterSave) await save(sandbox, { timeoutMs: callTimeoutMs });
  const calls: readonly (readonly [name: string, call: (wait: WaitOptions) => Promise<unknown>])[] = operation === "save sandbox" ? [[operation, (wait) => save(sandbox, wait)]] : [
    ["create container", (wait) => sandbox.createContainer(container, wait)],
    ["start container", (wait) => sandbox.startContainer("c1", wait)],
    ["start exec", (wait) => host.run(hosted, "c1", "true", wait)],
    // More of one and less of the other, so that every step has something to do.
    ["update container", (wait) => sandbox.update("c1", { memory: { limit: 700 * mebibyte }, cpu: { quota: 150_000, period: 100_000 } }, wait)],
    ["grow sandbox", async (wait) => assert.equal(await sandbox.growMemory(wait), true)],
  ];
  for (const [name, call] of calls.filter((one) => !growing || one[0] !== "update container")) {
    if (name === operation) return failureOf(call({ timeoutMs }));
    await call({ timeoutMs: callTimeoutMs });
  }
  return undefined;
}

/** The sandbox that survives, once for all failures that one can survive. */
let survivor: { readonly hosted: HostedSandbox; readonly clean: string } | undefined;

async function makeSurvivor(): Promise<NonNullable<typeof survivor>> {
  const hosted = await host.create(`survivor-${sandboxes++}`, { shares: true });
  return { hosted, clean: await traces(hosted) };
}

async function failInLife(operation: string, step: string, kind: FailureKind, afterSave: boolean): Promise<"clean"> {
  const rootOnHost = step === "share root file system";
  return untilReached(takesTime(kind) ? 8_000 : callTimeoutMs, async (timeoutMs) => {
    if (ends(kind)) {
      const hosted = await host.create(`failing-${sandboxes++}`, { shares: true });
      const { sandboxId } = hosted.sandbox.config;
      const { reached } = failOnce(sandboxId, operation, step, kind, timeoutMs);
      assertFailure(await failureOfLife(hosted, { operation, afterSave, rootOnHost, timeoutMs }), operation, kind);
      await hosted.sandbox.stop();
      assert.equal(hosted.sandbox.state, "stopped");
      assertNothingHeld(sandboxId);
      return { reached: reached(), result: "clean" };
    }
    // vCPUs do not go again: a plug of one needs a sandbox that has had none.
    if (operation === "update container" && step === "make room") await endSurvivor();
    survivor ??= await makeSurvivor();
    const { hosted, clean } = survivor;
    const { reached } = failOnce(hosted.sandbox.config.sandboxId, operation, step, kind, timeoutMs);
    try {
      const error = await failureOfLife(hosted, { operation, afterSave, rootOnHost, timeoutMs });
      host.hook = undefined;
      if (reached()) assertFailure(error, operation, kind);
      if (hosted.sandbox.containers.has("c1")) await host.remove(hosted, "c1");
      if (afterSave || operation === "save sandbox") await showFolder(hosted);
      // The guest lets go of an unplugged disk when it hears of it, which is after QEMU has.
      let left = "";
      await eventually("a clean guest", async () => ((left = await traces(hosted)) === clean ? true : undefined), { timeoutMs: callTimeoutMs, intervalMs: 100 }).catch(() => { assert.equal(left, clean); });
    } catch (error) {
      await endSurvivor(); // what it still holds is not the next one's trouble
      throw error;
    }
    return { reached: reached(), result: "clean" };
  });
}

async function endSurvivor(): Promise<void> {
  await survivor?.hosted.sandbox.stop(0);
  survivor = undefined;
}

for (const [operation, steps, after = ""] of [["create container", createContainerSteps], ["start container", startContainerSteps], ["start exec", execSteps], ["update container", updateSteps], ["grow sandbox", growSteps], ["save sandbox", withdrawSharesSteps], ["create container", serveSharesSteps, " after a save"]] as const) {
  test(`${operation}${after} that fails at any step leaves nothing in the guest, the VM and on the host (D2, D3, D4, D5, D7)`, { skip }, async () => {
    await failEach({ operation, title: `${operation}${after}`, steps, hasVm: true, always: ["error after"], attempt: (step, kind) => failInLife(operation, step, kind, after !== "") });
  });
}
