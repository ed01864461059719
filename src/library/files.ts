import { constants } from "node:fs";
import { PassThrough, Readable, Writable } from "node:stream";
import type { ContainerFileClient } from "../host/containers/container-file-client.ts";
import { orAbandon } from "../shared/base/deadline.ts";
import { RuntimeError } from "../shared/base/errors.ts";
import type { FileFacts } from "../shared/protocol/gen/file_pb.ts";
import type { SandboxConnection } from "./connection.ts";
import type { CallOptions } from "./options.ts";

/**
 * What is known of a file, as Node's `Stats` says it.
 *
 * @example
 * const { type, mode, sizeBytes }: FileStat = await sandbox.files.stat("/etc/hosts");
 */
export interface FileStat {
  readonly type: "file" | "folder" | "link" | "other";
  readonly sizeBytes: number;
  /** Permission bits, e.g. 0o644. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly modifiedAt: Date;
  /** Where a link leads to; empty for all else. */
  readonly linkTarget: string;
}

/**
 * An entry of a folder.
 *
 * @example
 * const largest = (await sandbox.files.list("/bin")).reduce((a: FileEntry, b: FileEntry) => (a.sizeBytes > b.sizeBytes ? a : b));
 */
export interface FileEntry extends FileStat {
  readonly name: string;
  /** Absolute, in the sandbox. */
  readonly path: string;
}

/**
 * What has changed in a watched folder or file.
 *
 * @example
 * for await (const { type, name } of await sandbox.files.watch("/w")) if (type === "rename") console.log(`${name} came or went`);
 */
export interface FileChange {
  /** `rename`: made, removed or moved. `change`: its content or attributes. */
  readonly type: "rename" | "change";
  /** Name in the folder; empty when the watched path is a file. */
  readonly name: string;
}

/**
 * What a file is written from.
 *
 * @example
 * const content: FileContent = (await fetch("https://example.com/")).body ?? "";
 * await sandbox.files.write("/page.html", content);
 */
export type FileContent = string | Uint8Array | AsyncIterable<string | Uint8Array> | ReadableStream<Uint8Array>;

/**
 * How {@link SandboxFiles.write} writes.
 *
 * @example
 * const options: FileWriteOptions = { mode: 0o600, uid: 1000, gid: 1000 };
 * await sandbox.files.write("/key", "secret", options);
 */
export interface FileWriteOptions {
  /** Add to what is there. */
  readonly append?: boolean;
  /** Permission bits; default for a new file: 0o644. */
  readonly mode?: number;
  /** Owner; default for a new file: the sandbox's user. */
  readonly uid?: number;
  readonly gid?: number;
}

const { S_IFMT, S_IFREG, S_IFDIR, S_IFLNK } = constants;
const types: Readonly<Record<number, FileStat["type"]>> = { [S_IFREG]: "file", [S_IFDIR]: "folder", [S_IFLNK]: "link" };

/**
 * Files of a sandbox, read and changed with root's rights beneath the sandbox's own root: no link in it
 * leads anywhere else. Paths are absolute. Errors have Node's meanings as codes: `not_found`,
 * `already_exists`, `permission_denied`, ...
 *
 * @example
 * await sandbox.files.write("/w/a.txt", "x");
 * console.log(await sandbox.files.read("/w/a.txt"));
 */
export class SandboxFiles {
  readonly #connection: SandboxConnection;

  /** @internal */
  constructor(connection: SandboxConnection) {
    this.#connection = connection;
  }

  /**
   * A file's content as UTF-8 text.
   *
   * @example
   * console.log(await sandbox.files.read("/etc/hostname"));
   */
  async read(path: string, options: CallOptions = {}): Promise<string> {
    return (await this.readBytes(path, options)).toString("utf8");
  }

