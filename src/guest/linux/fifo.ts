import { closeSync, constants, openSync, unlinkSync, writeSync } from "node:fs";
import { isErrnoException } from "../../shared/base/errors.ts";

/**
 * Gives what waits at a FIFO its bytes, of which the FIFO must have room for all, and removes it: before
 * they are read, because crun takes its absence for "running". False: nobody waits there.
 */
export function feedFifo(path: string, bytes: Uint8Array): boolean {
  try {
    const fd = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK); // ENXIO without a reader (fifo(7))
    try {
      unlinkSync(path);
      return writeSync(fd, bytes) === bytes.length;
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    if (["ENOENT", "ENXIO", "EPIPE"].some((code) => isErrnoException(error, code))) return false;
    throw error;
  }
}
