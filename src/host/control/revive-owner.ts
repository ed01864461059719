import { closeSync, existsSync } from "node:fs";
import type { Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { flockExclusive, isFlocked } from "../../shared/linux/flock.ts";
import { connectUnix } from "../../shared/linux/unix-socket.ts";
import { sandboxPaths, type StateFolders } from "../store/paths.ts";
import { findTaggedProcesses } from "../store/tagged-process.ts";
import { launchOwner, ownerToken } from "./start-owner.ts";

/** An owner listens 0.3 s after its start; the rest is for a loaded machine. */
const reviveTimeoutMs = 20_000;
/** A supervisor starts the next owner within this time; then its owner has died too often, and we do it. */
const supervisorTimeMs = 2_000;
const pollMs = 20;

/**
 * Connects to the next owner of a sandbox whose owner has died: the one its supervisor starts, else one
 * that is started here.
 * @throws RuntimeError `unavailable` (reason `no_owner`) when the sandbox is gone, or no owner comes up.
 */
export async function reviveOwner(folders: StateFolders, sandboxId: string): Promise<Socket> {
  const { ownerSocket, ownerLock, state } = sandboxPaths(folders, sandboxId);
  const began = performance.now();
  let startAtMs = began + (findTaggedProcesses(ownerToken(sandboxId)).length > 0 ? supervisorTimeMs : 0);
  let cause: unknown;
  while (performance.now() - began < reviveTimeoutMs && existsSync(state)) {
    try {
      return await connectUnix(ownerSocket);
    } catch (error) {
      cause = error;
    }
    if (performance.now() >= startAtMs && !isFlocked(ownerLock)) {
      await startOnce(folders, sandboxId);
      startAtMs = performance.now() + supervisorTimeMs;
    }
    await delay(pollMs);
  }
  throw new RuntimeError("unavailable", `connect to the owner of sandbox "${sandboxId}"`, { cause, reason: "no_owner" });
}

/** Starts an owner unless another caller is about to. The owner's own lock decides in the end; this only spares the machine. */
async function startOnce(folders: StateFolders, sandboxId: string): Promise<void> {
  const { starterLock, ownerSocket, state } = sandboxPaths(folders, sandboxId);
  let lock: number | undefined;
  try {
    lock = flockExclusive(starterLock);
    if (lock === undefined) return;
    await launchOwner(folders, sandboxId);
    for (const end = performance.now() + supervisorTimeMs; performance.now() < end && existsSync(state);) {
      if (await listens(ownerSocket)) return;
      await delay(pollMs);
    }
  } catch (error) {
    if (!isErrnoException(error, "ENOENT")) throw error; // the sandbox has gone meanwhile
  } finally {
    if (lock !== undefined) closeSync(lock);
  }
}

async function listens(path: string): Promise<boolean> {
  try {
    (await connectUnix(path)).destroy();
    return true;
  } catch {
    return false; // not yet
  }
}
