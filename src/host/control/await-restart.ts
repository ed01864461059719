import { setTimeout as delay } from "node:timers/promises";
import { join } from "node:path";
import type { Logger } from "../../shared/base/log.ts";
import { cleanEnvironment, startProcess } from "../../shared/linux/run-process.ts";
import { packageNode, packageRoot } from "../config/package-root.ts";
import type { ContainerRecord, ContainerStore } from "../store/container-store.ts";
import { nextRestart, noRestart } from "../store/restart-policy.ts";

/** What the starter needs to know (restart-main.ts). */
export interface RestartRequest {
  readonly folders: ContainerStore["folders"];
  readonly containerId: string;
  readonly debug: boolean;
}

/** The container of a sandbox that has ended which is to be started again; waits until it is due. Undefined: there is none, or it was asked to stay as it is meanwhile. */
export async function awaitRestart(store: ContainerStore, sandboxId: string, signal: AbortSignal): Promise<ContainerRecord | undefined> {
  const record = store.list().find((one) => one.sandboxId === sandboxId && store.readStatus(one.containerId).status === "restarting");
  if (record === undefined) return undefined;
  const { restart } = store.readStatus(record.containerId);
  await delay(Math.max(0, (restart?.atUnixMs ?? 0) - Date.now()), undefined, { signal }).catch(() => undefined);
  return stillWanted(store, record.containerId, signal);
}

/** Told to stop, removed, or with another policy by now: it has ended for good. */
export function stillWanted(store: ContainerStore, containerId: string, signal?: AbortSignal): ContainerRecord | undefined {
  const record = store.read(containerId);
  if (record === undefined) return undefined;
  const status = store.readStatus(containerId);
  if (status.status !== "restarting") return undefined;
  const { name } = record.settings?.restart ?? noRestart;
  if (signal?.aborted !== true && record.stopRequested !== true && name !== "no") return record;
  store.writeStatus(containerId, { ...status, status: "exited" });
  return undefined;
}

/** A start that failed is a run that failed: the policy says whether there is another one. */
export function noteFailedRestart(store: ContainerStore, containerId: string, error: string): void {
  const record = store.read(containerId);
  const status = store.readStatus(containerId);
  if (record === undefined || status.status !== "restarting") return; // removed, or started by somebody else meanwhile
  const { settings, stopRequested = false } = record;
  const restart = nextRestart(settings?.restart ?? noRestart, { exitCode: notStartedExitCode, ranMs: 0, stopRequested }, status.restart, Date.now());
  store.writeStatus(containerId, { ...status, error: `not started again: ${error}`, ...(restart === undefined ? { status: "exited", exitCode: notStartedExitCode } : { restart }) });
}

/** docker's exit code of a container that could not be started. */
const notStartedExitCode = 128;

/** Starts a container again, by a process of its own that ends when the next owner is there: it does what `casemate start` does. */
export async function launchRestart({ containerId }: ContainerRecord, { folders }: ContainerStore, debug: boolean, log: Logger): Promise<void> {
  const request: RestartRequest = { folders, containerId, debug };
  log.info("starting the container again", { containerId });
  const starter = await startProcess(packageNode(), [join(packageRoot(), "dist/restart.js"), JSON.stringify(request)], { stdio: ["ignore", "ignore", "ignore"], cwd: "/", env: cleanEnvironment() });
  starter.child.unref();
}
