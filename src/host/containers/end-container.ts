import { existsSync } from "node:fs";
import { constants } from "node:os";
import { eventually, orAbandon } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { isFlocked } from "../../shared/linux/flock.ts";
import { connectOwner, type OwnerClient } from "../control/owner-client.ts";
import { doneBefore } from "../control/repeated-calls.ts";
import { ownerToken } from "../control/start-owner.ts";
import { ContainerStore, type ContainerRecord, type ContainerStatus, hasProcesses, isActive } from "../store/container-store.ts";
import { sandboxPaths, type StateFolders } from "../store/paths.ts";
import { lostExitCode, readPresentStatus } from "../store/present-status.ts";
import { endTaggedProcesses, findTaggedProcesses } from "../store/tagged-process.ts";

/** An owner ends its VM politely within 5 s and by force within 5 more; the rest is for a loaded machine. */
const sandboxEndTimeoutMs = 20_000;
/** Time a killed process gets to be gone. */
const killTimeoutMs = 10_000;
const ownerKillGraceMs = 1_000;
/** A sandbox that ends is gone within tens of milliseconds. */
const lookAgainMs = 2;

/** Waits until a sandbox whose container has ended is gone, and cleans up after an owner that died. @throws RuntimeError `deadline_exceeded`. */
export async function untilSandboxGone(folders: StateFolders, sandboxId: string): Promise<void> {
  const { ownerLock } = sandboxPaths(folders, sandboxId);
  // Loaded here: it brings every driver with it, which a call to a living owner does without.
  const { releaseLostSandbox } = await import("../control/lost-sandbox.ts");
  // An owner that its supervisor starts meanwhile has the lock, and ends the sandbox itself.
  await eventually(`wait for the end of sandbox "${sandboxId}"`, async () => (!isFlocked(ownerLock) && await releaseLostSandbox(folders, sandboxId) ? true : undefined), { timeoutMs: sandboxEndTimeoutMs });
  await untilOwnerEnded(sandboxId);
}

/** An owner gives its lock back last of all, and ends then; its supervisor follows. */
async function untilOwnerEnded(sandboxId: string): Promise<void> {
  await eventually(`wait for the end of the owner of sandbox "${sandboxId}"`, () => (findTaggedProcesses(ownerToken(sandboxId)).length === 0 ? true : undefined), { timeoutMs: sandboxEndTimeoutMs, intervalMs: lookAgainMs });
}

/** Waits until a container that removes itself has gone with all of its sandbox: files, owner and supervisor. @throws RuntimeError `deadline_exceeded`. */
export async function untilRemoved(folders: StateFolders, record: ContainerRecord): Promise<void> {
  const { folder, ownerLock } = sandboxPaths(folders, record.sandboxId);
  const store = new ContainerStore(folders);
  await eventually(`wait for the end of sandbox "${record.sandboxId}"`, () => (isFlocked(ownerLock) ? undefined : true), { timeoutMs: sandboxEndTimeoutMs, intervalMs: lookAgainMs });
  // As it should be; otherwise its owner has died, and what it held is given back first.
  await (existsSync(folder) || store.read(record.containerId) !== undefined ? untilSandboxGone(folders, record.sandboxId) : untilOwnerEnded(record.sandboxId));
}

/** Sends a signal to a container's init process; after SIGKILL it has ended when this returns. @throws RuntimeError `failed_precondition` when it does not run. */
export async function signalContainer(folders: StateFolders, record: ContainerRecord, signal: number): Promise<void> {
  requireRunning(folders, record, "send a signal to");
  // docker's rule: these end it, and so no restart follows.
  if (signal === constants.signals.SIGKILL || signal === signalNumber(record.stopSignal)) noteStopRequest(folders, record);
  await withOwner(folders, record, async (client) => signalProcess(client, record.containerId, signal));
  // docker's rule too: what follows may be `rm`.
  if (signal === constants.signals.SIGKILL) await orAbandon(waitForContainer(folders, record), `kill container "${record.name}"`, { timeoutMs: killTimeoutMs });
}

async function signalProcess(client: OwnerClient, id: string, signal: number): Promise<void> {
  await client.call(async ({ task }) => { await task.kill({ id, signal }); }, doneBefore.kill);
}

