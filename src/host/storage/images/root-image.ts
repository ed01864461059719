import { createHash, type Hash } from "node:crypto";
import { chmodSync, closeSync, createReadStream, createWriteStream, fsyncSync, openSync, readSync, rmSync, statSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { Readable, Transform } from "node:stream";
import { finished, pipeline } from "node:stream/promises";
import { createGunzip, createZstdDecompress } from "node:zlib";
import type { WaitOptions } from "../../../shared/base/deadline.ts";
import { RuntimeError, describeError, isErrnoException } from "../../../shared/base/errors.ts";
import { describeExit, startProcess, terminateGraceMs, terminateGroup } from "../../../shared/linux/run-process.ts";
import { mergeLayers, type MergedEntry } from "./merge-layers.ts";
import { setSquashfsRoot, type SquashfsRoot } from "./squashfs-root.ts";
import type { TarEntry } from "./tar-entry.ts";
import type { Archive } from "./tar.ts";
import { encodeHeader, tarEnd, tarPadding } from "./tar-writer.ts";
import { ZstdFrames } from "./zstd-frames.ts";

/** File system of a container image's root. ADR 0005 says why. */
export const rootFileSystem = "squashfs";
/** Unpacked size above which an image is taken for a bomb. */
const maxUnpackedBytes = 64 * 1024 ** 3;
const copyChunkBytes = 1024 * 1024;
/** Each piece costs a turn of the event loop or two, in every stage. */
const unpackChunkBytes = 256 * 1024;

/** Options of {@link makeRootImage}. */
export interface RootImageOptions extends WaitOptions {
  /** Most bytes of all layers unpacked. Default 64 GiB. */
  readonly maxUnpackedBytes?: number;
}

/** A layer of an image: its blob, and what it must be. */
export interface LayerBlob {
  readonly path: string;
  /** `sha256:...` of the blob as stored. */
  readonly digest: string;
  /** Of the uncompressed archive. */
  readonly diffId: string;
}

/**
 * Makes the read-only file-system image of a container image's root: layers verified, merged, and fed
 * to sqfstar as one archive, so that owners, devices, links and attributes are what the layers say
 * whoever runs this. The same layers give the same bytes. Works in the given empty folder, which the
 * caller removes, and returns the image's path there.
 * @throws RuntimeError `data_loss` (reason `image_corrupt`), `resource_exhausted`, `canceled`.
 */
export async function makeRootImage(layers: readonly LayerBlob[], folder: string, options: RootImageOptions = {}): Promise<string> {
  const archives: FileArchive[] = [];
  try {
    const budget = { bytes: options.maxUnpackedBytes ?? maxUnpackedBytes };
    await unpackAll(layers, (index) => join(folder, `${index}.tar`), budget, options);
    for (const index of layers.keys()) archives.push(new FileArchive(join(folder, `${index}.tar`)));
    const image = join(folder, "root.img");
    const entries = mergeLayers(archives);
    const root = rootAttributes(entries);
    await runSqfstar(archiveBytes(archives, entries.filter(({ path }) => path !== "")), image, root.mode, options);
    setSquashfsRoot(image, root, idsOf(entries));
    chmodSync(image, 0o444);
    const fd = openSync(image, "r");
    fsyncSync(fd);
    closeSync(fd);
    return image;
  } finally {
    for (const [index, archive] of archives.entries()) {
      archive.close();
      rmSync(join(folder, `${index}.tar`), { force: true });
    }
  }
}

/** An archive in a file. */
class FileArchive implements Archive {
  readonly sizeBytes: number;
  readonly #fd: number;

  constructor(path: string) {
    this.sizeBytes = statSync(path).size;
    this.#fd = openSync(path, "r");
  }

  read(position: number, length: number): Buffer {
    const bytes = Buffer.allocUnsafe(length); // what was read of it alone goes on
    const read = readSync(this.#fd, bytes, 0, length, position);
    return bytes.subarray(0, read);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** Bytes that may still be unpacked, of all layers together. */
interface Budget { bytes: number }

/** As many layers at a time as there are CPUs; the first failure ends the others. */
async function unpackAll(layers: readonly LayerBlob[], pathOf: (index: number) => string, budget: Budget, { signal }: WaitOptions): Promise<void> {
  const failed = new AbortController();
  const either = AbortSignal.any([failed.signal, ...(signal === undefined ? [] : [signal])]);
  const queue = layers.entries();
  const errors: unknown[] = [];
  const work = async (): Promise<void> => {
    for (const [index, layer] of queue) {
      if (failed.signal.aborted) return;
      try {
        await unpackLayer(layer, pathOf(index), budget, { signal: either });
      } catch (error) {
        errors.push(error);
        failed.abort();
      }
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work)); // the queue is shared
  if (errors.length > 0) throw errors[0];
}

/** Decompresses a layer and checks both of its digests. @throws RuntimeError `data_loss` (reason `image_corrupt`) naming the digest. */
async function unpackLayer(layer: LayerBlob, path: string, budget: Budget, { signal }: WaitOptions): Promise<void> {
  const blobHash = createHash("sha256");
  const archiveHash = createHash("sha256");
  try {
    // Before the stream is made: one that nobody reads yet would report a missing file to nobody.
    const unpack = decompressors(layer.path);
    await pipeline([createReadStream(layer.path, { highWaterMark: unpackChunkBytes }), tap(blobHash), ...unpack, tap(archiveHash, budget), createWriteStream(path, { highWaterMark: unpackChunkBytes })], { signal });
  } catch (error) {
    if (signal?.aborted) throw new RuntimeError("canceled", `unpack layer "${layer.digest}": canceled`, { cause: signal.reason });
    if (isErrnoException(error, "ENOENT")) throw corruptLayer(layer, "is missing", error);
    if (RuntimeError.is(error) || isErrnoException(error)) throw RuntimeError.wrap(error, `unpack layer "${layer.digest}"`);
    throw corruptLayer(layer, "cannot be unpacked", error);
  }
  const digests = [[blobHash, layer.digest], [archiveHash, layer.diffId]] as const;
  for (const [hash, expected] of digests) {
    const found = `sha256:${hash.digest("hex")}`;
    if (found !== expected) throw corruptLayer(layer, `is corrupt: its content has digest ${found}, expected ${expected}`);
  }
}

function corruptLayer(layer: LayerBlob, what: string, cause?: unknown): RuntimeError {
  return new RuntimeError("data_loss", `layer "${layer.digest}" ${what}`, { cause, reason: "image_corrupt", hint: "pull the image again" });
}

/** Passes bytes on and hashes them; fails above the limit. */
function tap(hash: Hash, budget: Budget = { bytes: Infinity }): Transform {
  return new Transform({
    writableHighWaterMark: unpackChunkBytes,
    readableHighWaterMark: unpackChunkBytes,
    transform(chunk: Buffer, _encoding, done) {
      budget.bytes -= chunk.length;
      if (budget.bytes < 0) done(new RuntimeError("resource_exhausted", "image unpacks to more than an image may", { reason: "image_too_large" }));
      else {
        hash.update(chunk);
        done(null, chunk);
      }
    },
  });
}

/** By the first bytes: media types are sometimes wrong, magic numbers never. */
function decompressors(path: string): Transform[] {
  const fd = openSync(path, "r");
  const magic = Buffer.alloc(4);
  readSync(fd, magic, 0, 4, 0);
  closeSync(fd);
  if (magic[0] === 0x1f && magic[1] === 0x8b) return [createGunzip({ chunkSize: unpackChunkBytes })];
  if (magic.readUInt32LE(0) === 0xfd2fb528) return [new ZstdFrames(), createZstdDecompress({ chunkSize: unpackChunkBytes })];
  return [];
}

/** The same bytes in pieces of a good size: a header and a small file each are not worth a write. */
function* batched(pieces: Iterable<Buffer>): Generator<Buffer> {
  let batch: Buffer[] = [], bytes = 0;
  for (const piece of pieces) {
    batch.push(piece);
    bytes += piece.length;
    if (bytes < unpackChunkBytes) continue;
    yield Buffer.concat(batch, bytes);
    [batch, bytes] = [[], 0];
  }
  if (bytes > 0) yield Buffer.concat(batch, bytes);
}

/** The merged archive. Every header is made anew from what was understood, so sqfstar cannot understand it otherwise. */
function* archiveBytes(archives: readonly Archive[], entries: readonly MergedEntry[]): Generator<Buffer> {
  for (const { path, source, linkTo } of entries) {
    if (source === undefined) {
      yield encodeHeader({ path, type: "folder", mode: 0o755 });
    } else if (linkTo !== undefined) {
      yield encodeHeader({ path, type: "link", mode: 0o644, linkPath: linkTo });
    } else {
      const { entry } = source;
      // The kernel knows no other mode of a symbolic link.
      yield encodeHeader({ ...entry, path, mode: entry.type === "symlink" ? 0o777 : entry.mode });
      yield* content(archives[source.layer], entry.dataStart, entry.sizeBytes);
      yield tarPadding(entry.sizeBytes);
    }
  }
  yield tarEnd;
}

function* content(archive: Archive | undefined, start: number, sizeBytes: number): Generator<Buffer> {
  for (let at = start; at < start + sizeBytes; at += copyChunkBytes) {
    if (archive !== undefined) yield archive.read(at, Math.min(copyChunkBytes, start + sizeBytes - at));
  }
}

function rootAttributes(entries: readonly MergedEntry[]): SquashfsRoot & Pick<TarEntry, "mode"> {
  return entries.find(({ path }) => path === "")?.source?.entry ?? { mode: 0o755, uid: 0, gid: 0, mtimeSeconds: 0 };
}

/** All uids and gids but the root folder's. A folder that no layer names is root's. */
function idsOf(entries: readonly MergedEntry[]): Set<number> {
  return new Set(entries.filter(({ path, linkTo }) => path !== "" && linkTo === undefined).flatMap(({ source }) => [source?.entry.uid ?? 0, source?.entry.gid ?? 0]));
}

async function runSqfstar(bytes: Iterable<Buffer>, image: string, rootMode: number, { signal }: WaitOptions): Promise<void> {
  // Not compressed: the guest reads it from the host's page cache, and unpacking on an emulated CPU costs more than the disk.
  const sqfstar = await startProcess("sqfstar", ["-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX", "-reproducible", "-mkfs-time", "0", "-root-mode", rootMode.toString(8), image], { stdio: ["pipe", "ignore", "pipe"] });
  const { stdin, stderr } = sqfstar.child;
  if (stdin === null || stderr === null) throw new RuntimeError("internal", "sqfstar has no pipes");
  let messages = "";
  stderr.on("data", (chunk: Buffer) => { messages = (messages + chunk.toString()).slice(-2000); });
  let failure: unknown;
  try {
    await pipeline(Readable.from(batched(bytes), { objectMode: false }), stdin, { signal });
  } catch (error) {
    failure = error;
    await terminateGroup(sqfstar.child, terminateGraceMs);
  }
  const [exit] = await Promise.all([sqfstar.exited, finished(stderr)]);
  if (signal?.aborted) throw new RuntimeError("canceled", "sqfstar: canceled", { cause: signal.reason });
  if (exit.exitCode !== 0 || failure !== undefined) {
    // A program that ends early closes its input: its own words say why, and the failed write nothing.
    const said = messages.trim() === "" ? describeError(failure) : messages.trim();
    throw new RuntimeError(/No space left/.test(said) ? "resource_exhausted" : "internal", `sqfstar: ${describeExit(exit)}: ${said}`, { cause: RuntimeError.is(failure) ? failure : undefined });
  }
}
