import { renameSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { isErrnoException } from "../../shared/base/errors.ts";
import type { ContainerStore } from "../store/container-store.ts";
import { lostExitCode } from "../store/present-status.ts";

/** Removes a sandbox's run folder, first out of sight. "Already gone" is success. */
export function removeSandboxFolder(folder: string): void {
  const doomed = join(dirname(folder), `.gone-${basename(folder)}`);
  try {
    renameSync(folder, doomed);
  } catch (error) {
    if (!isErrnoException(error, "ENOENT")) throw error;
  }
  rmSync(doomed, { recursive: true, force: true });
}

/** Marks containers of a sandbox that is gone as exited, and removes those that were to be removed. */
export function settleLostContainers(store: ContainerStore, sandboxId: string): void {
  for (const record of store.list().filter((candidate) => candidate.sandboxId === sandboxId)) {
    const status = store.readStatus(record.containerId);
    if (status.status !== "running" && status.status !== "paused") continue;
    if (record.autoRemove) store.remove(record);
    else store.writeStatus(record.containerId, { ...status, status: "exited", exitCode: lostExitCode, error: "owner_lost", finishedAtUnixMs: Date.now() });
  }
}