/** Asks a container to end, and kills it after the time; when this returns its sandbox is gone. A container that does not run is fine. */
export async function stopContainer(folders: StateFolders, record: ContainerRecord, options: { readonly timeoutMs: number; readonly signal?: number }): Promise<void> {
  noteStopRequest(folders, record);
  const { status } = readPresentStatus(new ContainerStore(folders), record);
  // A pod goes on without this container of it.
  const untilGone = async (): Promise<void> => (record.pod === undefined ? untilSandboxGone(folders, record.sandboxId) : undefined);
  if (status === "restarting") return endRestart(folders, record);
  if (status !== "running" && status !== "paused") return untilGone();
  try {
    await withOwner(folders, record, async (client) => {
      const { containerId: id } = record;
      const ended = client.call(({ task }) => task.wait({ id }));
      ended.catch(() => { /* awaited below, unless a call before it fails */ });
      const ask = async (): Promise<void> => {
        if (status === "paused") await client.call(async ({ task }) => { await task.resume({ id }); }, doneBefore.resume);
        await ignoreEnded(signalProcess(client, id, options.signal ?? signalNumber(record.stopSignal)));
        await ended;
      };
      const kill = async (): Promise<void> => {
        await ignoreEnded(signalProcess(client, id, constants.signals.SIGKILL));
        await ended;
      };
      // A guest that does not answer is given no more time than a process that does not end.
      if (await isDone(ask(), "stop", options.timeoutMs)) return;
      if (await isDone(kill(), `kill container "${record.name}"`, killTimeoutMs)) return;
      if (record.pod !== undefined) throw new RuntimeError("deadline_exceeded", `stop container "${record.name}": the guest's agent does not answer`, { reason: "agent_silent", hint: `end its pod with "casemate pod stop ${record.pod}"` });
      await endSandbox(folders, record);
    });
  } catch (error) {
    if (!RuntimeError.is(error, "unavailable")) throw error; // the sandbox ended under us, which was the point
  }
  await untilGone();
}

/** False when it was not done in time. */
async function isDone(work: Promise<void>, what: string, timeoutMs: number): Promise<boolean> {
  try {
    await orAbandon(work, what, { timeoutMs });
    return true;
  } catch (error) {
    if (!RuntimeError.is(error, "deadline_exceeded")) throw error;
    return false;
  }
}

/** Waits for a container's end. Returns its exit code; of one that does not run, the last one. */
export async function waitForContainer(folders: StateFolders, record: ContainerRecord): Promise<number> {
  const store = new ContainerStore(folders);
  const { status, exitCode } = readPresentStatus(store, record);
  if (status !== "running" && status !== "paused") return exitCode;
  try {
    return await withOwner(folders, record, (client) => client.call(async ({ task }) => (await task.wait({ id: record.containerId })).exitStatus));
  } catch (error) {
    if (!RuntimeError.is(error, "unavailable")) throw error;
    return (await lastKnownStatus(folders, record))?.exitCode ?? lostExitCode;
  }
}

/**
 * How a container ended whose sandbox has gone, or is going, without a word: as its owner wrote it, or
 * whoever gave the sandbox back. Undefined: it was to be removed, and has taken its exit code with it.
 */
export async function lastKnownStatus(folders: StateFolders, record: ContainerRecord): Promise<ContainerStatus | undefined> {
  const store = new ContainerStore(folders);
  const find = (): { readonly status: ContainerStatus | undefined } | undefined => {
    if (store.read(record.containerId) === undefined) return { status: undefined };
    const status = readPresentStatus(store, record);
    return hasProcesses(status.status) ? undefined : { status };
  };
  return (await eventually(`wait for the end of container "${record.name}"`, find, { timeoutMs: sandboxEndTimeoutMs })).status;
}

/**
 * Removes a container and everything it holds. With `force` a running one is killed.
 * @throws RuntimeError `failed_precondition` (reason `container_running`).
 */
export async function removeContainer(folders: StateFolders, record: ContainerRecord, options: { readonly force: boolean }): Promise<void> {
  const store = new ContainerStore(folders);
  const { status } = readPresentStatus(store, record);
  if (!options.force && isActive(status)) {
    throw new RuntimeError("failed_precondition", `remove container "${record.name}": it is ${status}`, { reason: "container_running", hint: `stop it first, or force it with "casemate rm -f ${record.name}"` });
  }
  if (record.pod !== undefined) {
    await leavePod(folders, record);
  } else {
    if (options.force) await endSandbox(folders, record);
    await untilSandboxGone(folders, record.sandboxId);
  }
  store.remove(record);
}

/** Ends what waits to start a container again: its owner, or after it a process that sees that it is no longer wanted. */
async function endRestart(folders: StateFolders, record: ContainerRecord): Promise<void> {
  await abandonSandbox(folders, record);
  const store = new ContainerStore(folders);
  const status = store.readStatus(record.containerId);
  if (status.status === "restarting") store.writeStatus(record.containerId, { ...status, status: "exited" });
}

