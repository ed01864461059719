import { openSync, readSync } from "node:fs";

let device: number | undefined;

/** The kernel's generator (random(4)); it stays open, because opening it is most of what a drawing costs an emulated guest. */
export function randomDevice(): number {
  return device ??= openSync("/dev/urandom", "r");
}

/** Random bytes straight from the kernel, drawn at this moment: never from a generator in this process's memory, which a VM restore clones. */
export function kernelRandomBytes(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let offset = 0; offset < length;) offset += readSync(randomDevice(), bytes, offset, length - offset, null);
  return bytes;
}
