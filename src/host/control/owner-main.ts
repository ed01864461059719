// The owner of one sandbox: node owner.cjs SANDBOX_FOLDER [waits | again]. The first one makes the sandbox, as soon
// as it is told to if it "waits"; one that comes after it ("again") takes over what is there. Descriptor 3,
// when open, gives that word, and takes one line of JSON as soon as the sandbox is up or has failed
// (docs/files.md, "ready line").
import { closeSync, existsSync, fstatSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { RuntimeError, codeOf, describeError, isErrnoException } from "../../shared/base/errors.ts";
import { Logger } from "../../shared/base/log.ts";
import { flockExclusive } from "../../shared/linux/flock.ts";
import { drivers, loadAgentClient } from "../assemble.ts";
import { Sandbox, type SandboxContext, type SandboxEvent } from "../sandbox/sandbox.ts";
import { defaultStartTimeoutMs, type SandboxConfig } from "../sandbox/sandbox-config.ts";
import { ContainerStore } from "../store/container-store.ts";
import { readBootId } from "../store/host-facts.ts";
import type { Ledger } from "../store/ledger.ts";
import { sandboxOfFolder, sandboxPaths } from "../store/paths.ts";
import { savedSandbox, type SandboxRecord } from "../store/saved-records.ts";
import { readStateFile, setAside } from "../store/state-file.ts";
import { awaitRestart, launchRestart } from "./await-restart.ts";
import { Owner } from "./owner.ts";
import { openLedger, releaseHeld, releaseLostSandbox } from "./lost-sandbox.ts";
import { StartPlace } from "./start-place.ts";
import { removeSandboxFolder } from "./sweep.ts";
import { startTracing } from "./tracing.ts";

/** Time a sandbox gets to end politely when its owner is told to. */
const stopTimeoutMs = 12_000;
const readyFd = 3;
/** Of the word to start: "go" and a line's end. */
const goBytes = 3;

/** A sandbox whose first container does not start within that time after it is up counts as started. */
const firstStartMs = 1_000;
/** Longest time to take a sandbox over. A guest answers in milliseconds; a busy one on a busy host, with a call under way in it, may take half a minute. */
const adoptTimeoutMs = 90_000;
/** The owner's own exit codes: 0 tells the supervisor not to start another. */
const exitTryAgain = 1;

async function main(folder: string, mode: string | undefined): Promise<number> {
  const again = mode === "again";
  if (mode === "waits" && !awaitWord(folder)) return 0;
  const config = readConfig(folder);
  if (config === undefined) return giveBackUnknown(folder);
  const paths = sandboxPaths(config.folders, config.sandboxId);
  const log = new Logger({ level: config.debug ? "debug" : "info", fields: { sandboxId: config.sandboxId } });
  const lock = lockOwner(paths.ownerLock);
  if (lock === undefined) return 0; // somebody else's, or gone
  const ledger = openLedger(config.folders, config.sandboxId, log);
  const record = adoptableSandbox(ledger);
  const store = new ContainerStore(config.folders);
  if (record === undefined && (again || ledger.records.length > 0)) {
    log.info("an owner died while the sandbox came up or went down; giving back what it held");
    await release(config, log);
    return restartDue(store, config, new AbortController().signal, log, () => closeSync(lock));
  }
  const starting = Promise.withResolvers<Sandbox>();
  const giveUp = new AbortController();
  const owner = new Owner(starting.promise, giveUp, store, log, { sandboxId: config.sandboxId, adopting: record !== undefined, timings: config.timings ?? false });
  const tracing = await startTracing(process.env, config.sandboxId, log);
  if (tracing !== undefined) owner.stepTimes.forward(tracing);
  const context = { drivers, ledger, log: tracing === undefined ? log : log.with({ traceId: tracing.traceId }), observer: owner.stepTimes, onEvent: owner.onEvent, recordEnd: owner.recordEnd };
  process.on("SIGTERM", () => void owner.stop(stopTimeoutMs));
  const making = record === undefined ? createInTurn(config, context, giveUp.signal) : Sandbox.adopt(config, context, record, { timeoutMs: adoptTimeoutMs, signal: giveUp.signal });
  making.catch(() => { /* awaited below */ });
  const server = await serveMeanwhile(owner, paths.ownerSocket).catch(async (error: unknown) => {
    giveUp.abort(error);
    await making.then((sandbox) => sandbox.stop(0), () => undefined);
    throw error;
  });
  if (record === undefined) say({ serving: true });
  try {
    const sandbox = await making;
    starting.resolve(sandbox);
    if (config.clone !== undefined && record === undefined) await owner.noteClone();
    if (record !== undefined) log.info("sandbox taken over", { containers: sandbox.containers.size });
    else greetStarter(owner, sandbox);
    await owner.finished;
  } catch (error) {
    starting.reject(error);
    if (record === undefined) reportFailure(error, log);
    else if (!await giveUpAdoption(error, config, giveUp.signal.aborted, log)) return exitTryAgain;
  }
  await tracing?.close();
  await setImmediate(); // whoever has asked for the end has its answer first
  return restartDue(store, config, owner.restartSignal, log, () => {
    server.close();
    removeSandboxFolder(paths.folder);
    closeSync(lock);
  });
}

/** Makes the sandbox when the machine has a CPU for it, and lets the next start in when its first container runs. */
async function createInTurn(config: SandboxConfig, context: SandboxContext, signal: AbortSignal): Promise<Sandbox> {
  const place = await StartPlace.take(config.folders, signal);
  const onEvent = (event: SandboxEvent): void => {
    if (event.action === "start") place.leave();
    context.onEvent(event);
  };
  try {
    const sandbox = await Sandbox.create(config, { ...context, onEvent }, { timeoutMs: config.startTimeoutMs ?? defaultStartTimeoutMs, signal });
    setTimeout(() => place.leave(), firstStartMs).unref();
    return sandbox;
  } catch (error) {
    place.leave();
    throw error;
  }
}

/** The last thing an owner does: it waits until the container is to be started again, if it is, lets the sandbox go, and starts it. */
async function restartDue(store: ContainerStore, { sandboxId, debug }: SandboxConfig, signal: AbortSignal, log: Logger, leave: () => void): Promise<number> {
  const record = await awaitRestart(store, sandboxId, signal);
  leave();
  if (record !== undefined) await launchRestart(record, store, debug, log);
  return 0;
}

/** Waits until the sandbox is known. False: whoever started us has gone instead, or has no use for it. */
function awaitWord(folder: string): boolean {
  // Held meanwhile: without it the folder is a dead owner's.
  const { folders, sandboxId } = sandboxOfFolder(folder);
  const lock = lockOwner(sandboxPaths(folders, sandboxId).ownerLock);
  if (lock === undefined) return false;
  const told = readSync(readyFd, Buffer.alloc(goBytes)) > 0;
  if (!told) removeSandboxFolder(folder);
  closeSync(lock);
  return told;
}

/** The configuration start-owner.ts has written. One that cannot be read is set aside. */
function readConfig(folder: string): SandboxConfig | undefined {
  const path = join(folder, "sandbox.json");
  try {
    return readStateFile(path) as SandboxConfig | undefined; // written by start-owner.ts, which checked it
  } catch (error) {
    if (!RuntimeError.is(error, "data_loss")) throw error;
    console.error(`${describeError(error)}; kept as ${setAside(path)}`);
    return undefined;
  }
}

/** Without its configuration nobody can go on with a sandbox; what it holds is in the ledger. */
async function giveBackUnknown(folder: string): Promise<number> {
  const { folders, sandboxId } = sandboxOfFolder(folder);
  await releaseLostSandbox(folders, sandboxId);
  return 0;
}

function lockOwner(path: string): number | undefined {
  try {
    return flockExclusive(path);
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return undefined; // its folder was removed since we were started
    throw error;
  }
}

/** The sandbox's record, when its VM can still be there and is to stay. */
function adoptableSandbox(ledger: Ledger): SandboxRecord | undefined {
  try {
    const record = savedSandbox(ledger);
    return record?.phase === "running" && ledger.bootId === readBootId() ? record : undefined;
  } catch (error) {
    if (!RuntimeError.is(error, "data_loss")) throw error;
    return undefined;
  }
}

/** What cannot be taken over is given back; false: it may work another time. */
async function giveUpAdoption(error: unknown, config: SandboxConfig, stopped: boolean, log: Logger): Promise<boolean> {
  log.error("sandbox not taken over", { error: describeError(error) });
  const hopeless = stopped || RuntimeError.is(error, "data_loss") || (RuntimeError.is(error) && error.reason === "vmm_died");
  if (hopeless) await release(config, log);
  return hopeless;
}

async function release(config: SandboxConfig, log: Logger): Promise<void> {
  for (const failure of await releaseHeld(config.folders, config.sandboxId, "restart")) log.error("not released", { error: describeError(failure) });
}

function greetStarter(owner: Owner, sandbox: Sandbox): void {
  for (const warning of sandbox.warnings) owner.log.warn(warning);
  // Whoever started us was killed while the sandbox came up: nobody knows of it.
  if (announce({ ready: true, warnings: sandbox.warnings }) === "unheard") void owner.finish(0);
}

function reportFailure(error: unknown, log: Logger): void {
  const failures = RuntimeError.is(error) ? error.cleanupErrors : [];
  log.error("sandbox not started", { error: describeError(error), cleanupErrors: failures.map(describeError) });
  announce({ error: { code: codeOf(error), message: describeError(error), reason: RuntimeError.is(error) ? error.reason : undefined, hint: RuntimeError.is(error) ? error.hint : undefined } });
}

/** Loads the services, and what the agent will be asked with, while QEMU starts: nothing that is needed until then. */
async function serveMeanwhile(owner: Owner, socketPath: string): Promise<{ close(): void }> {
  await setImmediate(); // QEMU is on its way
  const { serve } = await import("./owner-server.ts");
  const server = serve(owner, socketPath);
  await loadAgentClient();
  return server;
}

/** The last that the process which started the owner is told. */
function announce(line: object): "told" | "unheard" | "nobody" {
  const told = say(line);
  if (told === "told") closeSync(readyFd);
  return told;
}

/** Tells the process that started the owner how it goes. A restarted owner has nobody to tell; `unheard`: whoever there was has gone. */
function say(line: object): "told" | "unheard" | "nobody" {
  try {
    if (!fstatSync(readyFd).isFIFO() && !fstatSync(readyFd).isSocket()) return "nobody";
    writeSync(readyFd, JSON.stringify(line) + "\n");
    return "told";
  } catch (error) {
    return isErrnoException(error, "EPIPE") ? "unheard" : "nobody"; // EBADF: started again by the supervisor
  }
}

const [, , folder, mode] = process.argv;
if (folder === undefined || !existsSync(folder)) {
  console.error("usage: owner SANDBOX_FOLDER [waits | again]");
  process.exit(2);
}
process.exit(await main(folder, mode));
