import { RuntimeError } from "../../shared/base/errors.ts";
import { defaultStartTimeoutMs } from "../sandbox/sandbox-config.ts";
import { ContainerStore, type ContainerRecord, isActive } from "../store/container-store.ts";
import type { StateFolders } from "../store/paths.ts";
import { readPresentStatus } from "../store/present-status.ts";
import { noRestart, startsAtBoot } from "../store/restart-policy.ts";
import { stopContainer } from "./end-container.ts";
import { noteStart, startDetached } from "./start-container.ts";

/** Calls back for each container that was done, or could not be. */
export type BootReport = (record: ContainerRecord, error: unknown) => void;

/** Starts the containers that ran before the host went down, as their restart policies say; one after the other. */
export async function startBootContainers(folders: StateFolders, debug: boolean, report: BootReport): Promise<void> {
  const store = new ContainerStore(folders);
  for (const record of store.list().filter((one) => isDue(store, one))) {
    try {
      noteStart(folders, record);
      await startDetached(record, folders, { startTimeoutMs: defaultStartTimeoutMs, debug });
      report(record, undefined);
    } catch (error) {
      report(record, RuntimeError.wrap(error, `start container "${record.name}"`));
    }
  }
}

function isDue(store: ContainerStore, record: ContainerRecord): boolean {
  const { status, exitCode, startedAtUnixMs, restart } = readPresentStatus(store, record);
  // One that was never started is not, either.
  return status === "exited" && startedAtUnixMs > 0 && startsAtBoot(record.settings?.restart ?? noRestart, { exitCode, stopRequested: record.stopRequested ?? false }, restart);
}

/** Stops every container in order because the host goes down; what starts at boot still does. */
export async function stopForShutdown(folders: StateFolders, report: BootReport): Promise<void> {
  const store = new ContainerStore(folders);
  const running = store.list().filter((record) => isActive(readPresentStatus(store, record).status));
  await Promise.all(running.map(async (record) => {
    try {
      await stopContainer(folders, record, { timeoutMs: record.stopTimeoutMs });
      if (record.settings?.restart !== undefined) store.change(record.containerId, { stopRequested: record.stopRequested ?? false });
      report(record, undefined);
    } catch (error) {
      report(record, RuntimeError.wrap(error, `stop container "${record.name}"`));
    }
  }));
}
