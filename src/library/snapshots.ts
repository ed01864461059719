import { cloneSandbox, createSnapshot, forkSandbox } from "../host/containers/clone-sandbox.ts";
import type { ContainerRecord } from "../host/store/container-store.ts";
import { stateFolders, type StateFolders } from "../host/store/paths.ts";
import { listSnapshots, readSnapshot, removeSnapshot, type Snapshot } from "../host/template/snapshot-store.ts";
import { SandboxConnection } from "./connection.ts";
import { killSandbox } from "./end-sandbox.ts";
import type { CallOptions, CloneOptions, PlaceOptions } from "./options.ts";

/**
 * What is known of a snapshot.
 *
 * @example
 * for (const { name, createdAt } of await Sandbox.snapshots()) console.log(name, createdAt.toISOString());
 */
export interface SnapshotInfo {
  readonly name: string;
  readonly createdAt: Date;
  /** Names of the containers in it. */
  readonly containers: readonly string[];
  /** How long the sandbox stood still for it, in milliseconds. */
  readonly pauseMs: number;
}

/** @internal Saves a sandbox under a name. */
export async function snapshotSandbox(connection: SandboxConnection, name: string, options: { readonly stop?: boolean } & CallOptions): Promise<SnapshotInfo> {
  const { stop = false, signal, timeoutMs } = options;
  return toInfo(await connection.use(() => createSnapshot(connection.folders, connection.record, { name, stop, signal, timeoutMs })));
}

/** @internal Goes on from a snapshot. */
export async function restoreSandbox(name: string, options: CloneOptions): Promise<SandboxConnection> {
  const folders = stateFolders(options.root);
  const [record] = await cloneSandbox(folders, readSnapshot(folders, name), { ...cloneOptions(options), ports: "free" });
  if (record === undefined) throw new Error(`snapshot "${name}" has no container`); // none is made without
  return open(folders, record, options);
}

/** @internal Makes live copies of a sandbox. */
export async function forkSandboxes(connection: SandboxConnection, options: CloneOptions & { readonly count?: number }): Promise<SandboxConnection[]> {
  const { folders } = connection;
  const copies: SandboxConnection[] = [];
  try {
    await connection.use(() => forkSandbox(folders, connection.record, { ...cloneOptions(options), count: options.count ?? 1, onCopy: async (record) => { copies.push(await open(folders, record, options)); } }));
  } catch (error) {
    await Promise.all(copies.map((copy) => killSandbox(copy)));
    throw error;
  }
  return copies;
}

/** @internal All snapshots of this user. */
export function snapshotInfos(options: PlaceOptions): SnapshotInfo[] {
  return listSnapshots(stateFolders(options.root)).map(toInfo);
}

/** @internal Removes one. */
export async function dropSnapshot(name: string, options: PlaceOptions): Promise<void> {
  const folders = stateFolders(options.root);
  await removeSnapshot(folders, readSnapshot(folders, name).name);
}

function cloneOptions({ name, detached = false, signal, timeoutMs }: CloneOptions): { readonly name: string | undefined; readonly leaseExpected: boolean; readonly debug: false } & CallOptions {
  return { name, leaseExpected: !detached, debug: false, signal, timeoutMs };
}

function open(folders: StateFolders, record: ContainerRecord, options: CloneOptions): Promise<SandboxConnection> {
  return SandboxConnection.open(folders, record, { lease: !(options.detached ?? false) });
}

function toInfo({ name, createdAtUnixMs, containers, pauseMs }: Snapshot): SnapshotInfo {
  return { name, createdAt: new Date(createdAtUnixMs), containers: containers.map(({ record }) => record.name), pauseMs };
}
