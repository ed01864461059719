import { createHash } from "node:crypto";
import { closeSync, ftruncateSync, openSync, read as readCallback, readFileSync, write as writeCallback } from "node:fs";
import { promisify } from "node:util";
import { RuntimeError } from "../../shared/base/errors.ts";
import { SyscallError, call, errno } from "../../shared/linux/libc.ts";

/** lseek(2). */
const SEEK_DATA = 3, SEEK_HOLE = 4;
const read = promisify(readCallback), write = promisify(writeCallback);

/** Name of memory files that VMs start from; what a VM reads there without writing is not its own. */
export const savedMemoryName = "casemate-template";
/** Read at once. */
const pieceBytes = 4 * 1024 * 1024;
/** Left out when it is all zeros: half the memory of a freshly booted guest is. */
const blockBytes = 64 * 1024;
const zeros = Buffer.alloc(blockBytes);
/** Reading zeros of this many bytes costs as much as another read. */
const worthSkippingBytes = 256 * 1024;

/** What {@link copyMemory} saw. */
export interface CopiedMemory {
  /** SHA-256 over number and bytes of every block that is not all zeros, hexadecimal: the same however sparse the file is. */
  readonly hash: string;
  readonly usedBytes: number;
  /** What was read, because it is no hole. */
  readonly pieces: readonly MemoryPiece[];
}

/** Bytes of a file that lie together: where they begin, and how many they are. */
export type MemoryPiece = readonly [start: number, bytes: number];

/** Where the next bytes that are not a hole, or the next hole, begin; `end` when there are none before it. */
function seek(fd: number, from: number, whence: typeof SEEK_DATA | typeof SEEK_HOLE, end: number): number {
  if (from >= end) return end;
  try {
    return Math.min(end, Number(call("long lseek(int, long, int)", fd, from, whence)));
  } catch (error) {
    if (error instanceof SyscallError && error.errno === errno.ENXIO) return end;
    throw error;
  }
}

/** The pieces to read, in whole blocks: each from bytes that are not a hole to a hole that is worth skipping. */
function* piecesOf(fd: number, end: number, from = 0): Generator<MemoryPiece> {
  for (let data = seek(fd, from, SEEK_DATA, end); data < end;) {
    const start = Math.floor(data / blockBytes) * blockBytes, limit = Math.min(end, start + pieceBytes);
    let stop: number;
    do {
      stop = Math.min(limit, Math.ceil(seek(fd, data, SEEK_HOLE, end) / blockBytes) * blockBytes);
      data = seek(fd, stop, SEEK_DATA, end);
    } while (stop < limit && data - stop < worthSkippingBytes);
    yield [start, stop - start];
  }
}

/** Reads pieces one after the other; each is there until the next one is asked for. */
async function* readPieces(fd: number, pieces: Iterable<MemoryPiece>, end: number): AsyncGenerator<readonly [start: number, piece: Buffer]> {
  const buffer = Buffer.allocUnsafe(pieceBytes);
  for (const [start, wanted] of pieces) {
    const { bytesRead } = await read(fd, buffer, 0, wanted, start);
    if (bytesRead !== wanted) throw new RuntimeError("data_loss", `copy memory: it ends at ${start + bytesRead} of ${end} bytes`);
    yield [start, buffer.subarray(0, wanted)];
  }
}

/**
 * Copies a guest's memory between two files from their beginnings; where it is zero the target, which must be empty,
 * stays sparse. Without a target it only looks. `known`: what an earlier copy has found to be no holes.
 */
export async function copyMemory(fromFd: number, toFd: number | undefined, bytes: number, known?: readonly MemoryPiece[]): Promise<CopiedMemory> {
  const hash = createHash("sha256");
  if (toFd !== undefined) ftruncateSync(toFd, bytes); // it may end with zeros
  const number = Buffer.alloc(4);
  let usedBytes = 0;
  const pieces: MemoryPiece[] = [];
  for await (const [start, piece] of readPieces(fromFd, known ?? piecesOf(fromFd, bytes), bytes)) {
    pieces.push([start, piece.length]);
    for (let offset = 0; offset < piece.length; offset += blockBytes) {
      const block = piece.subarray(offset, Math.min(offset + blockBytes, piece.length));
      if (isZeros(block)) continue;
      number.writeUInt32LE((start + offset) / blockBytes);
      hash.update(number).update(block);
      usedBytes += block.length;
      if (toFd !== undefined) await write(toFd, block, 0, block.length, start + offset);
    }
  }
  // Also when it ends with zeros.
  if (toFd !== undefined) ftruncateSync(toFd, bytes);
  return { hash: hash.digest("hex"), usedBytes, pieces };
}

/**
 * Copies what a part of one file has, from `from` to `end`, to `to` in another, which must be zeros there: blocks of
 * zeros are left out. `from` is at a whole block. Returns how many bytes were copied.
 */
export async function copyPart(fromFd: number, { from, end }: { readonly from: number; readonly end: number }, toFd: number, to: number): Promise<number> {
  let copied = 0;
  for await (const [start, piece] of readPieces(fromFd, piecesOf(fromFd, end, from), end)) {
    for (const [offset, length] of filledRuns(piece)) {
      await write(toFd, piece, offset, length, to + start - from + offset);
      copied += length;
    }
  }
  return copied;
}

