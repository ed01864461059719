import { constants } from "node:fs";
import { PassThrough, Readable, Writable } from "node:stream";
import { RuntimeError } from "../shared/base/errors.ts";
import type { FileFacts } from "../shared/protocol/gen/file_pb.ts";
import type { SandboxConnection } from "./connection.ts";

/** What is known of a file, as Node's `Stats` says it. */
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

/** An entry of a folder. */
export interface FileEntry extends FileStat {
  readonly name: string;
  /** Absolute, in the sandbox. */
  readonly path: string;
}

/** What has changed in a watched folder or file. */
export interface FileChange {
  /** `rename`: made, removed or moved. `change`: its content or attributes. */
  readonly type: "rename" | "change";
  /** Name in the folder; empty when the watched path is a file. */
  readonly name: string;
}

/** What a file is written from. */
export type FileContent = string | Uint8Array | AsyncIterable<string | Uint8Array> | ReadableStream<Uint8Array>;

/** How {@link SandboxFiles.write} writes. */
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

  /** A file's content as UTF-8 text. */
  async read(path: string): Promise<string> {
    return (await this.readBytes(path)).toString("utf8");
  }

  /** A file's content. */
  async readBytes(path: string): Promise<Buffer> {
    return this.#connection.use(async () => Buffer.concat(await collect(this.#connection.files.read(path))));
  }

  /** A file's content as a stream; `Readable.toWeb()` makes a web stream of it. */
  readStream(path: string): Readable {
    const { files } = this.#connection;
    return Readable.from(keepingAlive(this.#connection, () => files.read(path)), { objectMode: false });
  }

  /** Makes or replaces a file. The folder must be there: see {@link mkdir}. */
  async write(path: string, content: FileContent, options: FileWriteOptions = {}): Promise<void> {
    const { append, mode, uid, gid } = options;
    const attributes = mode === undefined && uid === undefined && gid === undefined ? undefined : { ...(mode !== undefined && { mode }), ...(uid !== undefined && { uid }), ...(gid !== undefined && { gid }) };
    await this.#connection.use(() => this.#connection.files.write(path, toChunks(content), { attributes, ...(append !== undefined && { append }) }));
  }

  /** What is in a folder, in the order of names. */
  async list(path: string): Promise<FileEntry[]> {
    const facts = await this.#connection.use(() => collect(this.#connection.files.list(path)));
    return facts.map((one) => {
      const name = Buffer.from(one.name).toString();
      return { name, path: `${path.replace(/\/+$/, "")}/${name}`, ...toStat(one) };
    });
  }

  /** What a path leads to. @throws RuntimeError `not_found`. */
  async stat(path: string): Promise<FileStat> {
    return toStat(await this.#connection.use(() => this.#connection.files.stat(path)));
  }

  /** The same, but of a link about itself. */
  async lstat(path: string): Promise<FileStat> {
    return toStat(await this.#connection.use(() => this.#connection.files.stat(path, false)));
  }

  /** True when there is something at a path. */
  async exists(path: string): Promise<boolean> {
    try {
      await this.stat(path);
      return true;
    } catch (error) {
      if (RuntimeError.is(error, "not_found")) return false;
      throw error;
    }
  }

  /** Makes a folder; `recursive`: also those above it, and none of them need be new. */
  async mkdir(path: string, options: { readonly recursive?: boolean; readonly mode?: number } = {}): Promise<void> {
    const { recursive = false, mode } = options;
    await this.#connection.use(() => this.#connection.files.makeFolder(path, { recursive, ...(mode !== undefined && { attributes: { mode } }) }));
  }

  /** Moves a file or folder; what is at the new path is replaced. */
  async rename(path: string, to: string): Promise<void> {
    await this.#connection.use(() => this.#connection.files.rename(path, to));
  }

  /** Removes a file, a link, an empty folder, or with `recursive` a folder with all in it. With `force` nothing there is fine. */
  async remove(path: string, options: { readonly recursive?: boolean; readonly force?: boolean } = {}): Promise<void> {
    await this.#connection.use(() => this.#connection.files.remove(path, { recursive: options.recursive ?? false, force: options.force ?? false }));
  }

  /** Makes a symbolic link at `path` that leads to `target`. */
  async symlink(target: string, path: string): Promise<void> {
    await this.#connection.use(() => this.#connection.files.makeSymlink(path, target));
  }

  /** Sets permission bits and owner. */
  async setAttributes(path: string, attributes: { readonly mode?: number; readonly uid?: number; readonly gid?: number; readonly modifiedAt?: Date }): Promise<void> {
    const { modifiedAt, ...rest } = attributes;
    await this.#connection.use(() => this.#connection.files.setAttributes(path, { ...rest, ...(modifiedAt !== undefined && { modifiedUnixNanos: BigInt(modifiedAt.getTime()) * 1_000_000n }) }));
  }

  /**
   * Changes in a folder (not in those below it), or of a file, from the moment the promise resolves.
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

  /** Copies a file or folder of this machine, with all in it, to exactly that path of the sandbox. Links are copied as links. */
  async upload(hostPath: string, path: string): Promise<void> {
    const { uploadTree } = await import("../host/containers/copy-tree.ts");
    await this.#connection.use(() => uploadTree(this.#connection.files, hostPath, path));
  }

  /** Copies a file or folder of the sandbox, with all in it, to exactly that path of this machine. No link in it is followed. */
  async download(path: string, hostPath: string): Promise<void> {
    const { downloadTree } = await import("../host/containers/copy-tree.ts");
    await this.#connection.use(() => downloadTree(this.#connection.files, path, hostPath));
  }

  /** A stream that writes a file; when it finishes, the file is whole. */
  writeStream(path: string, options: FileWriteOptions = {}): Writable {
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

async function* toChunks(content: FileContent): AsyncGenerator<Uint8Array> {
  if (typeof content === "string" || content instanceof Uint8Array) yield Buffer.from(content);
  else for await (const chunk of content) yield typeof chunk === "string" ? Buffer.from(chunk) : chunk;
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
