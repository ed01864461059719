import { closeSync, constants, fstatSync, mkdirSync, openSync, readdirSync, rmdirSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { RuntimeError, isErrnoException } from "../../../shared/base/errors.ts";
import { bindMount, detachMount, mountAttribute, shareMount } from "../../../shared/linux/mount.ts";
import type { ResourceKind, ResourceRecord } from "../../store/ledger.ts";
import { badSource } from "./parse-volume.ts";

/** open(2) flag that Node has no name for. */
const O_PATH = 0o10000000;
/** Names in the share are ours, never a guest's or a user's. */
const shareName = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,199}$/;
/** More mounts than this on one path cannot be ours. */
const maxStackedMounts = 8;
const ownAttributes = mountAttribute.readOnly | mountAttribute.noSuid | mountAttribute.noDevices | mountAttribute.noExecute;

/** The folder virtiofsd serves, and the one behind it where mount points are made. */
export interface ShareFolders {
  /** What the guest sees: a read-only mount of `backing`, so that a guest cannot put a link where a mount point will be. */
  readonly sharePath: string;
  readonly backingPath: string;
}

interface ShareFolderRecord extends ResourceRecord, ShareFolders {
  readonly kind: "share-folder";
}

/** The share's root: a mount of its own whose later mounts reach virtiofsd's namespace. */
export const shareFolderKind: ResourceKind<ShareFolders, ShareFolderRecord, void> = {
  kind: "share-folder",
  plan: ({ sharePath, backingPath }) => ({ kind: "share-folder", name: "share", sharePath, backingPath }),
  act: async ({ sharePath, backingPath }) => {
    for (const path of [sharePath, backingPath]) mkdirSync(path, { recursive: true, mode: 0o755 });
    withOpen(backingPath, constants.O_DIRECTORY | constants.O_NOFOLLOW, (sourceFd) => bindMount({ sourceFd, target: sharePath, recursive: false, attributes: ownAttributes }));
    withOpen(sharePath, constants.O_DIRECTORY | constants.O_NOFOLLOW, shareMount);
  },
  release: async ({ sharePath, backingPath }) => {
    detachAll(sharePath);
    for (const entry of list(backingPath)) removeMountPoint(join(backingPath, entry));
    for (const path of [sharePath, backingPath]) removeFolder(path);
  },
};

/** What becomes visible in the share. */
export interface ShareMountSpec extends ShareFolders {
  readonly name: string;
  /** Folder or file of the host; symbolic links in it are followed, as for everything a user names. */
  readonly source: string;
  readonly readOnly: boolean;
}

interface ShareMountRecord extends ResourceRecord, ShareFolders {
  readonly kind: "share-mount";
}

/** The record of something shared, before it is. */
export function planShareMount({ name, sharePath, backingPath }: ShareFolders & { readonly name: string }): ShareMountRecord {
  if (!shareName.test(name)) throw new RuntimeError("invalid_argument", `share "${name}": not a usable name`);
  return { kind: "share-mount", name, sharePath, backingPath };
}

/** True for a record that {@link shareMountKind} has planned. */
export function isShareMount(record: ResourceRecord): record is ShareMountRecord {
  return record.kind === "share-mount";
}

/** A host folder or file bound into the share, read-only from the first moment if so asked. */
export const shareMountKind: ResourceKind<ShareMountSpec, ShareMountRecord, void> = {
  kind: "share-mount",
  plan: planShareMount,
  act: async ({ name, sharePath, backingPath }, { source, readOnly }) => {
    try {
      withOpen(source, 0, (sourceFd) => {
        const stat = fstatSync(sourceFd);
        if (!stat.isDirectory() && !stat.isFile()) throw badSource(source);
        makeMountPoint(join(backingPath, name), stat.isDirectory());
        bindMount({ sourceFd, target: join(sharePath, name), recursive: true, attributes: mountAttribute.noSuid | mountAttribute.noDevices | (readOnly ? mountAttribute.readOnly : 0) });
      });
    } catch (error) {
      throw RuntimeError.wrap(error, `share "${source}"`);
    }
  },
  release: async ({ name, sharePath, backingPath }) => {
    detachAll(join(sharePath, name));
    removeMountPoint(join(backingPath, name));
  },
};

function withOpen(path: string, flags: number, use: (fd: number) => void): void {
  const fd = openSync(path, O_PATH | flags);
  try {
    use(fd);
  } finally {
    closeSync(fd);
  }
}

function makeMountPoint(path: string, folder: boolean): void {
  if (folder) mkdirSync(path, { mode: 0o755 });
  else closeSync(openSync(path, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY | constants.O_NOFOLLOW, 0o644));
}

function detachAll(path: string): void {
  for (let count = 0; detachMount(path); count++) {
    if (count === maxStackedMounts) throw new RuntimeError("internal", `unmount "${path}": more than ${maxStackedMounts} mounts on it`);
  }
}

/** Removes an empty folder or an empty file. Never more: should a mount be there after all, its files are the user's. */
function removeMountPoint(path: string): void {
  try {
    rmdirSync(path);
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return;
    if (!isErrnoException(error, "ENOTDIR")) throw error;
    if (sizeOf(path) !== 0) throw new RuntimeError("internal", `remove mount point "${path}": is not empty`);
    unlinkSync(path);
  }
}

function sizeOf(path: string): number {
  let size = 0;
  withOpen(path, constants.O_NOFOLLOW, (fd) => { size = fstatSync(fd).size; });
  return size;
}

function removeFolder(path: string): void {
  try {
    rmdirSync(path);
  } catch (error) {
    if (!isErrnoException(error, "ENOENT")) throw error;
  }
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return [];
    throw error;
  }
}
