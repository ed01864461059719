import { closeSync } from "node:fs";
import { RuntimeError } from "../base/errors.ts";
import { call, SyscallError } from "./libc.ts";

// System call numbers newer than Linux 5.0 are the same on every architecture.
const SYS_open_tree = 428, SYS_move_mount = 429, SYS_mount_setattr = 442;
const AT_FDCWD = -100, AT_EMPTY_PATH = 0x1000, AT_RECURSIVE = 0x8000;
const OPEN_TREE_CLONE = 1, OPEN_TREE_CLOEXEC = 0o2000000, MOVE_MOUNT_F_EMPTY_PATH = 4;
const MNT_DETACH = 2, UMOUNT_NOFOLLOW = 8;
/** struct mount_attr: attr_set, attr_clr, propagation, userns_fd; mount_setattr(2). */
const mountAttrBytes = 32;

/** Flags of a mount (mount_setattr(2)). */
export const mountAttribute = { readOnly: 0x1, noSuid: 0x2, noDevices: 0x4, noExecute: 0x8 } as const;
/** How mounts below a mount spread to other namespaces; mount_namespaces(7). */
export const propagation = { private: 1 << 18, slave: 1 << 19, shared: 1 << 20 } as const;

/** What {@link bindMount} attaches. */
export interface BindMount {
  /** An open file or folder (O_PATH will do), so that what was checked is what gets mounted. */
  readonly sourceFd: number;
  /** Must exist; a symbolic link in its last part is not followed. */
  readonly target: string;
  /** Also what is mounted below the source. */
  readonly recursive: boolean;
  /** Sum of {@link mountAttribute}s, for every mount of the tree. */
  readonly attributes: number;
}

/**
 * Attaches a copy of a mount tree that is private to itself and has its attributes before anybody can
 * see it. A plain bind mount would show the folder writable for a moment, and would pass unmounts
 * below it back to the source. Needs Linux 5.12.
 */
export function bindMount({ sourceFd, target, recursive, attributes }: BindMount): void {
  const depth = recursive ? AT_RECURSIVE : 0;
  const tree = treeCall(() => call("long syscall(long, int, str, unsigned int)", SYS_open_tree, sourceFd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | depth));
  try {
    treeCall(() => setAttributes(tree, AT_EMPTY_PATH | depth, attributes, propagation.private));
    call("long syscall(long, int, str, int, str, unsigned int)", SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH);
  } finally {
    closeSync(tree);
  }
}

/** Makes what is mounted below that mount from now on appear in namespaces copied from this one. */
export function shareMount(openFd: number): void {
  setAttributes(openFd, AT_EMPTY_PATH, 0, propagation.shared);
}

/** Takes the mount at that path away, with all below it, even while it is in use. False when nothing is mounted there. */
export function detachMount(path: string): boolean {
  try {
    call("int umount2(str, int)", path, MNT_DETACH | UMOUNT_NOFOLLOW);
    return true;
  } catch (error) {
    if (error instanceof SyscallError && (error.code === "EINVAL" || error.code === "ENOENT")) return false;
    throw error;
  }
}

function setAttributes(fd: number, flags: number, attributes: number, mountPropagation: number): void {
  const attr = Buffer.alloc(mountAttrBytes);
  attr.writeBigUInt64LE(BigInt(attributes), 0);
  attr.writeBigUInt64LE(BigInt(mountPropagation), 16);
  call("long syscall(long, int, str, unsigned int, void *, unsigned long)", SYS_mount_setattr, fd, "", flags, attr, mountAttrBytes);
}

function treeCall<T>(run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (error instanceof SyscallError && error.code === "ENOSYS") throw new RuntimeError("unimplemented", "bind mount", { cause: error, reason: "kernel_too_old", hint: "sharing host folders needs Linux 5.12 or newer on the host" });
    throw error;
  }
}
