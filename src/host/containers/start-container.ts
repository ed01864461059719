import { Deadline, type WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { Accelerator } from "../hypervisor/virtual-machine.ts";
import { verifyGuestImage, type GuestImage } from "../guest-image/guest-image.ts";
import { prepareVolumeSource } from "../storage/shares/parse-volume.ts";
import { ensureWritableLayer } from "../storage/writable-layer.ts";
import { connectOwner, type OwnerClient } from "../control/owner-client.ts";
import { doneBefore } from "../control/repeated-calls.ts";
import { EarlyCall } from "../control/early-call.ts";
import { startOwner, type StartOwnerOptions } from "../control/start-owner.ts";
import { bootMemoryBytes, sandboxMemoryBytes, type SandboxConfig } from "../sandbox/sandbox-config.ts";
import { ContainerStore, type ContainerRecord, hasProcesses, processUser } from "../store/container-store.ts";
import { containerPaths, isRootful, type StateFolders } from "../store/paths.ts";
import { PodStore } from "../store/pod-store.ts";
import { readPresentStatus } from "../store/present-status.ts";
import { abandonSandbox, untilSandboxGone } from "./end-container.ts";
import { writeEtcFiles } from "./etc-files.ts";
import { podRuns, whileStartingPod } from "./pods.ts";
import { prepareHost } from "./prepare-host.ts";
import { notePreparable, preparable, takePrepared } from "./prepared-image.ts";

/** Longest making of a container in a sandbox that is up. */
export const createTimeoutMs = 60_000;
/** An owner that dies each time has a reason; its log is in the error. */
const maxStarts = 3;

/** What every start on this host has in common. */
export interface HostSetup {
  readonly folders: StateFolders;
  readonly guestImage: GuestImage;
  readonly accelerator: Accelerator;
  /** Key of the template to start from; undefined: boot cold. */
  readonly template: string | undefined;
  /** Longest start of a sandbox, up to its agent's answer. */
  readonly startTimeoutMs: number;
  readonly debug: boolean;
  /** Ask the guest too where the time of the start goes. Default false. */
  readonly timings?: boolean;
}

/** A container that is made in its VM and waits for its start. */
export interface PreparedContainer {
  readonly client: OwnerClient;
  readonly warnings: readonly string[];
}

/** How the caller will use the container's stdio. */
export interface StdioPlan {
  /** A client attaches and may send input. */
  readonly stdin: boolean;
  readonly terminalSize?: { readonly rows: number; readonly columns: number };
}

/** Options of {@link prepareContainer}. */
export interface PrepareOptions extends WaitOptions {
  /** Called when the sandbox is up, before the container is made in it. */
  readonly onConnected?: (client: OwnerClient) => Promise<void>;
}

/** Boots a sandbox for the container and makes the container in it. Its process waits for `task.start`. */
export async function prepareContainer(record: ContainerRecord, setup: HostSetup, stdio: StdioPlan, options: PrepareOptions): Promise<PreparedContainer> {
  const { folders } = setup;
  const status = readPresentStatus(new ContainerStore(folders), record);
  if (hasProcesses(status.status)) throw new RuntimeError("failed_precondition", `start container "${record.name}": it is ${status.status}`, { reason: "wrong_state" });
  if (status.status === "exited" && record.pod === undefined) await untilSandboxGone(folders, record.sandboxId);
  for (const volume of record.volumes) prepareVolumeSource(volume); // before anything starts: the commonest mistake
  const deadline = Deadline.after(options.timeoutMs);
  const remaining = (): WaitOptions => ({ timeoutMs: deadline.remainingMs, ...(options.signal && { signal: options.signal }) });
  const disk = containerPaths(folders, record.containerId).disk;
  const create = (client: OwnerClient): Promise<void> => createByOwner(client, folders, record, stdio, disk, remaining());
  using early = new EarlyCall(folders, record.sandboxId, create);
  const warnings = record.pod === undefined ? await startOwnSandbox(record, setup, stdio, disk, { ...remaining(), onServing: () => early.make() }) : await joinPod(record, record.pod, setup, disk, remaining());
  const called = await early.take();
  const client = called?.client ?? await connectOwner(folders, record.sandboxId);
  try {
    await options.onConnected?.(client);
    let answer = called?.answer;
    await client.call(async () => {
      const present = answer ?? create(client);
      answer = undefined; // an owner that has died meanwhile does not give it any more
      await present;
    }, doneBefore.create);
    if (record.settings !== undefined) await writeEtcFiles(client, record);
    return { client, warnings };
  } catch (error) {
    await giveUpStart(client, record);
    client.close();
    throw error;
  }
}

async function createByOwner({ task }: OwnerClient, folders: StateFolders, record: ContainerRecord, stdio: StdioPlan, disk: string, wait: WaitOptions): Promise<void> {
  const { packCreateOptions } = await import("../control/create-options.ts"); // with the descriptors that connecting has loaded
  const { folder } = containerPaths(folders, record.containerId);
  await task.create({
    id: record.containerId,
    bundle: folder,
    rootfs: [...record.rootfs.map(({ path, fsType }) => ({ type: fsType, source: path, options: ["ro"] })), { type: "ext4", source: disk, options: ["rw"] }],
    terminal: record.terminal,
    options: packCreateOptions({
      user: processUser(record),
      createCwd: true,
      stdin: stdio.stdin,
      ...(stdio.terminalSize && { terminalSize: { ...stdio.terminalSize } }),
      containerFolder: folder,
      autoRemove: record.autoRemove,
      lastOneOut: record.pod === undefined,
      guestEtcFiles: true,
      init: record.init === "init",
      idle: record.init === "idle",
      timeoutMs: BigInt(record.settings?.timeoutMs ?? 0),
      noLog: record.settings?.logging?.driver === "none",
      logMaxFileBytes: BigInt(record.settings?.logging?.maxFileBytes ?? 0),
      logMaxFiles: record.settings?.logging?.maxFiles ?? 0,
    }),
  }, wait);
}

/** Starts a container that nobody watches. */
export async function startDetached(record: ContainerRecord, folders: StateFolders, options: { readonly startTimeoutMs: number; readonly debug: boolean }): Promise<void> {
  const { startTimeoutMs, debug } = options;
  const { setup } = await prepareHost(folders, { startTimeoutMs, debug, coldBoot: record.coldBoot, onProgress: () => undefined });
  const { client } = await prepareContainer(record, setup, { stdin: record.openStdin }, { timeoutMs: startTimeoutMs + createTimeoutMs });
  try {
    await client.call(async ({ task }) => { await task.start({ id: record.containerId }); }, doneBefore.start);
  } catch (error) {
    await giveUpStart(client, record);
    throw error;
  } finally {
    client.close();
  }
}

/** Somebody starts a container: what was asked of it before counts no more, and its restarts are counted anew. */
export function noteStart(folders: StateFolders, { containerId, stopRequested }: ContainerRecord): void {
  const store = new ContainerStore(folders);
  if (stopRequested === true) store.change(containerId, { stopRequested: false });
  const status = store.readStatus(containerId);
  if (status.restart !== undefined) store.writeStatus(containerId, { ...status, restart: undefined });
}

/** Ends what a start that failed has left: the sandbox, or in a pod the container. */
export async function giveUpStart(client: OwnerClient, record: ContainerRecord): Promise<void> {
  const work = record.pod === undefined ? client.owner.stop({ timeoutMs: 0 }) : client.task.delete({ id: record.containerId });
  await work.catch(() => { /* the first error is what the user needs; the owner logs its own */ });
}

/** Starts the container's own sandbox, from a template with the very same container if there is one. */
async function startOwnSandbox(record: ContainerRecord, setup: HostSetup, stdio: StdioPlan, disk: string, wait: StartOwnerOptions): Promise<readonly string[]> {
  const like = preparable(record, setup, stdio.stdin);
  const prepared = like === undefined ? undefined : await takePrepared(record, setup, like);
  const config = sandboxConfig(record, setup);
  const warnings = await startWithDisk(record, setup, like !== undefined && prepared !== undefined ? { ...config, template: like.key, prepared } : config, disk, wait);
  if (like !== undefined && prepared === undefined) await notePreparable(record, setup, stdio.stdin, like);
  return warnings;
}

/** Starts the pod's sandbox unless it is up; a former run of the container leaves it. */
async function joinPod(record: ContainerRecord, podName: string, setup: HostSetup, disk: string, wait: WaitOptions): Promise<readonly string[]> {
  const pod = new PodStore(setup.folders).find(podName);
  const warnings = await whileStartingPod(setup.folders, podName, async () => {
    if (podRuns(setup.folders, pod)) return [];
    return startSandbox(record, setup, sandboxConfig(record, setup), wait);
  }, wait);
  await ensureWritableLayer(setup.folders, disk, wait);
  const client = await connectOwner(setup.folders, record.sandboxId);
  try {
    await client.task.delete({ id: record.containerId });
  } catch (error) {
    if (!RuntimeError.is(error, "not_found")) throw error;
  } finally {
    client.close();
  }
  return warnings;
}

/** Side by side: the disk is small work, the boot is long. Nothing is asked of the owner before the disk is there. */
async function startWithDisk(record: ContainerRecord, setup: HostSetup, config: SandboxConfig, disk: string, wait: StartOwnerOptions): Promise<readonly string[]> {
  const noDisk = new AbortController();
  const signal = AbortSignal.any([noDisk.signal, ...(wait.signal === undefined ? [] : [wait.signal])]);
  const makingLayer = ensureWritableLayer(setup.folders, disk, wait).catch((error: unknown) => {
    noDisk.abort(error);
    throw error;
  });
  const onServing = (): void => void makingLayer.then(wait.onServing, () => { /* told below */ });
  const [layer, start] = await Promise.allSettled([makingLayer, startSandbox(record, setup, config, { ...wait, signal, onServing })]);
  if (layer.status === "rejected") throw layer.reason;
  if (start.status === "rejected") throw start.reason;
  return start.value;
}

/** Failures of a start that a guest image which is not what it was can cause. */
const guestFailures: readonly (string | undefined)[] = ["vmm_died", "agent_silent"];

/** Starts the owner, again when it dies on the way; when that fails, nothing of the sandbox is left when the error arrives. */
async function startSandbox(record: ContainerRecord, setup: HostSetup, config: SandboxConfig, wait: StartOwnerOptions, starts = 1): Promise<readonly string[]> {
  try {
    return await startOwner(config, wait);
  } catch (error) {
    await abandonSandbox(setup.folders, record);
    if (RuntimeError.is(error) && error.reason === "owner_died" && starts < maxStarts) return startSandbox(record, setup, config, wait, starts + 1);
    // Hashing takes a second, so nobody does it before a start; afterwards it may be the whole answer.
    if (RuntimeError.is(error) && guestFailures.includes(error.reason)) verifyGuestImage(setup.guestImage, error);
    throw error;
  }
}

/** The highest number in a list such as `0-1,3`; -1: none. */
function highestCpu(cpuset: string): number {
  return Math.max(-1, ...cpuset.split(/[,-]/).filter((part) => part !== "").map(Number));
}

function sandboxConfig(record: ContainerRecord, setup: HostSetup): SandboxConfig {
  const { guestImage } = setup;
  const pod = record.pod === undefined ? undefined : new PodStore(setup.folders).find(record.pod);
  return {
    version: 1,
    sandboxId: record.sandboxId,
    folders: setup.folders,
    hostname: pod?.name ?? record.hostname,
    accelerator: setup.accelerator,
    kernelPath: guestImage.kernelPath,
    initramfsPath: guestImage.initramfsPath,
    rootImagePath: guestImage.rootImagePath,
    // A pod grows with each container, and any of them may bring volumes.
    memoryBytes: pod === undefined ? sandboxMemoryBytes(record.memoryBytes) : bootMemoryBytes,
    vcpuCount: pod === undefined ? Math.max(1, Math.ceil(record.cpus), highestCpu(record.settings?.cpuset ?? "") + 1) : 1,
    shares: pod === undefined ? record.volumes.length > 0 : isRootful(),
    ...(pod !== undefined && { ending: pod.ending }),
    network: record.network,
    ports: pod?.ports ?? record.ports,
    template: setup.template,
    startTimeoutMs: setup.startTimeoutMs,
    debug: setup.debug,
    ...(setup.timings === true && { timings: true }),
  };
}
