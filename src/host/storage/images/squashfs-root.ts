import { closeSync, ftruncateSync, openSync, readSync, writeSync } from "node:fs";
import { RuntimeError } from "../../../shared/base/errors.ts";

/** What a root folder has and sqfstar does not take. */
export interface SquashfsRoot {
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSeconds: number;
}

const magic = 0x73717368;
const metadataBytes = 8192, idsPerBlock = metadataBytes / 4;
/** In the two bytes before a metadata block: it is stored as it is. */
const uncompressedFlag = 0x8000;
const absent = 0xffff_ffff_ffff_ffffn;
const padToBytes = 4096;
/** Where the superblock (96 bytes) has them. */
const field = { idCount: 26, rootInode: 32, bytesUsed: 40, idTable: 48, xattrTable: 56, inodeTable: 64 } as const;

/**
 * Sets owner and mtime of the root folder in a squashfs image (version 4, nothing but data compressed).
 * sqfstar 4.5 has options for them, but leaves the present time and the ids of whoever runs it; so an
 * ordinary user would get another owner, and nobody the same bytes twice. `ids` are all uids and gids
 * of the other entries: any more in the image's table are of sqfstar's root and go.
 * Format: the kernel's fs/squashfs/squashfs_fs.h.
 */
export function setSquashfsRoot(image: string, root: SquashfsRoot, ids: ReadonlySet<number>): void {
  const fd = openSync(image, "r+");
  try {
    const superblock = read(fd, 0, 96);
    if (superblock.readUInt32LE(0) !== magic) throw unexpected(image, "magic number");
    const table = readIds(fd, superblock, image).filter((id) => ids.has(id));
    for (const id of [root.uid, root.gid]) if (!table.includes(id)) table.push(id);
    const attributes = Buffer.alloc(8);
    attributes.writeUInt16LE(table.indexOf(root.uid), 0);
    attributes.writeUInt16LE(table.indexOf(root.gid), 2);
    attributes.writeUInt32LE(root.mtimeSeconds, 4);
    writeRootInode(fd, superblock, attributes, image);
    replaceIds(fd, superblock, table, image);
  } finally {
    closeSync(fd);
  }
}

/** Writes behind type and mode of the root's inode: indices of its ids, and its mtime. */
function writeRootInode(fd: number, superblock: Buffer, attributes: Buffer, image: string): void {
  // Which metadata block, counted from the table's start, and where in it.
  const reference = superblock.readBigUInt64LE(field.rootInode);
  const block = position(superblock, field.inodeTable) + Number(reference >> 16n), offset = Number(reference & 0xffffn) + 4;
  checkUncompressed(fd, block, image);
  for (const [index, byte] of attributes.entries()) {
    const within = offset + index;
    // An inode may go on in the next block, behind that one's own two bytes.
    writeSync(fd, Buffer.from([byte]), 0, 1, block + 2 + within + (within >= metadataBytes ? 2 : 0));
  }
}

function readIds(fd: number, superblock: Buffer, image: string): number[] {
  const count = superblock.readUInt16LE(field.idCount);
  return Array.from({ length: Math.ceil(count / idsPerBlock) }, (_, block) => {
    const start = idBlock(fd, superblock, block);
    checkUncompressed(fd, start, image);
    const bytes = read(fd, start + 2, Math.min(idsPerBlock, count - block * idsPerBlock) * 4);
    return Array.from({ length: bytes.length / 4 }, (_id, index) => bytes.readUInt32LE(index * 4));
  }).flat();
}

/** Writes the table anew where it was, and what is behind it (extended attributes) after it. */
function replaceIds(fd: number, superblock: Buffer, ids: readonly number[], image: string): void {
  const start = idBlock(fd, superblock, 0);
  const oldEnd = position(superblock, field.idTable) + Math.ceil(superblock.readUInt16LE(field.idCount) / idsPerBlock) * 8;
  const behind = read(fd, oldEnd, position(superblock, field.bytesUsed) - oldEnd);
  const { bytes: table, indexAt } = encodeIds(ids, start);
  const shift = start + table.length - oldEnd;
  const hasXattrs = superblock.readBigUInt64LE(field.xattrTable) !== absent;
  if (hasXattrs) {
    const xattrs = position(superblock, field.xattrTable) - oldEnd;
    if (xattrs < 0) throw unexpected(image, "order of tables");
    shiftXattrs(behind, xattrs, shift);
    addTo(superblock, field.xattrTable, shift);
  }
  superblock.writeUInt16LE(ids.length, field.idCount);
  superblock.writeBigUInt64LE(BigInt(indexAt), field.idTable);
  addTo(superblock, field.bytesUsed, shift);
  const bytes = Buffer.concat([table, behind]);
  ftruncateSync(fd, start);
  for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at, bytes.length - at, start + at);
  ftruncateSync(fd, Math.ceil((start + bytes.length) / padToBytes) * padToBytes);
  writeSync(fd, superblock, 0, superblock.length, 0);
}

/** The ids in metadata blocks, and behind them where each block is. */
function encodeIds(ids: readonly number[], start: number): { readonly bytes: Buffer; readonly indexAt: number } {
  const blocks: Buffer[] = [];
  const index: Buffer[] = [];
  let at = start;
  for (let first = 0; first < ids.length; first += idsPerBlock) {
    const part = ids.slice(first, first + idsPerBlock);
    const block = Buffer.alloc(2 + part.length * 4);
    block.writeUInt16LE(uncompressedFlag | (part.length * 4), 0);
    for (const [number, id] of part.entries()) block.writeUInt32LE(id, 2 + number * 4);
    const pointer = Buffer.alloc(8);
    pointer.writeBigUInt64LE(BigInt(at));
    blocks.push(block);
    index.push(pointer);
    at += block.length;
  }
  return { bytes: Buffer.concat([...blocks, ...index]), indexAt: at };
}

/** The xattr id table begins with where the attributes are and how many ids it has; then comes where each of its blocks is. */
function shiftXattrs(bytes: Buffer, at: number, shift: number): void {
  const idBytes = 16;
  const blocks = Math.ceil((bytes.readUInt32LE(at + 8) * idBytes) / metadataBytes);
  addTo(bytes, at, shift);
  for (let block = 0; block < blocks; block++) addTo(bytes, at + 16 + block * 8, shift);
}

function addTo(bytes: Buffer, at: number, shift: number): void {
  bytes.writeBigUInt64LE(bytes.readBigUInt64LE(at) + BigInt(shift), at);
}

function idBlock(fd: number, superblock: Buffer, block: number): number {
  return Number(read(fd, position(superblock, field.idTable) + block * 8, 8).readBigUInt64LE(0));
}

function position(superblock: Buffer, at: number): number {
  return Number(superblock.readBigUInt64LE(at));
}

function checkUncompressed(fd: number, block: number, image: string): void {
  if ((read(fd, block, 2).readUInt16LE(0) & uncompressedFlag) === 0) throw unexpected(image, "compressed table");
}

function read(fd: number, at: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  readSync(fd, bytes, 0, length, at);
  return bytes;
}

function unexpected(image: string, what: string): RuntimeError {
  return new RuntimeError("internal", `set the root folder's owner in "${image}": unexpected ${what}`);
}
