import { closeSync, fstatSync, fsyncSync, openSync } from "node:fs";
import { dirname } from "node:path";
import type { WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { createMemoryFile } from "../../shared/linux/memfd.ts";
import { machineKey } from "../assemble.ts";
import { copyMemory, savedMemoryName } from "../hypervisor/guest-memory.ts";
import { bootMemoryBytes } from "../sandbox/sandbox-config.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";
import type { ContainerStore } from "../store/container-store.ts";
import { snapshotPaths } from "../store/paths.ts";
import { PodStore } from "../store/pod-store.ts";
import { publishSnapshot, removeSnapshot, snapshotMemory, type Snapshot, type SnapshotContainer } from "../template/snapshot-store.ts";
import { holdMemory } from "../template/template-memory.ts";
import { copySparse, syncFiles } from "../template/template-store.ts";

/** How a sandbox is saved. */
export interface CaptureOptions extends WaitOptions {
  readonly name: string;
  /** Write the memory to disk; otherwise a process holds it. */
  readonly keep: boolean;
  readonly goOn: boolean;
}

/** Saves a living sandbox as a snapshot. When a step fails nothing of it is left, and the sandbox goes on. */
export async function captureSandbox(sandbox: Sandbox, store: ContainerStore, options: CaptureOptions): Promise<Snapshot & { readonly touchedBytes: number }> {
  const { name, keep } = options;
  const { folders, accelerator, kernelPath, initramfsPath, rootImagePath, network } = sandbox.config;
  const paths = snapshotPaths(folders, name);
  const memoryFd = createMemoryFile(savedMemoryName, bootMemoryBytes);
  let stands = false;
  try {
    const stateFd = openSync(paths.state, "wx", 0o600);
    const captured = await sandbox.capture({ stateFd, memoryFd }, (diskId, path) => copySparse(path, paths.disk(diskId), options), options).finally(() => closeSync(stateFd));
    stands = !options.goOn;
    if (keep) syncFiles(dirname(paths.state));
    const { size: memoryBytes, blocks } = fstatSync(memoryFd);
    // What is never read from disk needs no check; hashing takes as long as all else that a fork does with the memory.
    const { hash, usedBytes } = keep ? await keepMemory(memoryFd, paths.memory, memoryBytes) : { hash: "", usedBytes: blocks * 512 };
    const containers = captured.containers.flatMap((saved): SnapshotContainer[] => {
      const record = store.read(saved.name);
      const status = captured.statuses.get(saved.name);
      return record === undefined || status === undefined ? [] : [{ saved, record, status: status === "stopped" ? "exited" : status === "creating" ? "created" : status }];
    });
    const podName = containers.find(({ record }) => record.pod !== undefined)?.record.pod;
    const snapshot = publishSnapshot(folders, {
      name, sandboxId: sandbox.config.sandboxId, machineKey: machineKey(accelerator), accelerator, kernelPath, initramfsPath, rootImagePath, network,
      vcpuCount: captured.size.vcpuCount, leastMemoryBytes: sandbox.config.memoryBytes, pluggedBytes: captured.size.memoryBytes - bootMemoryBytes, memoryBytes, memoryHash: hash, memoryUsedBytes: usedBytes, memoryOnDisk: keep,
      plugged: captured.plugged, images: captured.images, containers, ...(podName !== undefined && { pod: new PodStore(folders).find(podName) }), execs: captured.execs, pauseMs: captured.pauseMs,
    });
    await holdMemory(snapshotMemory(folders, snapshot), memoryFd);
    return { ...snapshot, touchedBytes: captured.touchedBytes };
  } catch (error) {
    await removeSnapshot(folders, name);
    if (stands) await sandbox.vm.resume();
    throw RuntimeError.wrap(error, `save snapshot "${name}"`);
  } finally {
    closeSync(memoryFd);
  }
}

async function keepMemory(memoryFd: number, path: string, bytes: number): ReturnType<typeof copyMemory> {
  const file = openSync(path, "wx", 0o400);
  try {
    const copied = await copyMemory(memoryFd, file, bytes);
    fsyncSync(file);
    return copied;
  } finally {
    closeSync(file);
  }
}