  /**
   * A file's content.
   *
   * @example
   * const bytes = await sandbox.files.readBytes("/bin/busybox", { timeoutMs: 10_000 });
   */
  async readBytes(path: string, options: CallOptions = {}): Promise<Buffer> {
    return this.#work("read file", path, options, async (files) => {
      const pieces = await collect(files.read(path, { whole: true }));
      const [only] = pieces;
      return only !== undefined && pieces.length === 1 ? Buffer.from(only.buffer, only.byteOffset, only.length) : Buffer.concat(pieces);
    });
  }

  /**
   * A file's content as a stream; `Readable.toWeb()` makes a web stream of it. A limit that ends it
   * destroys the stream with its error.
   *
   * @example
   * import { createWriteStream } from "node:fs";
   * import { pipeline } from "node:stream/promises";
   * await pipeline(sandbox.files.readStream("/bin/busybox"), createWriteStream("busybox"));
   */
  readStream(path: string, options: CallOptions = {}): Readable {
    const over = new AbortController();
    const files = this.#connection.files.until(over.signal);
    const stream = Readable.from(keepingAlive(this.#connection, () => files.read(path)), { objectMode: false });
    if (options.signal !== undefined || options.timeoutMs !== undefined) {
      const closed = new Promise<void>((resolve) => { stream.once("close", resolve); });
      orAbandon(closed, `read file "${path}"`, options).catch((error: Error) => {
        stream.destroy(error);
        over.abort(error); // the stream closes when what it waits for has ended
      });
    }
    return stream;
  }

  /**
   * Makes or replaces a file. The folder must be there: see {@link mkdir}.
   *
   * @throws RuntimeError `aborted` (reason `stream_interrupted`) when the sandbox's owner died meanwhile and the content is a stream, or was to be appended.
   *
   * @example
   * await sandbox.files.write("/run.sh", "#!/bin/sh\necho hi\n", { mode: 0o755 });
   */
  async write(path: string, content: FileContent, options: FileWriteOptions & CallOptions = {}): Promise<void> {
    const { append, mode, uid, gid } = options;
    const attributes = mode === undefined && uid === undefined && gid === undefined ? undefined : { ...(mode !== undefined && { mode }), ...(uid !== undefined && { uid }), ...(gid !== undefined && { gid }) };
    let begun = false;
    await this.#work("write file", path, options, async (files, signal) => {
      // Asked to do it again: the next owner knows nothing of what was written.
      if (begun && (append === true || !isWhole(content))) throw new RuntimeError("aborted", "the sandbox's owner died meanwhile, and this cannot be done twice", { reason: "stream_interrupted", hint: "look at what the file has, and write the rest or all of it again" });
      begun = true;
      await files.write(path, toChunks(content, signal), { attributes, ...(append !== undefined && { append }) });
    });
  }

  /**
   * What is in a folder, in the order of names.
   *
   * @example
   * for (const { name, type, sizeBytes } of await sandbox.files.list("/etc")) console.log(type, name, sizeBytes);
   */
  async list(path: string, options: CallOptions = {}): Promise<FileEntry[]> {
    const facts = await this.#work("list folder", path, options, (files) => collect(files.list(path)));
    return facts.map((one) => {
      const name = Buffer.from(one.name).toString();
      return { name, path: `${path.replace(/\/+$/, "")}/${name}`, ...toStat(one) };
    });
  }

  /**
   * What a path leads to.
   *
   * @throws RuntimeError `not_found`.
   *
   * @example
   * const { sizeBytes, modifiedAt } = await sandbox.files.stat("/etc/hosts");
   */
  async stat(path: string, options: CallOptions = {}): Promise<FileStat> {
    return toStat(await this.#work("stat", path, options, (files) => files.stat(path)));
  }

  /**
   * The same, but of a link about itself.
   *
   * @example
   * console.log((await sandbox.files.lstat("/bin/sh")).linkTarget);
   */
  async lstat(path: string, options: CallOptions = {}): Promise<FileStat> {
    return toStat(await this.#work("stat", path, options, (files) => files.stat(path, false)));
  }

  /**
   * True when there is something at a path.
   *
   * @example
   * if (!await sandbox.files.exists("/w")) await sandbox.files.mkdir("/w");
   */
  async exists(path: string, options: CallOptions = {}): Promise<boolean> {
    try {
      await this.stat(path, options);
      return true;
    } catch (error) {
      if (RuntimeError.is(error, "not_found")) return false;
      throw error;
    }
  }

  /**
   * Makes a folder; `recursive`: also those above it, and none of them need be new.
   *
   * @example
   * await sandbox.files.mkdir("/w/deep/er", { recursive: true });
   */
  async mkdir(path: string, options: { readonly recursive?: boolean; readonly mode?: number } & CallOptions = {}): Promise<void> {
    const { recursive = false, mode } = options;
    await this.#work("make folder", path, options, (files) => files.makeFolder(path, { recursive, ...(mode !== undefined && { attributes: { mode } }) }));
  }

  /**
   * Moves a file or folder; what is at the new path is replaced.
   *
   * @example
   * await sandbox.files.rename("/w/new", "/w/current");
   */
  async rename(path: string, to: string, options: CallOptions = {}): Promise<void> {
    await this.#work("rename", path, options, (files) => files.rename(path, to));
  }

  /**
   * Removes a file, a link, an empty folder, or with `recursive` a folder with all in it. With `force` nothing there is fine.
   *
   * @example
   * await sandbox.files.remove("/w", { recursive: true, force: true });
   */
  async remove(path: string, options: { readonly recursive?: boolean; readonly force?: boolean } & CallOptions = {}): Promise<void> {
    const { recursive = false, force = false } = options;
    await this.#work("remove", path, options, (files) => files.remove(path, { recursive, force }));
  }

  /**
   * Makes a symbolic link at `path` that leads to `target`.
   *
   * @example
   * await sandbox.files.symlink("/etc/hosts", "/w/hosts");
   */
  async symlink(target: string, path: string, options: CallOptions = {}): Promise<void> {
    await this.#work("make link", path, options, (files) => files.makeSymlink(path, target));
  }

  /**
   * Sets permission bits, owner and time.
   *
   * @example
   * await sandbox.files.setAttributes("/w/a.txt", { mode: 0o600, uid: 1000 });
   */
  async setAttributes(path: string, attributes: { readonly mode?: number; readonly uid?: number; readonly gid?: number; readonly modifiedAt?: Date }, options: CallOptions = {}): Promise<void> {
    const { modifiedAt, ...rest } = attributes;
    await this.#work("set attributes of", path, options, (files) => files.setAttributes(path, { ...rest, ...(modifiedAt !== undefined && { modifiedUnixNanos: BigInt(modifiedAt.getTime()) * 1_000_000n }) }));
  }

  /**
   * Changes in a folder (not in those below it), or of a file, from the moment the promise resolves; the
   * signal ends them.
   *
   * @example
   * const stop = new AbortController();
   * for await (const { type, name } of await sandbox.files.watch("/w", { signal: stop.signal })) console.log(type, name);
   */
  async watch(path: string, options: { readonly signal?: AbortSignal } = {}): Promise<AsyncIterable<FileChange>> {
    const stop = new AbortController();
    const signal = options.signal === undefined ? stop.signal : AbortSignal.any([stop.signal, options.signal]);
    const changes = await this.#connection.use(() => this.#connection.files.watch(path, signal));
    return keepingAlive(this.#connection, async function* watched() {
      try {
        for await (const { kind, name } of changes) yield { type: kind === "rename" ? "rename" as const : "change" as const, name: Buffer.from(name).toString() };
      } catch (error) {
        if (!RuntimeError.is(error, "canceled")) throw error;
      } finally {
        stop.abort();
      }
    });
  }

  /**
   * Copies a file or folder of this machine, with all in it, to exactly that path of the sandbox. Links are copied as links.
   *
   * @example
   * await sandbox.files.upload("./project", "/w");
   */
  async upload(hostPath: string, path: string, options: CallOptions = {}): Promise<void> {
    const { uploadTree } = await import("../host/containers/copy-tree.ts");
    await this.#work("upload to", path, options, (files) => uploadTree(files, hostPath, path));
  }

  /**
   * Copies a file or folder of the sandbox, with all in it, to exactly that path of this machine. No link in it is followed.
   *
   * @example
   * await sandbox.files.download("/w/result", "./result");
   */
  async download(path: string, hostPath: string, options: CallOptions = {}): Promise<void> {
    const { downloadTree } = await import("../host/containers/copy-tree.ts");
    await this.#work("download", path, options, (files) => downloadTree(files, path, hostPath));
  }

  /**
   * A stream that writes a file; when it finishes, the file is whole.
   *
   * @example
   * import { createReadStream } from "node:fs";
   * import { pipeline } from "node:stream/promises";
   * await pipeline(createReadStream("data.csv"), sandbox.files.writeStream("/w/data.csv"));
   */
  writeStream(path: string, options: FileWriteOptions & CallOptions = {}): Writable {
    const input = new PassThrough();
    const written = this.write(path, input, options);
    const stream = new Writable({
      write: (chunk: Buffer, _encoding, done) => { input.write(chunk, done); },
      final: (done) => {
        input.end();
        written.then(() => done(), done);
      },
      destroy: (error, done) => {
        input.destroy(error ?? undefined);
        written.then(() => done(error), () => done(error));
      },
    });
    written.catch((error: Error) => stream.destroy(error));
    return stream;
  }

  async #work<T>(what: string, path: string, options: CallOptions, work: (files: ContainerFileClient, signal: AbortSignal | undefined) => Promise<T>): Promise<T> {
    return this.#connection.useWithin(`${what} "${path}"`, options, (_client, signal) => work(this.#connection.files.until(signal), signal));
  }
}

