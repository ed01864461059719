import { isFlocked } from "../../shared/linux/flock.ts";
import type { ContainerRecord, ContainerStatus, ContainerStore } from "./container-store.ts";
import { readBootId } from "./host-facts.ts";
import { sandboxPaths } from "./paths.ts";

/** Exit code of a container whose sandbox was lost: 128 + SIGKILL. */
export const lostExitCode = 137;

/**
 * The status of a container as of now: what its owner wrote last, unless that owner is gone (a crash,
 * a reboot), in which case the container is gone with it. Reads files only.
 */
export function readPresentStatus(store: ContainerStore, record: ContainerRecord): ContainerStatus {
  const status = store.readStatus(record.containerId);
  if (status.status !== "running" && status.status !== "paused") return status;
  if (status.bootId === readBootId() && isFlocked(sandboxPaths(store.folders, record.sandboxId).ownerLock)) return status;
  return { ...status, status: "exited", exitCode: lostExitCode, error: "owner_lost" };
}