/** Before anything ends: its restart policy is asked at that moment. */
function noteStopRequest(folders: StateFolders, { containerId, settings }: ContainerRecord): void {
  if (settings?.restart !== undefined) new ContainerStore(folders).change(containerId, { stopRequested: true });
}

/** Ends a container of a pod, and takes it out of the pod's sandbox if that is up. */
async function leavePod(folders: StateFolders, record: ContainerRecord): Promise<void> {
  const id = record.containerId;
  try {
    await withOwner(folders, record, async (client) => {
      await ignoreEnded(signalProcess(client, id, constants.signals.SIGKILL));
      await orAbandon(ignoreEnded(client.task.wait({ id })), `kill container "${record.name}"`, { timeoutMs: killTimeoutMs });
      await ignoreEnded(client.task.delete({ id }));
    });
  } catch (error) {
    if (!RuntimeError.is(error, "unavailable")) throw error; // the sandbox is gone, and the container with it
  }
}

/** Ends what there is of a sandbox whose start has failed or was given up; when this returns it is gone. */
export async function abandonSandbox(folders: StateFolders, record: Pick<ContainerRecord, "sandboxId">): Promise<void> {
  await endSandbox(folders, record);
  await untilSandboxGone(folders, record.sandboxId);
}

/** Ends a container's sandbox by force, whatever state its owner is in. */
async function endSandbox(folders: StateFolders, record: Pick<ContainerRecord, "sandboxId">): Promise<void> {
  const { ownerLock } = sandboxPaths(folders, record.sandboxId);
  if (!isFlocked(ownerLock)) return; // what a dead owner held is given back by whoever waits for the end
  try {
    await withOwner(folders, record, async ({ owner }) => owner.stop({ timeoutMs: 0 }, { timeoutMs: sandboxEndTimeoutMs }));
  } catch (error) {
    // An owner that has died, or that ended in order before it could answer.
    if (RuntimeError.is(error, "unavailable") && !isFlocked(ownerLock)) return;
    // One that does not answer is ended; what it held is in its ledger.
    await endTaggedProcesses({ kind: "owner", name: "owner", token: ownerToken(record.sandboxId), identity: undefined }, ownerKillGraceMs);
  }
}

/** @throws RuntimeError `failed_precondition` (reason `container_not_running`). */
export function requireRunning(folders: StateFolders, record: ContainerRecord, what: string): void {
  const { status } = readPresentStatus(new ContainerStore(folders), record);
  if (status === "restarting") throw new RuntimeError("failed_precondition", `${what} container "${record.name}": it is restarting`, { reason: "container_not_running", hint: "wait until it runs, or stop it" });
  if (status !== "running" && status !== "paused") throw new RuntimeError("failed_precondition", `${what} container "${record.name}": it is not running`, { reason: "container_not_running", hint: `start it with "casemate start ${record.name}"` });
}

/** Runs work with a connection to the container's owner. */
export async function withOwner<T>(folders: StateFolders, record: Pick<ContainerRecord, "sandboxId">, work: (client: OwnerClient) => Promise<T>): Promise<T> {
  const client = await connectOwner(folders, record.sandboxId);
  try {
    return await work(client);
  } finally {
    client.close();
  }
}

/** The number of a signal: `SIGTERM`, `term`, `15`, `RTMIN+3`. @throws RuntimeError `invalid_argument`. */
export function signalNumber(text: string): number {
  const name = text.toUpperCase().replace(/^SIG/, "");
  const realTime = /^RTM(IN|AX)(?:([+-])(\d+))?$/.exec(name);
  const number = /^\d+$/.test(name) ? Number(name)
    : realTime === null ? (constants.signals as Readonly<Record<string, number>>)[`SIG${name}`] ?? NaN
      : (realTime[1] === "IN" ? rtMin : rtMax) + Number(`${realTime[2] ?? "+"}${realTime[3] ?? "0"}`);
  if (!Number.isInteger(number) || number < 1 || number > rtMax) throw new RuntimeError("invalid_argument", `signal "${text}": no such signal`, { reason: "bad_signal", hint: "for example TERM, SIGHUP or 9" });
  return number;
}

/** glibc's first and last real-time signals; signal(7). */
const rtMin = 34, rtMax = 64;

/** A process that ended between our look and our call is as good as one that took the signal. */
async function ignoreEnded(call: Promise<unknown>): Promise<void> {
  try {
    await call;
  } catch (error) {
    if (!RuntimeError.is(error, "not_found")) throw error;
  }
}