/** The blocks that are not all zeros, those that lie together as one. */
function* filledRuns(piece: Buffer): Generator<[offset: number, length: number]> {
  for (let offset = 0; offset < piece.length;) {
    const begin = offset;
    while (offset < piece.length && !isZeros(piece.subarray(offset, Math.min(offset + blockBytes, piece.length)))) offset += blockBytes;
    if (offset > begin) yield [begin, Math.min(offset, piece.length) - begin];
    else offset += blockBytes;
  }
}

function isZeros(block: Buffer): boolean {
  return block.equals(block.length === blockBytes ? zeros : zeros.subarray(0, block.length));
}

const pageBytes = 4096;
const pagemapEntryBytes = 8;
/** Bits of a pagemap entry (kernel: Documentation/admin-guide/mm/pagemap.rst), in its upper half. */
const present = 1 << 31, swapped = 1 << 30, ofFile = 1 << 29, mappedOnce = 1 << 24;
/** Touched pages that lie together are copied at once, up to this many. */
const runPages = 512;
/** Entries of the page map that are read at once: of half a gigabyte. */
const mapPages = 128 * 1024;

/** Where a VMM has a guest's memory in its own address space. */
export interface MemoryRegion {
  readonly address: number;
  readonly bytes: number;
}

/**
 * Finds memory of the guest among a process's mappings: the one private mapping of exactly that size.
 * @throws RuntimeError `internal` when it cannot be told.
 */
export function findGuestMemory(pid: number, bytes: number): MemoryRegion {
  const mappings = readFileSync(`/proc/${pid}/maps`, "latin1").split("\n").flatMap((line) => {
    const [, from = "", to = "", permissions] = /^([0-9a-f]+)-([0-9a-f]+) (\S{4})/.exec(line) ?? [];
    const address = Number.parseInt(from, 16);
    return Number.parseInt(to, 16) - address === bytes && permissions === "rw-p" ? [address] : [];
  });
  const [address] = mappings;
  if (address === undefined || mappings.length > 1) throw new RuntimeError("internal", `find the memory of VMM ${pid}: ${mappings.length} mappings have its size`);
  return { address, bytes };
}

/**
 * Copies the pages that a process has of its own in a private mapping, which are those that were
 * written, to `to` in a file; what lies below them is the mapped file's. The process must stand still.
 * `sparse`: of a mapping of no file, which may be much larger than what is in it, no more of the map is
 * read than it takes to find all pages. Returns how many bytes were copied.
 */
export async function copyTouchedPages(pid: number, region: MemoryRegion, toFd: number, { to, sparse }: { readonly to: number; readonly sparse: boolean }): Promise<number> {
  const pagemap = openSync(`/proc/${pid}/pagemap`, "r");
  const memory = openSync(`/proc/${pid}/mem`, "r");
  try {
    const piece = Buffer.allocUnsafe(runPages * pageBytes);
    const entries = Buffer.allocUnsafe(Math.min(mapPages, region.bytes / pageBytes) * pagemapEntryBytes);
    let left = sparse ? residentPages(pid, region) : Infinity, copied = 0;
    for (let first = 0; first < region.bytes / pageBytes && left > 0; first += mapPages) {
      const pages = Math.min(mapPages, region.bytes / pageBytes - first);
      const { bytesRead } = await read(pagemap, entries, 0, pages * pagemapEntryBytes, (region.address / pageBytes + first) * pagemapEntryBytes);
      if (bytesRead !== pages * pagemapEntryBytes) throw new RuntimeError("internal", `read the page map of VMM ${pid}: it ends early`);
      for (let page = 0; page < pages;) {
        let end = page;
        while (end - page < runPages && end < pages && isTouched(entries, end)) if (isCounted(entries, end++)) left--;
        if (end > page) {
          const wanted = (end - page) * pageBytes, offset = (first + page) * pageBytes;
          const got = await read(memory, piece, 0, wanted, region.address + offset);
          if (got.bytesRead !== wanted) throw new RuntimeError("internal", `read the memory of VMM ${pid}: it ends early`);
          await write(toFd, piece, 0, wanted, to + offset);
          copied += wanted;
        }
        page = Math.max(end, page + 1);
      }
    }
    return copied;
  } finally {
    closeSync(pagemap);
    closeSync(memory);
  }
}

/** How many of a mapping's pages are in memory or swapped out. Takes some 8 ms, for the kernel tells of all mappings. */
function residentPages(pid: number, { address }: MemoryRegion): number {
  const smaps = readFileSync(`/proc/${pid}/smaps`, "latin1");
  const start = smaps.search(new RegExp(`^${address.toString(16)}-`, "m"));
  const [, resident, swap] = /^Rss: +(\d+) kB$[^]*?^Swap: +(\d+) kB$/m.exec(smaps.slice(start)) ?? [];
  if (start === -1 || resident === undefined) throw new RuntimeError("internal", `read the mappings of VMM ${pid}: that of its guest's memory is not there`);
  return (Number(resident) + Number(swap)) * 1024 / pageBytes;
}

function isTouched(entries: Buffer, page: number): boolean {
  const upper = upperHalf(entries, page);
  return (upper & swapped) !== 0 || ((upper & present) !== 0 && (upper & ofFile) === 0);
}

/** True for a page that {@link residentPages} counts for certain: the zero page, which it does not, is mapped by many. */
function isCounted(entries: Buffer, page: number): boolean {
  return (upperHalf(entries, page) & (swapped | mappedOnce)) !== 0;
}

function upperHalf(entries: Buffer, page: number): number {
  return entries.readInt32LE(page * pagemapEntryBytes + 4);
}
