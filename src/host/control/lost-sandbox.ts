import { closeSync } from "node:fs";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { flockExclusive } from "../../shared/linux/flock.ts";
import { releasers } from "../assemble.ts";
import { ContainerStore } from "../store/container-store.ts";
import { Ledger } from "../store/ledger.ts";
import { sandboxPaths, type StateFolders } from "../store/paths.ts";
import { removeSandboxFolder, settleLostContainers } from "./sweep.ts";

/**
 * Gives back everything a sandbox held whose owner is gone, and marks its containers as ended. Does
 * nothing while an owner lives. "Already gone" is success.
 * @throws RuntimeError `internal` naming what could not be given back.
 */
export async function releaseLostSandbox(folders: StateFolders, sandboxId: string): Promise<void> {
  const lock = lockOwner(sandboxPaths(folders, sandboxId).ownerLock);
  if (lock === "held") return;
  if (lock === undefined) {
    settleLostContainers(new ContainerStore(folders), sandboxId);
    return;
  }
  const [failure] = await releaseHeld(folders, sandboxId);
  closeSync(lock);
  if (failure !== undefined) throw new RuntimeError("internal", `clean up after sandbox "${sandboxId}"`, { cause: failure });
}

/** The same for a caller that has the owner's lock. Returns what could not be given back. */
export async function releaseHeld(folders: StateFolders, sandboxId: string): Promise<unknown[]> {
  const paths = sandboxPaths(folders, sandboxId);
  const failures = await Ledger.open(paths.ledger).releaseAll(releasers);
  settleLostContainers(new ContainerStore(folders), sandboxId);
  removeSandboxFolder(paths.folder);
  return failures;
}

function lockOwner(path: string): number | "held" | undefined {
  try {
    return flockExclusive(path) ?? "held";
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return undefined; // the folder is gone: a reboot, or a sandbox that ended in order
    throw error;
  }
}
