import { createHash } from "node:crypto";
import { read as readCallback, write as writeCallback } from "node:fs";
import { promisify } from "node:util";
import { RuntimeError } from "../../shared/base/errors.ts";

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

/** Copies a guest's memory between two files from their beginnings; where it is zero the target, which must be empty, stays sparse. Without a target it only looks. */
export async function copyMemory(fromFd: number, toFd: number | undefined, bytes: number): Promise<CopiedMemory> {
  const hash = createHash("sha256");
  const piece = Buffer.allocUnsafe(pieceBytes);
  const number = Buffer.alloc(4);
  let usedBytes = 0;
  for (let start = 0; start < bytes; start += pieceBytes) {
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
