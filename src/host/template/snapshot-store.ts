import { closeSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { syncPath, writeFileAtomic } from "../../shared/linux/atomic-file.ts";
import { flockExclusive, isFlocked } from "../../shared/linux/flock.ts";
import type { DiskSpec, PluggedDevices } from "../hypervisor/virtual-machine.ts";
import type { ContainerRecord } from "../store/container-store.ts";
import { snapshotPaths, type StateFolders } from "../store/paths.ts";
import type { SavedContainer, SavedExec } from "../store/saved-records.ts";
import type { PodRecord } from "../store/pod-store.ts";
import { readStateFile } from "../store/state-file.ts";
import type { SavedMemory } from "./template-memory.ts";
import { releaseMemory } from "./template-memory.ts";
import { hashState } from "./template-store.ts";

/** A container of a snapshot: what the owner knew of it, and what its front end had decided. */
export interface SnapshotContainer {
  readonly saved: SavedContainer;
  readonly record: ContainerRecord;
  readonly status: "created" | "running" | "paused" | "exited";
}

/** A sandbox that was saved while it lived, as snapshot.json says it (docs/files.md). */
export interface Snapshot {
  readonly version: 1;
  readonly name: string;
  readonly createdAtUnixMs: number;
  readonly sandboxId: string;
  /** What the saved VM depends on, hashed (template-key.ts). */
  readonly machineKey: string;
  readonly accelerator: "kvm" | "tcg";
  readonly kernelPath: string;
  readonly initramfsPath: string;
  readonly rootImagePath: string;
  readonly network: "none" | "user";
  readonly vcpuCount: number;
  /** The sandbox never has less than this. Undefined, as in what earlier versions made: no more than a VM boots with. */
  readonly leastMemoryBytes?: number;
  /** Memory it had beyond what a VM boots with; undefined: none. */
  readonly pluggedBytes?: number;
  /** Of the file with the memory. */
  readonly memoryBytes: number;
  /** Empty when the memory is not on disk. */
  readonly memoryHash: string;
  readonly memoryUsedBytes: number;
  /** False: the memory is held by a process alone, for the moments of a fork. */
  readonly memoryOnDisk: boolean;
  readonly stateHash: string;
  readonly plugged: PluggedDevices;
  /** Files of the disks that are only read; the others are in the snapshot's folder. */
  readonly images: readonly (Pick<DiskSpec, "diskId" | "path">)[];
  readonly containers: readonly SnapshotContainer[];
  /** The pod whose sandbox it was; undefined: a container's own. */
  readonly pod?: PodRecord;
  readonly execs: readonly SavedExec[];
  /** How long the sandbox stood still for it. */
  readonly pauseMs: number;
}

/** In a snapshot's folder: held by flock by whoever makes it. */
const lockName = "lock";
const namePattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;

/**
 * Makes the folder of a snapshot to be. Returns the lock that says somebody is at it, to be closed when
 * the snapshot is whole or, of a fork, of no use any more. What others have left half-made is removed.
 * @throws RuntimeError `invalid_argument` (reason `bad_name`), `already_exists` (reason `name_taken`).
 */
export async function claimSnapshot(folders: StateFolders, name: string): Promise<number> {
  if (!namePattern.test(name)) throw new RuntimeError("invalid_argument", `snapshot name "${name}": only letters, digits, "_", "." and "-" are allowed, beginning with a letter or digit`, { reason: "bad_name", hint: "choose another name" });
  const { folder } = snapshotPaths(folders, name);
  const parent = join(folder, "..");
  mkdirSync(parent, { recursive: true, mode: 0o700 });
  await removeAbandoned(folders, parent);
  // Under its name only when it is locked.
  const draft = mkdtempSync(join(parent, ".new-"));
  const lock = flockExclusive(join(draft, lockName));
  try {
    if (lock === undefined) throw new RuntimeError("internal", `make snapshot "${name}": its lock is taken`);
    renameSync(draft, folder);
    return lock;
  } catch (error) {
    if (lock !== undefined) closeSync(lock);
    rmSync(draft, { recursive: true, force: true });
    if (!isErrnoException(error, "ENOTEMPTY") && !isErrnoException(error, "EEXIST")) throw RuntimeError.wrap(error, `make snapshot "${name}"`);
    throw new RuntimeError("already_exists", `snapshot "${name}" exists already`, { reason: "name_taken", hint: `remove it with "casemate snapshot rm ${name}" or choose another name` });
  }
}

/** Removes what was being made, or was made for a fork, by somebody who has died. */
async function removeAbandoned(folders: StateFolders, parent: string): Promise<void> {
  for (const name of readdirSync(parent).filter((one) => namePattern.test(one) && !isFlocked(join(parent, one, lockName)))) {
    const whole = readStateFile(snapshotPaths(folders, name).manifest) as Snapshot | undefined; // written by publishSnapshot alone
    if (whole?.memoryOnDisk !== true) await removeSnapshot(folders, name);
  }
}

/** Writes the manifest, which makes the snapshot one: until then nobody sees it. */
export function publishSnapshot(folders: StateFolders, snapshot: Omit<Snapshot, "version" | "createdAtUnixMs" | "stateHash">): Snapshot {
  const { manifest, state } = snapshotPaths(folders, snapshot.name);
  const whole: Snapshot = { version: 1, createdAtUnixMs: Date.now(), ...snapshot, stateHash: hashState(readFileSync(state)) };
  writeFileAtomic(manifest, JSON.stringify(whole, undefined, 1));
  syncPath(join(folders.data, "snapshots"));
  return whole;
}

/** @throws RuntimeError `not_found` (reason `snapshot_not_found`). */
export function readSnapshot(folders: StateFolders, name: string): Snapshot {
  const snapshot = namePattern.test(name) ? readStateFile(snapshotPaths(folders, name).manifest) as Snapshot | undefined : undefined; // written by publishSnapshot alone
  if (snapshot === undefined) throw new RuntimeError("not_found", `no such snapshot: ${name}`, { reason: "snapshot_not_found", hint: "`casemate snapshot ls` lists them" });
  return snapshot;
}

/** Every snapshot that is whole, the newest first. Those of forks that are under way are not shown. */
export function listSnapshots(folders: StateFolders): Snapshot[] {
  const parent = join(folders.data, "snapshots");
  const names = existsSync(parent) ? readdirSync(parent).filter((name) => namePattern.test(name) && existsSync(snapshotPaths(folders, name).manifest)) : [];
  return names.map((name) => readSnapshot(folders, name)).filter(({ memoryOnDisk }) => memoryOnDisk).sort((a, b) => b.createdAtUnixMs - a.createdAtUnixMs);
}

/** Removes a snapshot's files and lets go of its memory; sandboxes that went on from it have what they need. "Already gone" is success. */
export async function removeSnapshot(folders: StateFolders, name: string): Promise<void> {
  const paths = snapshotPaths(folders, name);
  const doomed = join(folders.data, "snapshots", `.gone-${name}`);
  try {
    renameSync(paths.folder, doomed);
  } catch (error) {
    if (!isErrnoException(error, "ENOENT")) throw error;
  }
  rmSync(doomed, { recursive: true, force: true });
  await releaseMemory(name, paths);
  rmSync(paths.run, { recursive: true, force: true });
}

/** A snapshot's memory, for starting from it. */
export function snapshotMemory(folders: StateFolders, { name, memoryBytes, memoryHash }: Snapshot): SavedMemory {
  return { key: name, memoryBytes, memoryHash, paths: snapshotPaths(folders, name) };
}

/** Bytes on disk. */
export function snapshotDiskBytes(folders: StateFolders, name: string): number {
  const { folder } = snapshotPaths(folders, name);
  return readdirSync(folder).reduce((sum, file) => sum + statSync(join(folder, file)).blocks * 512, 0);
}
