import { closeSync } from "node:fs";
import { RuntimeError, describeError, isErrnoException } from "../../shared/base/errors.ts";
import { silentLogger, type Logger } from "../../shared/base/log.ts";
import { flockExclusive } from "../../shared/linux/flock.ts";
import { signalProcess } from "../../shared/linux/proc.ts";
import { plannedRecords, releasers } from "../assemble.ts";
import { ContainerStore } from "../store/container-store.ts";
import { readBootId } from "../store/host-facts.ts";
import { Ledger, type ResourceRecord } from "../store/ledger.ts";
import { sandboxPaths, type StateFolders } from "../store/paths.ts";
import { savedContainers, type SavedEnd } from "../store/saved-records.ts";
import { setAside } from "../store/state-file.ts";
import { findTaggedProcesses } from "../store/tagged-process.ts";
import { ownerToken } from "./start-owner.ts";
import { removeGoneFolder, removeSandboxFolder, settleLostContainers } from "./sweep.ts";

/**
 * Gives back everything a sandbox held whose owner is gone, and marks its containers as ended. False
 * while an owner lives: then nothing is done. "Already gone" is success.
 * @throws RuntimeError `internal` naming what could not be given back.
 */
export async function releaseLostSandbox(folders: StateFolders, sandboxId: string): Promise<boolean> {
  const paths = sandboxPaths(folders, sandboxId);
  const lock = lockOwner(paths.ownerLock);
  if (lock === "held") return false;
  if (lock === undefined) {
    removeGoneFolder(paths.folder);
    settleLostContainers(new ContainerStore(folders), sandboxId, new Map());
    return true;
  }
  let failure: unknown;
  try {
    endSupervisors(sandboxId);
    [failure] = await releaseHeld(folders, sandboxId);
  } finally {
    closeSync(lock);
  }
  if (failure !== undefined) throw new RuntimeError("internal", `clean up after sandbox "${sandboxId}"`, { cause: failure });
  return true;
}

/**
 * A sandbox's ledger. One that cannot be read is set aside, and what it named is worked out from the
 * sandbox's configuration: every name of ours derives from the id.
 */
export function openLedger(folders: StateFolders, sandboxId: string, log: Logger = silentLogger): Ledger {
  const { ledger } = sandboxPaths(folders, sandboxId);
  try {
    return Ledger.open(ledger);
  } catch (error) {
    if (!RuntimeError.is(error, "data_loss")) throw error;
    log.error("ledger set aside", { error: describeError(error), path: setAside(ledger) });
    const rebuilt = Ledger.open(ledger);
    rebuilt.reserve(plannedRecords(folders, sandboxId));
    return rebuilt;
  }
}

/** The same for a caller that has the owner's lock; "restart": which starts again what its policy says. Returns what could not be given back. */
export async function releaseHeld(folders: StateFolders, sandboxId: string, then: "stay" | "restart" = "stay"): Promise<unknown[]> {
  const paths = sandboxPaths(folders, sandboxId);
  const ledger = openLedger(folders, sandboxId);
  if (ledger.bootId !== "" && ledger.bootId !== readBootId()) forgetProcesses(ledger);
  const ends = savedEnds(ledger);
  const failures = await ledger.releaseAll(releasers);
  settleLostContainers(new ContainerStore(folders), sandboxId, ends, then);
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

/**
 * Ends the supervisors of a sandbox that has no owner: the next owner of one would meet a sandbox of the
 * same id that is made meanwhile.
 */
function endSupervisors(sandboxId: string): void {
  for (const identity of findTaggedProcesses(ownerToken(sandboxId))) {
    if (identity.pid !== process.pid && identity.pid !== process.ppid) signalProcess(identity, "SIGKILL");
  }
}

/** Another boot of the host has taken all processes along; their numbers may be others' by now. */
function forgetProcesses(ledger: Ledger): void {
  for (const record of ledger.records) if ("identity" in record) ledger.note({ ...record, identity: undefined } as ResourceRecord); // the rest of it unchanged
}

/** The ends that are known of a sandbox's containers, by id. */
function savedEnds(ledger: Ledger): Map<string, SavedEnd> {
  try {
    return new Map(savedContainers(ledger).flatMap(({ name, end }) => (end === undefined ? [] : [[name, end]])));
  } catch (error) {
    if (!RuntimeError.is(error, "data_loss")) throw error;
    return new Map(); // then they count as lost
  }
}
