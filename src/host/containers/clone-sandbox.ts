import { closeSync } from "node:fs";
import { randomBytes } from "node:crypto";
import type { WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { withUndo } from "../../shared/base/undo.ts";
import { machineKey } from "../assemble.ts";
import { startOwner } from "../control/start-owner.ts";
import { bootMemoryBytes, type SandboxClone, type SandboxConfig } from "../sandbox/sandbox-config.ts";
import { ContainerStore, type ContainerRecord, type PublishRequest } from "../store/container-store.ts";
import { readBootId } from "../store/host-facts.ts";
import { PodStore, requirePodName, type PodRecord } from "../store/pod-store.ts";
import { containerPaths, snapshotPaths, type StateFolders } from "../store/paths.ts";
import { execRecordName, type SavedContainer, type SavedExec } from "../store/saved-records.ts";
import { claimSnapshot, readSnapshot, removeSnapshot, type Snapshot, type SnapshotContainer } from "../template/snapshot-store.ts";
import { copySparse } from "../template/template-store.ts";
import { buildSpec } from "./build-spec.ts";
import { runCloneCommand } from "./clone-command.ts";
import { abandonSandbox, requireRunning, withOwner } from "./end-container.ts";
import { whileStartingPod } from "./pods.ts";
import { defaultHostname, newContainerId, newContainerName, newSandboxId } from "./names.ts";

/** What a sandbox that goes on from a snapshot is given. */
export interface CloneOptions extends WaitOptions {
  /** Of the container, or of a pod, whose containers then have it before their own names. Default: made up. */
  readonly name?: string | undefined;
  /** `same`: the host ports of the snapshot, which must be free; `free`: any free one for each. */
  readonly ports: "same" | "free";
  /** The caller takes a lease when it has got the sandbox; without one the sandbox ends. Default: it lives on. */
  readonly leaseExpected?: boolean;
  readonly debug: boolean;
}

/** What {@link forkSandbox} is asked for. */
export interface ForkOptions extends Omit<CloneOptions, "ports"> {
  readonly count: number;
  /** Called with each copy as soon as it runs, before the next is made. */
  readonly onCopy?: (record: ContainerRecord) => Promise<void>;
}

/** What a snapshot is made with. */
export interface SnapshotOptions extends WaitOptions {
  readonly name: string;
  /** End the sandbox when it is saved. */
  readonly stop: boolean;
}

/** Saves the sandbox of a running container, which is that of its whole pod, under a name. @throws RuntimeError `already_exists`, `failed_precondition` (reasons `container_not_running`, `shares_in_use`). */
export async function createSnapshot(folders: StateFolders, record: ContainerRecord, { name, stop, ...wait }: SnapshotOptions): Promise<Snapshot> {
  requireRunning(folders, record, "save");
  const lock = await claimSnapshot(folders, name);
  try {
    await capture(folders, record, { name, keep: true, stop }, wait);
    return readSnapshot(folders, name);
  } finally {
    closeSync(lock);
  }
}

/** What {@link forkSandbox} has made. */
export interface Fork {
  readonly containers: readonly ContainerRecord[];
  /** How long the parent stood still. */
  readonly pauseMs: number;
}

/** Makes live copies of a running container's sandbox, which is that of its whole pod; it goes on. It is saved once, whatever the count. */
export async function forkSandbox(folders: StateFolders, record: ContainerRecord, { count, name, onCopy, ...options }: ForkOptions): Promise<Fork> {
  requireRunning(folders, record, "fork");
  const snapshotName = `fork-${randomBytes(8).toString("hex")}`;
  const lock = await claimSnapshot(folders, snapshotName);
  try {
    await capture(folders, record, { name: snapshotName, keep: false, stop: false }, options);
    const snapshot = readSnapshot(folders, snapshotName);
    const containers: ContainerRecord[] = [];
    for (let index = 0; index < count; index++) {
      const copies = await cloneSandbox(folders, snapshot, { ...options, ports: "free", name: name === undefined || count === 1 ? name : `${name}-${index + 1}` });
      containers.push(...copies);
      for (const copy of copies) await onCopy?.(copy);
    }
    return { containers, pauseMs: snapshot.pauseMs };
  } finally {
    // The copies have what they need of it.
    await removeSnapshot(folders, snapshotName);
    closeSync(lock);
  }
}

/** Starts a sandbox that goes on where the snapshot was taken. When that fails nothing of it is left. */
export async function cloneSandbox(folders: StateFolders, snapshot: Snapshot, options: CloneOptions): Promise<ContainerRecord[]> {
  if (snapshot.machineKey !== machineKey(snapshot.accelerator)) throw new RuntimeError("failed_precondition", `start from snapshot "${snapshot.name}": it was made with another QEMU, CPU or kernel of this host`, { reason: "snapshot_of_another_host", hint: "make the snapshot anew" });
  const sandboxId = newSandboxId();
  const name = options.name ?? newContainerName();
  const pod = snapshot.pod === undefined ? undefined : { ...snapshot.pod, name, sandboxId, createdAtUnixMs: Date.now(), ports: portsOf(snapshot.pod, options) };
  if (pod === undefined) return startClone(folders, snapshot, { sandboxId, name }, options);
  requirePodName(name);
  // It is seen from the moment that it has a name: nobody else may start it.
  return whileStartingPod(folders, name, async () => withUndo(async (undo) => {
    const pods = new PodStore(folders);
    pods.create(pod);
    undo.add(`pod "${name}"`, () => pods.remove(name));
    return startClone(folders, snapshot, { sandboxId, name, pod }, options);
  }), options);
}

/** What a copy is called, and the pod that it becomes. */
interface CloneNames {
  readonly sandboxId: string;
  readonly name: string;
  readonly pod?: PodRecord;
}

async function startClone(folders: StateFolders, snapshot: Snapshot, names: CloneNames, options: CloneOptions): Promise<ContainerRecord[]> {
  const store = new ContainerStore(folders);
  return withUndo(async (undo) => {
    const disks = new Map(snapshot.images.map(({ diskId, path }) => [diskId, path]));
    const clones: { readonly from: SnapshotContainer; readonly record: ContainerRecord }[] = [];
    for (const from of snapshot.containers) {
      const record = toRecord(from.record, snapshot.pod, names, options);
      store.create(record, buildSpec(record, names.pod));
      undo.add(`container "${record.name}"`, () => store.remove(record));
      const { disk } = containerPaths(folders, record.containerId);
      for (const { diskId } of from.saved.disks.filter((one) => !disks.has(one.diskId))) {
        await copySparse(snapshotPaths(folders, snapshot.name).disk(diskId), disk, options);
        disks.set(diskId, disk);
      }
      clones.push({ from, record });
    }
    for (const { from, record } of clones) store.writeStatus(record.containerId, { ...store.readStatus(record.containerId), status: from.status, startedAtUnixMs: Date.now(), bootId: readBootId() });
    await startOwner(configOf(folders, snapshot, names, clones, disks, options), options);
    undo.add(`sandbox "${names.sandboxId}"`, () => abandonSandbox(folders, names));
    for (const { from, record } of clones) if (from.status === "running") await runCloneCommand(folders, record, options);
    return clones.map(({ record }) => record);
  });
}

async function capture(folders: StateFolders, record: ContainerRecord, request: { readonly name: string; readonly keep: boolean; readonly stop: boolean }, wait: WaitOptions): Promise<void> {
  try {
    await withOwner(folders, record, async ({ owner }) => owner.capture(request, wait));
  } catch (error) {
    await removeSnapshot(folders, request.name);
    throw error;
  }
}

function toRecord(record: ContainerRecord, from: PodRecord | undefined, { sandboxId, name, pod }: CloneNames, options: CloneOptions): ContainerRecord {
  const containerId = newContainerId();
  return {
    ...record, containerId, sandboxId, createdAtUnixMs: Date.now(),
    // A copy of a copy has but one pod's name before its own.
    ...(pod === undefined || from === undefined ? { name } : { name: `${name}-${record.name.startsWith(`${from.name}-`) ? record.name.slice(from.name.length + 1) : record.name}`, pod: name }),
    hostname: record.hostname === defaultHostname(record.containerId) ? defaultHostname(containerId) : record.hostname,
    ports: portsOf(record, options),
  };
}

function portsOf({ ports }: { readonly ports: readonly PublishRequest[] }, options: CloneOptions): readonly PublishRequest[] {
  return options.ports === "free" ? ports.map((port) => ({ ...port, hostPorts: undefined })) : ports;
}

function configOf(folders: StateFolders, snapshot: Snapshot, { sandboxId, pod }: CloneNames, clones: readonly { readonly from: SnapshotContainer; readonly record: ContainerRecord }[], disks: ReadonlyMap<string, string>, { debug, leaseExpected }: CloneOptions): SandboxConfig {
  const { accelerator, kernelPath, initramfsPath, rootImagePath, leastMemoryBytes = bootMemoryBytes, pluggedBytes = 0, vcpuCount, network } = snapshot;
  const [first] = clones;
  const ids = new Map(clones.map(({ from, record }) => [from.saved.name, record.containerId]));
  const clone: SandboxClone = {
    snapshot: snapshot.name,
    disks: [...disks].map(([diskId, path]) => ({ diskId, path })),
    pluggedBytes,
    containerIds: Object.fromEntries(ids),
    records: [...clones.map(({ from, record }) => toSavedContainer(folders, from.saved, record, disks)), ...snapshot.execs.flatMap((exec) => toSavedExec(exec, ids))],
    ...(leaseExpected !== undefined && { leaseExpected }),
  };
  return {
    version: 1, sandboxId, folders, hostname: pod?.name ?? first?.record.hostname ?? "casemate", accelerator, kernelPath, initramfsPath, rootImagePath, memoryBytes: leastMemoryBytes, vcpuCount,
    shares: false, network, ports: pod?.ports ?? clones.flatMap(({ record }) => record.ports), ...(pod !== undefined && { ending: pod.ending }), clone, debug,
  };
}

function toSavedContainer(folders: StateFolders, saved: SavedContainer, record: ContainerRecord, disks: ReadonlyMap<string, string>): SavedContainer {
  const { folder, log } = containerPaths(folders, record.containerId);
  return {
    ...saved, name: record.containerId, bundle: folder,
    disks: saved.disks.map(({ diskId, path }) => ({ diskId, path: disks.get(diskId) ?? path })),
    io: { ...saved.io, logPath: saved.io.logPath === "" ? "" : log },
    backing: { ...saved.backing, containerFolder: saved.backing.containerFolder === "" ? "" : folder, autoRemove: record.autoRemove },
  };
}

/** Nobody is attached to a clone's execs, so what they print is dropped when nobody comes. */
function toSavedExec(exec: SavedExec, ids: ReadonlyMap<string, string>): SavedExec[] {
  const containerId = exec.containerId === "" ? "" : ids.get(exec.containerId);
  return containerId === undefined ? [] : [{ ...exec, containerId, name: execRecordName(containerId, exec.execId) }];
}
