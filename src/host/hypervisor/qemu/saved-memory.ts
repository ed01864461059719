import { closeSync, constants, fstatSync, ftruncateSync, openSync, readdirSync, readlinkSync } from "node:fs";
import { RuntimeError, isErrnoException } from "../../../shared/base/errors.ts";
import { copyPart, copyTouchedPages, findGuestMemory } from "../guest-memory.ts";
import { qemuFds, type QemuConfig } from "./arguments.ts";

/*
 * The memory of a VM that is saved while it lives, as one sparse file: first what it booted with, behind it
 * what can be plugged, up to the last page that has something. A VM that goes on from the file maps the
 * first part copy-on-write. The second is copied into memory of its own, because memory that was plugged is
 * given back, and QEMU does that by holes in the file below.
 */

/** What of a VM's configuration says where its memory is. */
type MemoryConfig = Pick<QemuConfig, "memoryMode" | "bootMemoryBytes" | "pluggableMemoryBytes">;

/** Copies what does not change while the guest runs: most of private memory is in the file that the VM began from. */
export async function copyUnchanging(pid: number, { memoryMode, bootMemoryBytes }: MemoryConfig, toFd: number): Promise<void> {
  if (memoryMode === "shared") return;
  const path = descriptorPath(pid, qemuFds.memory);
  if (!isMemoryFile(path)) return; // it began with none
  const fd = openSync(path, constants.O_RDONLY);
  try {
    await copyPart(fd, { from: 0, end: bootMemoryBytes }, toFd, 0);
  } finally {
    closeSync(fd);
  }
}

/** Copies the rest of it, while the guest stands still; the file ends where the memory does. Returns how many bytes were copied. */
export async function copyWritten(pid: number, { memoryMode, bootMemoryBytes, pluggableMemoryBytes }: MemoryConfig, hasPlugged: boolean, toFd: number): Promise<number> {
  const copy = memoryMode === "shared" ? copyShared : copyPrivate;
  const copied = await copy(pid, bootMemoryBytes, toFd, 0) + (hasPlugged ? await copy(pid, pluggableMemoryBytes, toFd, bootMemoryBytes) : 0);
  if (fstatSync(toFd).size < bootMemoryBytes) ftruncateSync(toFd, bootMemoryBytes);
  return copied;
}

/** Gives a VM that is about to go on from such a file what had been plugged. */
export async function fillPlugged(pid: number, { bootMemoryBytes, pluggableMemoryBytes }: MemoryConfig, fromFd: number): Promise<void> {
  const end = fstatSync(fromFd).size;
  if (end <= bootMemoryBytes) return;
  const { address } = findGuestMemory(pid, pluggableMemoryBytes);
  const memory = openSync(`/proc/${pid}/mem`, constants.O_WRONLY);
  try {
    await copyPart(fromFd, { from: bootMemoryBytes, end }, memory, address);
  } finally {
    closeSync(memory);
  }
}

async function copyPrivate(pid: number, bytes: number, toFd: number, to: number): Promise<number> {
  return copyTouchedPages(pid, findGuestMemory(pid, bytes), toFd, { to, sparse: to > 0 }); // what was plugged is behind the rest
}

async function copyShared(pid: number, bytes: number, toFd: number, to: number): Promise<number> {
  const fd = openMemoryFile(pid, bytes);
  try {
    return await copyPart(fd, { from: 0, end: bytes }, toFd, to);
  } finally {
    closeSync(fd);
  }
}

/** The one memory file of that size that a process has open. */
function openMemoryFile(pid: number, bytes: number): number {
  for (const name of readdirSync(`/proc/${pid}/fd`)) {
    const path = descriptorPath(pid, Number(name));
    if (!isMemoryFile(path)) continue;
    const fd = openSync(path, constants.O_RDONLY);
    if (fstatSync(fd).size === bytes) return fd;
    closeSync(fd);
  }
  throw new RuntimeError("internal", `find the memory of VMM ${pid}: no memory file has its size`);
}

function descriptorPath(pid: number, fd: number): string {
  return `/proc/${pid}/fd/${fd}`;
}

function isMemoryFile(path: string): boolean {
  try {
    return readlinkSync(path).startsWith("/memfd:");
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return false; // closed meanwhile
    throw error;
  }
}
