import { statSync } from "node:fs";
import { chmod, chown, lstat, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Deadline } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { SyscallError, errno } from "../../shared/linux/libc.ts";
import { runProcess } from "../../shared/linux/run-process.ts";
import type { Storage } from "../../shared/protocol/gen/agent/agent_pb.ts";
import { mount, mountFlag, unmount } from "../linux/mount.ts";
import { parseMountOptions } from "../linux/mount-options.ts";
import { requireAbsolutePath } from "../paths.ts";
import { blockDevice, scsiDisk } from "./block-device.ts";

/** mkfs.ext4 and resize2fs on a large sparse disk under emulation. */
const toolTimeoutMs = 60_000;

/** A plugged share is there after 0.1 to 0.5 s; under nested virtualization or on a loaded host it takes much longer. */
const shareTimeoutMs = 15_000;
const sharePollMs = 20;

/** How one kind of storage gets to its mount point. The mount point is unmounted by whoever counts its users. */
export type StorageDriver = (storage: Storage) => Promise<void>;

/** Kata's driver names, and `9p` and `bind` of ours (docs/agent.md). */
export const storageDrivers: Readonly<Record<string, StorageDriver>> = {
  scsi: async (storage) => mountDisk(await scsiDisk(storage.source, serialOption(storage)), storage),
  blk: async (storage) => mountDisk(await blockDevice(storage.source), storage),
  // Without a device of that tag virtiofs says EINVAL and 9p ENOENT; neither shows its tags anywhere (Linux 6.1).
  "virtio-fs": async (storage) => untilPlugged(errno.EINVAL, () => mountStorage(storage.source, { ...storage, fstype: "virtiofs" })),
  "9p": async (storage) => untilPlugged(errno.ENOENT, () => mountStorage(storage.source, { ...storage, fstype: "9p", options: [...storage.options, "trans=virtio", "version=9p2000.L"] })),
  overlayfs: mountOverlay,
  ephemeral: mountEphemeral,
  bind: mountBind,
  local: makeLocalFolder,
};

/**
 * Mounts a share whose device may have been plugged just now: the guest sees it some time after QEMU's
 * answer. Then the failure of the last try is told.
 */
async function untilPlugged(absent: number, mountShare: () => Promise<void>): Promise<void> {
  const deadline = Deadline.after(shareTimeoutMs);
  for (;;) {
    try {
      await mountShare();
      return;
    } catch (error) {
      if (!hasErrno(error, absent) || deadline.expired) throw error;
    }
    await delay(sharePollMs);
  }
}

/** The error of a mount is wrapped by the call that made it. */
function hasErrno(error: unknown, number: number): boolean {
  return error instanceof Error && ((error instanceof SyscallError && error.errno === number) || hasErrno(error.cause, number));
}

/** `serial=NAME` among the driver's options: which disk it must be. */
function serialOption({ driverOptions }: Storage): string | undefined {
  const prefix = "serial=";
  return driverOptions.find((option) => option.startsWith(prefix))?.slice(prefix.length);
}

