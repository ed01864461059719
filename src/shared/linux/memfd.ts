import { call } from "./libc.ts";

const MFD_CLOEXEC = 1, MFD_ALLOW_SEALING = 2;
const F_ADD_SEALS = 1033;
const F_SEAL_SEAL = 1, F_SEAL_SHRINK = 2, F_SEAL_GROW = 4, F_SEAL_WRITE = 8;

/** Makes a file of that size in memory, all zeros, not taking memory before it is written; memfd_create(2). Returns its descriptor, close-on-exec. */
export function createMemoryFile(name: string, bytes: number): number {
  const fd = call("int memfd_create(const char *, unsigned int)", name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  call("int ftruncate(int, long)", fd, bytes);
  return fd;
}

/**
 * Forbids every later change of a memory file, for everybody and for ever; fcntl(2), F_ADD_SEALS.
 * Copy-on-write mappings of it can still be made. Fails with EBUSY while a writable shared mapping exists.
 */
export function sealMemoryFile(fd: number): void {
  call("int fcntl(int, int, int)", fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
}
