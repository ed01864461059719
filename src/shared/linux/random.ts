import { closeSync, openSync, readSync } from "node:fs";

/** Random bytes straight from the kernel, drawn at this moment: never from a generator in this process's memory, which a VM restore clones. */
export function kernelRandomBytes(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  const fd = openSync("/dev/urandom", "r");
  try {
    for (let offset = 0; offset < length;) offset += readSync(fd, bytes, offset, length - offset, null);
  } finally {
    closeSync(fd);
  }
  return bytes;
}
