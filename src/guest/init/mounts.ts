import { mkdirSync, symlinkSync } from "node:fs";
import { isErrnoException } from "../../shared/base/errors.ts";
import { SyscallError, errno } from "../../shared/linux/libc.ts";
import { mountFlag, mountNow } from "../linux/mount.ts";
import { paths } from "../paths.ts";

interface SystemMount {
  readonly target: string;
  readonly fsType: string;
  readonly flags: number;
  readonly data: string;
  /** The guest works without it: an older kernel, or one built without. */
  readonly optional?: boolean;
}

const { NOSUID, NODEV, NOEXEC } = mountFlag;

/** In this order: each lies on those before it. */
const systemMounts: readonly SystemMount[] = [
  { target: "/proc", fsType: "proc", flags: NOSUID | NODEV | NOEXEC, data: "" },
  { target: "/sys", fsType: "sysfs", flags: NOSUID | NODEV | NOEXEC, data: "" },
  { target: "/dev", fsType: "devtmpfs", flags: NOSUID, data: "mode=0755" },
  { target: "/dev/pts", fsType: "devpts", flags: NOSUID | NOEXEC, data: "gid=5,mode=0620,ptmxmode=0666" },
  { target: "/dev/shm", fsType: "tmpfs", flags: NOSUID | NODEV, data: "mode=1777" },
  { target: "/dev/mqueue", fsType: "mqueue", flags: NOSUID | NODEV | NOEXEC, data: "", optional: true },
  { target: "/run", fsType: "tmpfs", flags: NOSUID | NODEV, data: "mode=0755,size=50%" },
  { target: "/tmp", fsType: "tmpfs", flags: NOSUID | NODEV, data: "mode=1777,size=50%" },
  { target: "/sys/fs/cgroup", fsType: "cgroup2", flags: NOSUID | NODEV | NOEXEC, data: "memory_recursiveprot" },
];

/** What programs expect to find below /dev, and devtmpfs does not make. */
const deviceLinks: Readonly<Record<string, string>> = { "/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2" };

/** Mounts the guest's system file systems and makes the agent's folders. What the initramfs has mounted already stays. */
export function mountSystem(): void {
  for (const mount of systemMounts) mountOne(mount);
  // Mounts made for one container must not appear in another: crun's own propagation starts from here.
  mountNow({ source: "none", target: "/", fsType: "", flags: mountFlag.PRIVATE | mountFlag.REC, data: "" });
  for (const [path, target] of Object.entries(deviceLinks)) link(path, target);
  for (const folder of [paths.run, paths.crun, paths.bundles, paths.sandboxFiles]) mkdirSync(folder, { recursive: true, mode: 0o711 });
}

/** Lets the guest's own memory file systems follow its memory, of which their sizes are a part. */
export function resizeMemoryMounts(): void {
  for (const { target, fsType, flags, data } of systemMounts) {
    if (fsType === "tmpfs" && data.includes("size=")) mountNow({ source: fsType, target, fsType, flags: flags | mountFlag.REMOUNT, data });
  }
}

function mountOne({ target, fsType, flags, data, optional = false }: SystemMount): void {
  try {
    makeFolder(target);
    mountNow({ source: fsType, target, fsType, flags, data });
  } catch (error) {
    const cause = error instanceof Error ? error.cause : undefined;
    // EBUSY: the same file system is mounted there already.
    if (cause instanceof SyscallError && cause.errno === errno.EBUSY) return;
    if (!optional) throw error;
  }
}

/** Below / the image has them; it is read-only. */
function makeFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    if (!isErrnoException(error, "EROFS") && !isErrnoException(error, "EEXIST")) throw error;
  }
}

function link(path: string, target: string): void {
  try {
    symlinkSync(target, path);
  } catch (error) {
    if (!isErrnoException(error, "EEXIST")) throw error;
  }
}
