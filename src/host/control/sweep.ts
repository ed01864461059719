import { renameSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { removeWithVolumes } from "../store/anonymous-volumes.ts";
import { newStatus, type ContainerRecord, type ContainerStatus, type ContainerStore } from "../store/container-store.ts";
import { containerPaths } from "../store/paths.ts";
import { lostExitCode } from "../store/present-status.ts";
import { nextRestart, noRestart } from "../store/restart-policy.ts";
import type { SavedEnd } from "../store/saved-records.ts";
import { setAside } from "../store/state-file.ts";

/** Removes a sandbox's run folder, first out of sight. "Already gone" is success. */
export function removeSandboxFolder(folder: string): void {
  try {
    renameSync(folder, goneFolder(folder));
  } catch (error) {
    if (!isErrnoException(error, "ENOENT")) throw error;
  }
  removeGoneFolder(folder);
}

/** Removes what is left of a run folder whose owner was killed while it removed it. */
export function removeGoneFolder(folder: string): void {
  rmSync(goneFolder(folder), { recursive: true, force: true });
}

/** Where a run folder is once it is out of sight. */
function goneFolder(folder: string): string {
  return join(dirname(folder), `.gone-${basename(folder)}`);
}

/**
 * Marks containers of a sandbox that is gone as exited, or with "restart" as about to be started again where
 * their policy says so, and removes those that were to be removed. `ends`: those that are known, by id.
 */
export function settleLostContainers(store: ContainerStore, sandboxId: string, ends: ReadonlyMap<string, SavedEnd>, then: "stay" | "restart" = "stay"): void {
  for (const record of store.list().filter((candidate) => candidate.sandboxId === sandboxId)) {
    const status = readStatusOrNew(store, record.containerId);
    if (status.status !== "running" && status.status !== "paused") continue;
    const end = ends.get(record.containerId);
    if (record.autoRemove) removeWithVolumes(store, record);
    else store.writeStatus(record.containerId, ended(record, status, end, then));
  }
}

function ended({ settings, stopRequested = false, pod }: ContainerRecord, status: ContainerStatus, end: SavedEnd | undefined, then: "stay" | "restart"): ContainerStatus {
  const how = end === undefined ? { exitCode: lostExitCode, error: "owner_lost", finishedAtUnixMs: Date.now() }
    : { exitCode: end.exitStatus, oomKilled: end.oomKilled, error: end.reason, finishedAtUnixMs: Math.round(Number(end.exitedAtUnixNanos) / 1e6) };
  const run = { exitCode: how.exitCode, ranMs: how.finishedAtUnixMs - status.startedAtUnixMs, stopRequested };
  const restart = then === "stay" || pod !== undefined ? undefined : nextRestart(settings?.restart ?? noRestart, run, status.restart, Date.now());
  return { ...status, ...how, status: restart === undefined ? "exited" : "restarting", ...(restart && { restart }) };
}

/** A status that cannot be read is set aside; its container then counts as running, and so as lost. */
function readStatusOrNew(store: ContainerStore, containerId: string): ContainerStatus {
  try {
    return store.readStatus(containerId);
  } catch (error) {
    if (!RuntimeError.is(error, "data_loss")) throw error;
    setAside(containerPaths(store.folders, containerId).status);
    return { ...newStatus, status: "running" };
  }
}
