import type { ContainerRecord } from "../store/container-store.ts";
import type { StateFolders } from "../store/paths.ts";
import { requireRunning, withOwner } from "./end-container.ts";

/** What stands still: the processes of one container, or with `sandbox` the whole VM it is in. */
export interface PauseOptions {
  readonly sandbox: boolean;
}

/** Makes a container stand still. @throws RuntimeError `failed_precondition` unless it runs. */
export async function pauseContainer(folders: StateFolders, record: ContainerRecord, { sandbox }: PauseOptions): Promise<void> {
  requireRunning(folders, record, "pause");
  await withOwner(folders, record, async ({ task, owner }) => (sandbox ? owner.pauseSandbox({}) : task.pause({ id: record.containerId })));
}

/** Lets it go on. @throws RuntimeError `failed_precondition` unless it is paused. */
export async function unpauseContainer(folders: StateFolders, record: ContainerRecord, { sandbox }: PauseOptions): Promise<void> {
  requireRunning(folders, record, "unpause");
  await withOwner(folders, record, async ({ task, owner }) => (sandbox ? owner.resumeSandbox({}) : task.resume({ id: record.containerId })));
}
