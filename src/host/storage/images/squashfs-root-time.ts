import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { RuntimeError } from "../../../shared/base/errors.ts";

const magic = 0x73717368;
const metadataBytes = 8192;
/** In the two bytes before a metadata block: it is stored as it is. */
const uncompressedFlag = 0x8000;
const mtimeOffset = 8;

/**
 * Sets the root folder's mtime in a squashfs image (version 4, inodes not compressed), in seconds.
 * sqfstar 4.5 knows an option for it but leaves the present time there, so that the same input would
 * never give the same bytes. Format: the kernel's fs/squashfs/squashfs_fs.h.
 */
export function setSquashfsRootTime(image: string, seconds: number): void {
  const fd = openSync(image, "r+");
  try {
    const superblock = read(fd, 0, 96);
    if (superblock.readUInt32LE(0) !== magic) throw unexpected(image, "magic number");
    // The root's inode: which metadata block, counted from the table's start, and where in it.
    const reference = superblock.readBigUInt64LE(32);
    const block = Number(superblock.readBigUInt64LE(64)) + Number(reference >> 16n), offset = Number(reference & 0xffffn);
    if ((read(fd, block, 2).readUInt16LE(0) & uncompressedFlag) === 0) throw unexpected(image, "compressed inodes");
    const time = Buffer.alloc(4);
    time.writeUInt32LE(seconds);
    for (const [index, byte] of time.entries()) {
      const within = offset + mtimeOffset + index;
      // An inode may go on in the next block, behind that one's own two bytes.
      writeSync(fd, Buffer.from([byte]), 0, 1, block + 2 + within + (within >= metadataBytes ? 2 : 0));
    }
  } finally {
    closeSync(fd);
  }
}

function read(fd: number, position: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  readSync(fd, bytes, 0, length, position);
  return bytes;
}

function unexpected(image: string, what: string): RuntimeError {
  return new RuntimeError("internal", `set the root's time in "${image}": unexpected ${what}`);
}
