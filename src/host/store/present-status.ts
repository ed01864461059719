import { RuntimeError } from "../../shared/base/errors.ts";
import { isFlocked } from "../../shared/linux/flock.ts";
import { isAlive } from "../../shared/linux/proc.ts";
import { hasProcesses, type ContainerRecord, type ContainerStatus, type ContainerStore } from "./container-store.ts";
import { readBootId } from "./host-facts.ts";
import { Ledger } from "./ledger.ts";
import { containerPaths, sandboxPaths, type StateFolders } from "./paths.ts";
import type { TaggedProcessRecord } from "./tagged-process.ts";

/** Exit code of a container whose sandbox was lost: 128 + SIGKILL. */
export const lostExitCode = 137;
/** Longest time between the lock of the owner that has ended and the lock of what starts the container again: the start of a Node on a loaded machine, or its wait for that lock. */
const restartGraceMs = 5_000;

/**
 * The status of a container as of now: what its owner wrote last. Without an owner (a crash) it goes on
 * as long as its VM does, and the next command for it starts a new owner; without either it is gone.
 * Reads files only.
 */
export function readPresentStatus(store: ContainerStore, record: ContainerRecord): ContainerStatus {
  const status = store.readStatus(record.containerId);
  if (status.status === "restarting") return isRestarting(store.folders, record, status) ? status : { ...status, status: "exited" };
  if (!hasProcesses(status.status)) return status;
  if (status.bootId === readBootId() && isSandboxAlive(store.folders, record.sandboxId)) return status;
  return { ...status, status: "exited", exitCode: lostExitCode, error: "owner_lost" };
}

/** The owner that waits for the restart has its lock, and so has what starts the container again (restart-main.ts), up to the end of the start. */
function isRestarting(folders: StateFolders, { sandboxId, containerId }: ContainerRecord, { bootId, restart }: ContainerStatus): boolean {
  if (bootId !== readBootId() || restart === undefined) return false;
  return isFlocked(sandboxPaths(folders, sandboxId).ownerLock) || isFlocked(containerPaths(folders, containerId).restartLock) || Date.now() < restart.atUnixMs + restartGraceMs;
}

/** True while a sandbox has an owner, or a VM that the next owner will take over. */
export function isSandboxAlive(folders: StateFolders, sandboxId: string): boolean {
  const paths = sandboxPaths(folders, sandboxId);
  return isFlocked(paths.ownerLock) || isVmAlive(paths.ledger);
}

function isVmAlive(ledgerPath: string): boolean {
  try {
    const identity = (Ledger.open(ledgerPath).find("vmm", "vmm") as TaggedProcessRecord | undefined)?.identity; // a VMM's record, by its kind
    return identity !== undefined && isAlive(identity);
  } catch (error) {
    if (!RuntimeError.is(error)) throw error;
    return false; // a ledger that cannot be read: nobody can take that VM over
  }
}
