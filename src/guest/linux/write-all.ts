import { write } from "node:fs";
import { promisify } from "node:util";

const writeAsync = promisify(write);

/** Writes all of the bytes at that place of a file: one write(2) may take fewer. */
export async function writeAll(fd: number, bytes: Uint8Array, offset: number): Promise<void> {
  for (let written = 0; written < bytes.length;) written += (await writeAsync(fd, bytes, written, bytes.length - written, offset + written)).bytesWritten;
}
