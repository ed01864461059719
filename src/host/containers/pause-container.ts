import { RuntimeError } from "../../shared/base/errors.ts";
import { ContainerStore, type ContainerRecord } from "../store/container-store.ts";
import type { StateFolders } from "../store/paths.ts";
import { readPresentStatus } from "../store/present-status.ts";
import { requireRunning, withOwner } from "./end-container.ts";

/** What stands still: the processes of one container, or with `sandbox` the whole VM it is in. */
export interface PauseOptions {
  readonly sandbox: boolean;
}

/** Makes a container stand still. @throws RuntimeError `failed_precondition` unless it runs. */
export async function pauseContainer(folders: StateFolders, record: ContainerRecord, { sandbox }: PauseOptions): Promise<void> {
  requireRunning(folders, record, "pause");
  await namingPaused(folders, record, "pause", () => withOwner(folders, record, async ({ task, owner }) => (sandbox ? owner.pauseSandbox({}) : task.pause({ id: record.containerId }))));
}

/** Lets it go on. @throws RuntimeError `failed_precondition` unless it is paused. */
export async function unpauseContainer(folders: StateFolders, record: ContainerRecord, { sandbox }: PauseOptions): Promise<void> {
  requireRunning(folders, record, "unpause");
  await namingPaused(folders, record, "unpause", () => withOwner(folders, record, async ({ task, owner }) => (sandbox ? owner.resumeSandbox({}) : task.resume({ id: record.containerId }))));
}

/** Does what needs a container to be paused, or not to be. A refusal is worded with the name people know it by, and with what to do. */
export async function namingPaused<T>(folders: StateFolders, record: ContainerRecord, what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!RuntimeError.is(error, "failed_precondition") || (error.reason !== "wrong_state" && error.reason !== "sandbox_paused")) throw error;
    throw describeRefusal(record.name, what, error.reason, readPresentStatus(new ContainerStore(folders), record).status);
  }
}

/** The refusal in a user's words; `status` is the container's. */
export function describeRefusal(name: string, what: string, reason: "wrong_state" | "sandbox_paused", status: string): RuntimeError {
  const step = `${what} container "${name}"`;
  if (reason === "sandbox_paused") return new RuntimeError("failed_precondition", `${step}: its whole VM is paused`, { reason, hint: `let it go on with "casemate unpause --sandbox ${name}"` });
  if (status === "paused") return new RuntimeError("failed_precondition", `${step}: it is paused`, { reason, hint: `let it go on with "casemate unpause ${name}"` });
  return new RuntimeError("failed_precondition", `${step}: it is ${status}${what === "unpause" ? ", not paused" : ""}`, { reason });
}
