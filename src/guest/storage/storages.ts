import { rmdir } from "node:fs/promises";
import { dirname } from "node:path";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import type { UndoStack } from "../../shared/base/undo.ts";
import type { Storage } from "../../shared/protocol/gen/agent/agent_pb.ts";
import { unmount } from "../linux/mount.ts";
import { paths, requireAbsolutePath } from "../paths.ts";
import { storageDrivers } from "./drivers.ts";

interface MountedStorage {
  readonly driver: string;
  readonly source: string;
  users: number;
  /** Resolves when it is mounted; a second user waits for the first one's mount. */
  readonly ready: Promise<void>;
}

/** File systems mounted for the host, counted by mount point: two containers of one image share its mount. */
export class Storages {
  readonly #mounted = new Map<string, MountedStorage>();
  /** Unmounts under way: a mount point is not used again before its old mount has gone. */
  readonly #leaving = new Map<string, Promise<void>>();

  /** Mounts in order; the undo unmounts in reverse, what was mounted before a failure too. */
  async addAll(storages: readonly Storage[], undo: UndoStack): Promise<void> {
    for (const storage of storages) {
      const mountPoint = checkMountPoint(storage.mountPoint);
      await this.add(storage);
      undo.add(`storage at "${mountPoint}"`, () => this.remove(mountPoint));
    }
  }

  /** Mounts a storage, or counts one more user of it. */
  async add(storage: Storage): Promise<void> {
    const mountPoint = checkMountPoint(storage.mountPoint);
    await this.#leaving.get(mountPoint);
    const present = this.#mounted.get(mountPoint);
    if (present !== undefined) {
      if (present.driver !== storage.driver || present.source !== storage.source) throw new RuntimeError("already_exists", `mount ${storage.driver} "${storage.source}" at "${mountPoint}": ${present.driver} "${present.source}" is mounted there`);
      present.users++;
      await present.ready; // the first user removes the entry if it fails
      return;
    }
    const driver = storageDrivers[storage.driver];
    if (driver === undefined) throw new RuntimeError("invalid_argument", `storage at "${mountPoint}": driver "${storage.driver}" is not one of ${Object.keys(storageDrivers).join(", ")}`);
    const ready = driver(storage).catch((error: unknown) => {
      this.#mounted.delete(mountPoint);
      throw RuntimeError.wrap(error, `storage at "${mountPoint}"`);
    });
    this.#mounted.set(mountPoint, { driver: storage.driver, source: storage.source, users: 1, ready });
    await ready;
  }

  /** One user less; unmounts with the last one, and the mount point goes. Not mounted is success. */
  async remove(mountPoint: string): Promise<void> {
    const mounted = this.#mounted.get(mountPoint);
    if (mounted === undefined || --mounted.users > 0) return;
    this.#mounted.delete(mountPoint);
    const leaving = mounted.driver === "local" ? Promise.resolve() : unmount(mountPoint).then(() => removeEmptyFolders(mountPoint));
    const settled = leaving.catch(() => { /* the caller below gets it */ }).finally(() => this.#leaving.delete(mountPoint));
    this.#leaving.set(mountPoint, settled);
    await leaving;
  }

  /** Unmounts everything, newest first; for the end of the VM. Returns the failures. */
  async removeAll(): Promise<unknown[]> {
    const failures: unknown[] = [];
    for (const mountPoint of [...this.#mounted.keys()].reverse()) {
      try {
        await unmount(mountPoint);
      } catch (error) {
        failures.push(error);
      }
    }
    this.#mounted.clear();
    return failures;
  }
}

/** A mount point and the folder of a container around it, which would take the kernel's memory until the VM ends. What holds something stays. */
async function removeEmptyFolders(mountPoint: string): Promise<void> {
  try {
    // The folders next to the agent's own are shared by all who mount.
    for (let folder = mountPoint; dirname(dirname(folder)).startsWith(paths.run); folder = dirname(folder)) await rmdir(folder);
  } catch (error) {
    if (!["ENOTEMPTY", "EBUSY", "ENOENT", "ENOTDIR"].some((code) => isErrnoException(error, code))) throw error;
  }
}

/** The host mounts only below the agent's folder, so that no call can cover the system's own files. */
function checkMountPoint(path: string): string {
  requireAbsolutePath(path, "mount point");
  if (!path.startsWith(`${paths.run}/`)) throw new RuntimeError("invalid_argument", `mount point "${path}": must be below ${paths.run}`);
  return path;
}
