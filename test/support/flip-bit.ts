import { chmodSync, closeSync, openSync, readSync, writeSync } from "node:fs";

/** Damages a file, also a read-only one: one bit of the byte at the offset is another, the size is the same. */
export function flipBit(path: string, offset: number): void {
  chmodSync(path, 0o600);
  const fd = openSync(path, "r+");
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, offset);
  byte[0] = (byte[0] ?? 0) ^ 1;
  writeSync(fd, byte, 0, 1, offset);
  closeSync(fd);
}