/** Driver options of a disk. `create_filesystem`: make an ext4 on it first; `grow_filesystem`: fit its ext4 to the disk. */
async function mountDisk(device: string, storage: Storage): Promise<void> {
  if (storage.driverOptions.includes("create_filesystem")) await runProcess("mkfs.ext4", ["-F", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", device], { timeoutMs: toolTimeoutMs });
  await mountStorage(device, storage);
  // ext4 grows while it is mounted; resize2fs then needs no check of the file system before.
  if (storage.driverOptions.includes("grow_filesystem")) await runProcess("resize2fs", [device], { timeoutMs: toolTimeoutMs });
}

/** Lower folders must exist; the upper and work folder are made, on whatever file system the option names. */
async function mountOverlay(storage: Storage): Promise<void> {
  for (const option of storage.options.flatMap((text) => text.split(","))) {
    const [name, path = ""] = option.split("=");
    if (name === "upperdir" || name === "workdir") await mkdir(requireAbsolutePath(path, name), { recursive: true });
  }
  await mountStorage("overlay", { ...storage, fstype: "overlay" });
}

/** tmpfs, or hugetlbfs with the pages for its `size` reserved first. */
async function mountEphemeral(storage: Storage): Promise<void> {
  const fstype = storage.fstype === "hugetlbfs" ? "hugetlbfs" : "tmpfs";
  if (fstype === "hugetlbfs") await reserveHugePages(storage.options);
  await mountStorage(fstype, { ...storage, fstype });
}

async function mountBind(storage: Storage): Promise<void> {
  const source = requireAbsolutePath(storage.source, "bind source");
  await makeMountPoint(storage.mountPoint, statSync(source).isDirectory());
  const { flags, propagation } = parseMountOptions(storage.options);
  const recursive = flags & mountFlag.REC;
  await mount({ source, target: storage.mountPoint, fsType: "", flags: mountFlag.BIND | recursive, data: "" });
  // A bind mount takes its options only in a second step (mount(2), MS_BIND).
  const wanted = flags & ~(mountFlag.BIND | mountFlag.REC);
  if (wanted !== 0) await mountFurther(storage.mountPoint, mountFlag.BIND | mountFlag.REMOUNT | wanted);
  if (propagation !== 0) await mountFurther(storage.mountPoint, propagation);
}

/** A folder of the guest, as Kubernetes' emptyDir on disk. */
async function makeLocalFolder(storage: Storage): Promise<void> {
  await mkdir(storage.mountPoint, { recursive: true });
  const mode = option(storage.options, "mode");
  if (mode !== undefined) await chmod(storage.mountPoint, parseMode(mode));
}

async function mountStorage(source: string, storage: Storage): Promise<void> {
  await makeMountPoint(storage.mountPoint, true);
  const { flags, propagation, data } = parseMountOptions(storage.options);
  await mount({ source, target: storage.mountPoint, fsType: storage.fstype, flags, data });
  if (propagation !== 0) await mountFurther(storage.mountPoint, propagation);
  if (storage.fsGroup !== undefined) await setGroup(storage.mountPoint, storage.fsGroup.groupId, storage.fsGroup.groupChangePolicy === 1);
}

async function mountFurther(target: string, flags: number): Promise<void> {
  try {
    await mount({ source: "none", target, fsType: "", flags, data: "" });
  } catch (error) {
    await unmount(target);
    throw error;
  }
}

async function makeMountPoint(path: string, folder: boolean): Promise<void> {
  if (folder) {
    await mkdir(path, { recursive: true });
    return;
  }
  await mkdir(join(path, ".."), { recursive: true });
  await writeFile(path, "", { flag: "a" });
}

/** Kubernetes' fsGroup: the group owns everything and may write; new files inherit it. */
async function setGroup(path: string, groupId: number, onlyIfRootDiffers: boolean): Promise<void> {
  const stat = await lstat(path);
  if (stat.isSymbolicLink()) return;
  if (onlyIfRootDiffers && stat.gid === groupId) return;
  await chown(path, stat.uid, groupId);
  await chmod(path, (stat.mode & 0o7777) | 0o660 | (stat.isDirectory() ? 0o2110 : 0));
  if (stat.isDirectory()) for (const name of await readdir(path)) await setGroup(join(path, name), groupId, false);
}

async function reserveHugePages(options: readonly string[]): Promise<void> {
  const pageBytes = parseSize(option(options, "pagesize") ?? "2M"), bytes = parseSize(option(options, "size") ?? "0");
  const file = `/sys/kernel/mm/hugepages/hugepages-${pageBytes / 1024}kB/nr_hugepages`;
  const before = Number(await readFile(file, "latin1"));
  const wanted = before + Math.ceil(bytes / pageBytes);
  await writeFile(file, String(wanted));
  const got = Number(await readFile(file, "latin1"));
  if (got < wanted) {
    await writeFile(file, String(before));
    throw new RuntimeError("resource_exhausted", `reserve ${wanted - before} huge pages of ${pageBytes} bytes: the guest could make ${got - before}`);
  }
}

function option(options: readonly string[], name: string): string | undefined {
  return options.flatMap((text) => text.split(",")).find((text) => text.startsWith(`${name}=`))?.slice(name.length + 1);
}

function parseMode(text: string): number {
  if (!/^[0-7]{1,4}$/.test(text)) throw new RuntimeError("invalid_argument", `mode "${text}": must be octal`);
  return Number.parseInt(text, 8);
}

/** "2M", "1G", "512k" or bytes, as mount(8) writes sizes. */
export function parseSize(text: string): number {
  const match = /^(\d{1,12})([kKmMgG]?)i?[bB]?$/.exec(text);
  const unit = { "": 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3 }[(match?.[2] ?? "").toLowerCase()];
  if (match === null || unit === undefined) throw new RuntimeError("invalid_argument", `size "${text}": must be a number with k, M or G`);
  return Number(match[1]) * unit;
}
