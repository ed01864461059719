import { createHash } from "node:crypto";
import { read as readCallback, write as writeCallback } from "node:fs";
import { promisify } from "node:util";
import { RuntimeError } from "../../shared/base/errors.ts";
import { SyscallError, call, errno } from "../../shared/linux/libc.ts";

/** lseek(2). */
const SEEK_DATA = 3;
const read = promisify(readCallback), write = promisify(writeCallback);

/** Read at once. */
const pieceBytes = 4 * 1024 * 1024;
/** Left out when it is all zeros: half the memory of a freshly booted guest is. */
const blockBytes = 64 * 1024;
const zeros = Buffer.alloc(blockBytes);

/** What {@link copyMemory} saw. */
export interface CopiedMemory {
  /** SHA-256 over number and bytes of every block that is not all zeros, hexadecimal: the same however sparse the file is. */
  readonly hash: string;
  readonly usedBytes: number;
}

/** Where the piece with the next bytes that are not a hole begins; `end` when there are none. */
function nextData(fd: number, from: number, end: number): number {
  if (from >= end) return end;
  try {
    const data = Number(call("long lseek(int, long, int)", fd, from, SEEK_DATA));
    return Math.min(end, Math.floor(data / pieceBytes) * pieceBytes);
  } catch (error) {
    if (error instanceof SyscallError && error.errno === errno.ENXIO) return end;
    throw error;
  }
}

/** Copies a guest's memory between two files from their beginnings; where it is zero the target, which must be empty, stays sparse. Without a target it only looks. */
export async function copyMemory(fromFd: number, toFd: number | undefined, bytes: number): Promise<CopiedMemory> {
  const hash = createHash("sha256");
  const piece = Buffer.allocUnsafe(pieceBytes);
  const number = Buffer.alloc(4);
  let usedBytes = 0;
  for (let start = nextData(fromFd, 0, bytes); start < bytes; start = nextData(fromFd, start + pieceBytes, bytes)) {
    const wanted = Math.min(pieceBytes, bytes - start);
    const { bytesRead } = await read(fromFd, piece, 0, wanted, start);
    if (bytesRead !== wanted) throw new RuntimeError("data_loss", `copy memory: it ends at ${start + bytesRead} of ${bytes} bytes`);
    for (let offset = 0; offset < wanted; offset += blockBytes) {
      const block = piece.subarray(offset, Math.min(offset + blockBytes, wanted));
      if (block.equals(block.length === blockBytes ? zeros : zeros.subarray(0, block.length))) continue;
      number.writeUInt32LE((start + offset) / blockBytes);
      hash.update(number).update(block);
      usedBytes += block.length;
      if (toFd !== undefined) await write(toFd, block, 0, block.length, start + offset);
    }
  }
  return { hash: hash.digest("hex"), usedBytes };
}