/** Content that can be written again from its start. */
function isWhole(content: FileContent): content is string | Uint8Array {
  return typeof content === "string" || content instanceof Uint8Array;
}

function toStat(facts: FileFacts): FileStat {
  return {
    type: types[facts.mode & S_IFMT] ?? "other",
    sizeBytes: Number(facts.sizeBytes),
    mode: facts.mode & 0o7777,
    uid: facts.uid,
    gid: facts.gid,
    modifiedAt: new Date(Number(facts.modifiedUnixNanos / 1_000_000n)),
    linkTarget: Buffer.from(facts.linkTarget).toString(),
  };
}

async function collect<T>(values: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = [];
  for await (const value of values) collected.push(value);
  return collected;
}

async function* toChunks(content: FileContent, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
  if (typeof content === "string") yield Buffer.from(content);
  else if (content instanceof Uint8Array) yield content;
  else for await (const chunk of untilAborted(content as AsyncIterable<string | Uint8Array>, signal)) yield typeof chunk === "string" ? Buffer.from(chunk) : chunk;
}

/** What a source gives until the signal. Then the source is told, and not waited for: it may have nothing to give for ever. */
async function* untilAborted<T>(source: AsyncIterable<T>, signal: AbortSignal | undefined): AsyncGenerator<T> {
  if (signal === undefined) {
    yield* source;
    return;
  }
  const iterator = source[Symbol.asyncIterator]();
  const aborted = Promise.withResolvers<never>();
  aborted.promise.catch(() => { /* nothing may be waited for when it comes */ });
  const abort = (): void => {
    aborted.reject(signal.reason as Error); // whatever the caller ended it with
    if (source instanceof Readable) source.destroy();
  };
  signal.addEventListener("abort", abort, { once: true });
  if (signal.aborted) abort();
  try {
    for (;;) {
      const next = await Promise.race([iterator.next(), aborted.promise]);
      if (next.done === true) return;
      yield next.value;
    }
  } finally {
    signal.removeEventListener("abort", abort);
    void iterator.return?.().catch(() => undefined); // its failure is nobody's any more
  }
}

/** Values of a generator; the program does not end by itself while somebody reads them. */
async function* keepingAlive<T>(connection: SandboxConnection, make: () => AsyncIterable<T>): AsyncGenerator<T> {
  const over = Promise.withResolvers<void>();
  const kept = connection.use(() => over.promise);
  kept.catch(() => undefined); // the values themselves tell of a lost connection
  try {
    yield* make();
  } finally {
    over.resolve();
    await kept.catch(() => undefined);
  }
}
