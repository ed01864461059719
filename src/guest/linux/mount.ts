import { call, callAsync } from "../../shared/linux/libc.ts";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { SyscallError, errno } from "../../shared/linux/libc.ts";

const mountPrototype = "int mount(const char *, const char *, const char *, unsigned long, const char *)";
const umountPrototype = "int umount2(const char *, int)";

/** Flags of mount(2) that we name (linux/mount.h). */
export const mountFlag = {
  RDONLY: 1, NOSUID: 2, NODEV: 4, NOEXEC: 8, SYNCHRONOUS: 16, REMOUNT: 32, DIRSYNC: 128, NOSYMFOLLOW: 256, NOATIME: 1024, NODIRATIME: 2048,
  BIND: 4096, MOVE: 8192, REC: 16384, SILENT: 32768, UNBINDABLE: 1 << 17, PRIVATE: 1 << 18, SLAVE: 1 << 19, SHARED: 1 << 20, RELATIME: 1 << 21, STRICTATIME: 1 << 24, LAZYTIME: 1 << 25,
} as const;

const MNT_DETACH = 2, UMOUNT_NOFOLLOW = 8;

/** One mount(2) call. */
export interface MountCall {
  readonly source: string;
  readonly target: string;
  readonly fsType: string;
  readonly flags: number;
  /** File system's own options, comma separated. */
  readonly data: string;
}

/** Mounts at once; only for start-up, where nothing else waits. */
export function mountNow(mount: MountCall): void {
  try {
    call(mountPrototype, mount.source, mount.target, mount.fsType, mount.flags, mount.data === "" ? null : mount.data);
  } catch (error) {
    throw RuntimeError.wrap(error, describeMount(mount));
  }
}

/** Mounts on the thread pool: a device or a share that does not answer must not stop the agent. */
export async function mount(mount: MountCall): Promise<void> {
  try {
    await callAsync(mountPrototype, mount.source, mount.target, mount.fsType, mount.flags, mount.data === "" ? null : mount.data);
  } catch (error) {
    throw RuntimeError.wrap(error, describeMount(mount));
  }
}

/**
 * Unmounts, writing back what is dirty. A mount that is in use is detached instead: it goes when its
 * last user does. Not mounted is success.
 */
export async function unmount(target: string): Promise<void> {
  try {
    await callAsync(umountPrototype, target, UMOUNT_NOFOLLOW);
  } catch (error) {
    if (isNotMounted(error)) return;
    if (!(error instanceof SyscallError) || error.errno !== errno.EBUSY) throw RuntimeError.wrap(error, `unmount "${target}"`);
    await callAsync(umountPrototype, target, UMOUNT_NOFOLLOW | MNT_DETACH);
  }
}

/** EINVAL is what umount2 says of a path that is no mount point. */
function isNotMounted(error: unknown): boolean {
  return isErrnoException(error, "ENOENT") || (error instanceof SyscallError && (error.errno === errno.EINVAL || error.errno === errno.ENOENT));
}

function describeMount({ source, target, fsType }: MountCall): string {
  return `mount ${fsType === "" ? "" : `${fsType} `}"${source}" at "${target}"`;
}
