import { closeSync, mkdirSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Duplex, Readable } from "node:stream";
import { orAbandon, type WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError, type ErrorCode, isErrnoException } from "../../shared/base/errors.ts";
import { startProcess, type ManagedProcess, type StartOptions } from "../../shared/linux/run-process.ts";
import { writeFileAtomic } from "../../shared/linux/atomic-file.ts";
import { packageNode, packageRoot } from "../config/package-root.ts";
import type { SandboxConfig } from "../sandbox/sandbox-config.ts";
import { sandboxPaths, type StateFolders } from "../store/paths.ts";
import { taggedEnvironment } from "../store/tagged-process.ts";
import { loadOwnerProtocol } from "./owner-protocol.ts";
import { tracingEnvironment } from "./tracing.ts";

/** What the owner says while it starts its sandbox, a line each; the last one is the ready line. */
interface OwnerLine {
  /** It takes calls, which wait for the sandbox. */
  readonly serving?: true;
  readonly ready?: true;
  readonly warnings?: readonly string[];
  readonly error?: { readonly code: ErrorCode; readonly message: string; readonly reason?: string; readonly hint?: string };
}

/** An owner that has loaded its program and waits to be told that its sandbox is known. */
interface OwnerAhead {
  readonly folders: StateFolders;
  readonly sandboxId: string;
  /** Takes the word, and gives the ready line. */
  readonly line: Duplex;
}

let ahead: OwnerAhead | undefined;

/** Options of {@link startOwner}. */
export interface StartOwnerOptions extends WaitOptions {
  /** Called when the owner takes calls: those for containers wait until the sandbox is up. */
  readonly onServing?: () => void;
}

/** How much of a dead owner's log goes into the error. */
const logTailBytes = 2_000;

/**
 * Starts the owner of a new sandbox, detached, under its supervisor, and waits until the sandbox is
 * up. Returns what the user should be warned of.
 * @throws RuntimeError what kept the sandbox from starting, with the guest's last console lines.
 */
export async function startOwner(config: SandboxConfig, options: StartOwnerOptions): Promise<readonly string[]> {
  const paths = sandboxPaths(config.folders, config.sandboxId);
  const waiting = takeOwnerAhead(config);
  if (waiting === undefined) claimFolder(paths.folder, config.sandboxId);
  try {
    writeFileAtomic(paths.state, JSON.stringify(config, undefined, 1), undefined, { durable: false }); // as short-lived as its folder
    const line = waiting?.line ?? await launchFirstOwner(config.folders, config.sandboxId);
    try {
      line.on("error", () => undefined); // what it means is seen by reading
      line.write("go\n");
      await loadOwnerProtocol(); // it is needed next, and the owner loads its own program meanwhile
      return await orAbandon(readReadyLine(line, paths.ownerLog, options.onServing), `start sandbox "${config.sandboxId}"`, options);
    } finally {
      line.destroy();
    }
  } catch (error) {
    // An owner that failed has removed the folder itself; one that is still starting goes on and is stopped by whoever finds it.
    throw RuntimeError.is(error) ? error : RuntimeError.wrap(error, `start owner of sandbox "${config.sandboxId}"`);
  }
}

/**
 * Starts the owner of a sandbox before anything is known of it but its id: loading its program takes as long as
 * whatever the caller still has to do. {@link startOwner} goes on from there. An owner that is never told
 * to start ends with this program, and takes the sandbox's folder with it.
 */
export async function startOwnerAhead(folders: StateFolders, sandboxId: string): Promise<void> {
  claimFolder(sandboxPaths(folders, sandboxId).folder, sandboxId);
  ahead = { folders, sandboxId, line: await launchFirstOwner(folders, sandboxId) };
}

/** The id of the sandbox in these folders whose owner was started ahead. */
export function sandboxIdAhead(folders: StateFolders): string | undefined {
  return ahead?.folders.run === folders.run ? ahead.sandboxId : undefined;
}

/** Lets an owner that was started ahead go. */
export function dropOwnerAhead(): void {
  ahead?.line.destroy();
  ahead = undefined;
}

function takeOwnerAhead({ folders, sandboxId }: SandboxConfig): OwnerAhead | undefined {
  if (ahead?.sandboxId !== sandboxId || ahead.folders.run !== folders.run) return undefined;
  const taken = ahead;
  ahead = undefined;
  return taken;
}

async function launchFirstOwner(folders: StateFolders, sandboxId: string): Promise<Duplex> {
  const { folder, ownerLog } = sandboxPaths(folders, sandboxId);
  const log = openSync(ownerLog, "a", 0o600);
  try {
    const supervisor = await launchSupervisor(sandboxId, [folder, "waits"], ["ignore", log, log, "pipe"]);
    return supervisor.child.stdio[3] as Duplex; // a socket, as Node makes pipes
  } finally {
    closeSync(log);
  }
}

/** What marks a sandbox's supervisor and owner among the host's processes. */
export function ownerToken(sandboxId: string): string {
  return `${sandboxId}/owner`;
}

/** Starts a further owner of a sandbox whose owner has died, under a supervisor. It goes on where the dead one was. */
export async function launchOwner(folders: StateFolders, sandboxId: string): Promise<void> {
  const paths = sandboxPaths(folders, sandboxId);
  const log = openSync(paths.ownerLog, "a", 0o600);
  try {
    await launchSupervisor(sandboxId, [paths.folder, "again"], ["ignore", log, log]);
  } finally {
    closeSync(log);
  }
}

async function launchSupervisor(sandboxId: string, args: readonly string[], stdio: StartOptions["stdio"]): Promise<ManagedProcess> {
  const root = packageRoot();
  const supervisor = await startProcess(join(root, "bin/owner-supervisor"), [packageNode(), join(root, "dist/owner.cjs"), ...args], {
    stdio, cwd: "/", env: { ...taggedEnvironment(ownerToken(sandboxId)), ...tracingEnvironment(process.env) },
  });
  supervisor.child.unref();
  return supervisor;
}

function claimFolder(folder: string, sandboxId: string): void {
  try {
    mkdirSync(join(folder, ".."), { recursive: true, mode: 0o711 });
    mkdirSync(folder, { mode: 0o711 }); // helpers with other uids pass through; every file in it is 0600
  } catch (error) {
    if (isErrnoException(error, "EEXIST")) throw new RuntimeError("already_exists", `sandbox "${sandboxId}" exists already`);
    throw RuntimeError.wrap(error, `make the run folder of sandbox "${sandboxId}"`);
  }
}

async function readReadyLine(stream: Readable, ownerLog: string, onServing?: () => void): Promise<readonly string[]> {
  let text = "";
  for await (const chunk of stream) {
    const lines = (text + String(chunk)).split("\n");
    text = lines.pop() ?? "";
    for (const { serving, warnings, error } of lines.map((line) => JSON.parse(line) as OwnerLine)) { // written by owner-main.ts of the same package
      if (error !== undefined) throw new RuntimeError(error.code, error.message, { reason: error.reason, hint: error.hint });
      if (serving !== true) return warnings ?? [];
      onServing?.();
    }
  }
  throw new RuntimeError("unavailable", `the owner ended before the sandbox was up: ${readTail(ownerLog)}`, { reason: "owner_died", hint: "try again; if it stays, the end of the owner's log above says why" });
}

function readTail(path: string): string {
  try {
    return readFileSync(path, "utf8").slice(-logTailBytes).trim();
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return "no log";
    throw error;
  }
}

