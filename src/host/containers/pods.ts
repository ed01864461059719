import { closeSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { eventually, type WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { flockExclusive } from "../../shared/linux/flock.ts";
import { ContainerStore, type ContainerRecord, hasProcesses } from "../store/container-store.ts";
import type { StateFolders } from "../store/paths.ts";
import { PodStore, type PodRecord } from "../store/pod-store.ts";
import { isSandboxAlive, readPresentStatus } from "../store/present-status.ts";
import { abandonSandbox, removeContainer, stopContainer } from "./end-container.ts";
import { newSandboxId } from "./names.ts";

/** What a caller says about a new pod. */
export type PodOptions = Pick<PodRecord, "name" | "network" | "ports" | "sharePid" | "ending">;

/** A start of another container in it takes as long as a boot. */
const startLockTimeoutMs = 180_000;

/** Makes a pod on disk; its sandbox starts with its first container. */
export function createPod(folders: StateFolders, options: PodOptions): PodRecord {
  if (options.network === "none" && options.ports.length > 0) throw new RuntimeError("invalid_argument", "ports cannot be published with --network none", { reason: "no_network", hint: "leave out --network none or -p" });
  const pod: PodRecord = { version: 1, sandboxId: newSandboxId(), createdAtUnixMs: Date.now(), ...options };
  new PodStore(folders).create(pod);
  return pod;
}

/** True while the pod's sandbox is up. */
export function podRuns(folders: StateFolders, pod: PodRecord): boolean {
  return isSandboxAlive(folders, pod.sandboxId);
}

/** The containers of a pod, oldest first. */
export function podContainers(folders: StateFolders, pod: PodRecord): ContainerRecord[] {
  return new ContainerStore(folders).list().filter(({ sandboxId }) => sandboxId === pod.sandboxId);
}

/** The container of that name, or one that runs in the pod of that name. @throws RuntimeError `not_found` (reason `container_not_found`). */
export function findInSandbox(folders: StateFolders, name: string): ContainerRecord {
  const store = new ContainerStore(folders);
  try {
    return store.find(name);
  } catch (error) {
    const pod = new PodStore(folders).list().find((one) => one.name === name);
    const running = pod === undefined ? undefined : podContainers(folders, pod).find((record) => hasProcesses(readPresentStatus(store, record).status));
    if (running === undefined) throw error;
    return running;
  }
}

/** One start of a pod's sandbox at a time; who comes second finds it up. */
export async function whileStartingPod<T>(folders: StateFolders, podName: string, work: () => Promise<T>, wait: WaitOptions): Promise<T> {
  const locks = join(folders.run, "pods");
  mkdirSync(locks, { recursive: true, mode: 0o700 });
  const lock = await eventually(`wait for another start in pod "${podName}"`, () => flockExclusive(join(locks, `${podName}.lock`)), { ...wait, timeoutMs: Math.min(wait.timeoutMs ?? Infinity, startLockTimeoutMs), intervalMs: 50 });
  try {
    return await work();
  } finally {
    closeSync(lock);
  }
}

/** Asks the pod's containers to end, side by side, then ends its sandbox. A pod that does not run is fine. */
export async function stopPod(folders: StateFolders, pod: PodRecord, options: { readonly timeoutMs?: number }): Promise<void> {
  const store = new ContainerStore(folders);
  const running = podContainers(folders, pod).filter((record) => hasProcesses(readPresentStatus(store, record).status));
  await Promise.all(running.map(async (record) => {
    try {
      await stopContainer(folders, record, { timeoutMs: options.timeoutMs ?? record.stopTimeoutMs });
    } catch (error) {
      if (!RuntimeError.is(error) || error.reason !== "agent_silent") throw error; // such a guest ends with its VM below
    }
  }));
  const [any] = podContainers(folders, pod);
  await abandonSandbox(folders, any ?? pod);
}

/** Removes a pod with its containers. @throws RuntimeError `failed_precondition` (reason `pod_running`) unless forced. */
export async function removePod(folders: StateFolders, pod: PodRecord, options: { readonly force: boolean }): Promise<void> {
  const store = new ContainerStore(folders);
  const running = podContainers(folders, pod).filter((record) => hasProcesses(readPresentStatus(store, record).status));
  if (running.length > 0 && !options.force) throw new RuntimeError("failed_precondition", `remove pod "${pod.name}": ${running.length} of its containers run`, { reason: "pod_running", hint: `stop it first, or force it with "casemate pod rm -f ${pod.name}"` });
  await abandonSandbox(folders, pod);
  for (const record of podContainers(folders, pod)) await removeContainer(folders, record, { force: true });
  new PodStore(folders).remove(pod.name);
}
