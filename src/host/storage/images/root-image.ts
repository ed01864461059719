import { createHash, type Hash } from "node:crypto";
import { closeSync, createReadStream, createWriteStream, mkdtempSync, openSync, readSync, renameSync, rmSync, statSync, chmodSync, fsyncSync } from "node:fs";
import { dirname, join } from "node:path";
import { Readable, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { RuntimeError, isErrnoException } from "../../../shared/base/errors.ts";
import { describeExit, startProcess } from "../../../shared/linux/run-process.ts";
import { mergeLayers, type MergedEntry } from "./merge-layers.ts";
import { encodeHeader, folderHeader, readOwner, renamedHeader, type Archive } from "./tar.ts";

/** File system of a container image's root. ADR 0005 says why. */
export const rootFileSystem = "squashfs";
/** Unpacked size above which an image is taken for a bomb. */
const maxUnpackedBytes = 64 * 1024 ** 3;
const copyChunkBytes = 1024 * 1024;

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
 * to mksquashfs as one archive, so that owners, devices, links and attributes are what the layers say
 * whoever runs this. The result appears whole or not at all.
 */
export async function makeRootImage(layers: readonly LayerBlob[], target: string): Promise<void> {
  const folder = mkdtempSync(join(dirname(target), ".new-"));
  const archives: FileArchive[] = [];
  try {
    let budget = maxUnpackedBytes;
    for (const [index, layer] of layers.entries()) {
      const path = join(folder, `${index}.tar`);
      await unpackLayer(layer, path, budget);
      const archive = new FileArchive(path);
      archives.push(archive);
      budget -= archive.sizeBytes;
    }
    const image = join(folder, "root.img");
    const entries = mergeLayers(archives);
    await runSqfstar(archiveBytes(archives, entries.filter(({ path }) => path !== "")), image, rootOwner(archives, entries));
    chmodSync(image, 0o444);
    const fd = openSync(image, "r");
    fsyncSync(fd);
    closeSync(fd);
    renameSync(image, target);
  } finally {
    for (const archive of archives) archive.close();
    rmSync(folder, { recursive: true, force: true });
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
    const bytes = Buffer.alloc(length);
    const read = readSync(this.#fd, bytes, 0, length, position);
    return bytes.subarray(0, read);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** Decompresses a layer and checks both of its digests. @throws RuntimeError `data_loss` (reason `image_corrupt`) naming the digest. */
async function unpackLayer(layer: LayerBlob, path: string, maxBytes: number): Promise<void> {
  const blobHash = createHash("sha256");
  const archiveHash = createHash("sha256");
  const unpack = decompressor(layer.path);
  try {
    await pipeline([createReadStream(layer.path), tap(blobHash), ...(unpack === undefined ? [] : [unpack]), tap(archiveHash, maxBytes), createWriteStream(path)]);
  } catch (error) {
    if (RuntimeError.is(error) || isErrnoException(error)) throw RuntimeError.wrap(error, `unpack layer "${layer.digest}"`);
    throw new RuntimeError("data_loss", `unpack layer "${layer.digest}"`, { cause: error, reason: "image_corrupt", hint: "remove the image and pull it again" });
  }
  const digests = [[blobHash, layer.digest], [archiveHash, layer.diffId]] as const;
  for (const [hash, expected] of digests) {
    const found = `sha256:${hash.digest("hex")}`;
    if (found !== expected) throw new RuntimeError("data_loss", `layer "${layer.digest}" is corrupt: its content has digest ${found}, expected ${expected}`, { reason: "image_corrupt", hint: "remove the image and pull it again" });
  }
}

/** Passes bytes on and hashes them; fails above the limit. */
function tap(hash: Hash, maxBytes = Infinity): Transform {
  let bytes = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      if (bytes > maxBytes) done(new RuntimeError("resource_exhausted", `image unpacks to more than ${maxUnpackedBytes} bytes`, { reason: "image_too_large" }));
      else {
        hash.update(chunk);
        done(null, chunk);
      }
    },
  });
}

/** By the first bytes: media types are sometimes wrong, magic numbers never. */
function decompressor(path: string): Transform | undefined {
  const fd = openSync(path, "r");
  const magic = Buffer.alloc(4);
  readSync(fd, magic, 0, 4, 0);
  closeSync(fd);
  if (magic[0] === 0x1f && magic[1] === 0x8b) return createGunzip();
  if (magic.readUInt32LE(0) === 0xfd2fb528) return createZstdDecompress();
  return undefined;
}

/** The merged archive: entries as their layers have them, byte for byte, but for links and folders that need other headers. */
function* archiveBytes(archives: readonly Archive[], entries: readonly MergedEntry[]): Generator<Buffer> {
  for (const { path, source, linkTo } of entries) {
    const archive = source === undefined ? undefined : archives[source.layer];
    if (source === undefined || archive === undefined) {
      yield folderHeader(path);
    } else if (linkTo !== undefined) {
      yield linkHeader(path, linkTo);
    } else {
      const moved = source.entry.path !== path;
      if (moved) yield renamedHeader(archive, source.entry, path);
      for (let at = moved ? source.entry.dataStart : source.entry.start; at < source.entry.end; at += copyChunkBytes) yield archive.read(at, Math.min(copyChunkBytes, source.entry.end - at));
    }
  }
  yield Buffer.alloc(1024); // two blocks of zeros end an archive
}

function linkHeader(path: string, linkTo: string): Buffer {
  return encodeHeader({ path, mode: 0o644, type: "1", sizeBytes: 0, linkPath: linkTo });
}

/** sqfstar takes the root folder's attributes as options, whatever the archive says of it. */
function rootOwner(archives: readonly Archive[], entries: readonly MergedEntry[]): string[] {
  const source = entries.find(({ path }) => path === "")?.source;
  const archive = source === undefined ? undefined : archives[source.layer];
  const { mode, uid, gid } = source === undefined || archive === undefined ? { mode: 0o755, uid: 0, gid: 0 } : readOwner(archive, source.entry);
  return ["-root-mode", mode.toString(8), "-root-uid", String(uid), "-root-gid", String(gid)];
}

async function runSqfstar(bytes: Iterable<Buffer>, image: string, options: readonly string[]): Promise<void> {
  // Not compressed: the guest reads it from the host's page cache, and unpacking on an emulated CPU costs more than the disk.
  const sqfstar = await startProcess("sqfstar", ["-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX", "-reproducible", "-mkfs-time", "0", ...options, image], { stdio: ["pipe", "ignore", "pipe"] });
  let messages = "";
  sqfstar.child.stderr?.on("data", (chunk: Buffer) => { messages = (messages + chunk.toString()).slice(-2000); });
  const { stdin } = sqfstar.child;
  if (stdin === null) throw new RuntimeError("internal", "sqfstar has no standard input");
  // A program that ends early closes its input; its exit code and messages say why.
  await pipeline(Readable.from(bytes, { objectMode: false }), stdin).catch((error: unknown) => { messages += String(error); });
  const exit = await sqfstar.exited;
  if (exit.exitCode !== 0) throw new RuntimeError(/No space left/.test(messages) ? "resource_exhausted" : "internal", `sqfstar: ${describeExit(exit)}: ${messages.trim()}`);
}
