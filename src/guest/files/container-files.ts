import type { MessageInitShape } from "@bufbuild/protobuf";
import { closeSync, constants, fstat, ftruncate, read, watch } from "node:fs";
import { chmod, chown, lstat, mkdir, readdir, rename, rmdir, stat, symlink, unlink, utimes } from "node:fs/promises";
import { constants as systemConstants } from "node:os";
import { getSystemErrorMessage, promisify } from "node:util";
import { RuntimeError, codeOf, isErrnoException } from "../../shared/base/errors.ts";
import { PushQueue } from "../../shared/base/push-queue.ts";
import { maxLanePieceBytes } from "../../shared/channel/lane.ts";
import type { FileAttributes, FileChangeSchema, FileRequest, FileResponseSchema, MakeFolder, OpenFile, ReadFile, UseLane, WatchFileRequest, WriteFile } from "../../shared/protocol/gen/file_pb.ts";
import { LanePort } from "../channel/lane-port.ts";
import { writeAll } from "../linux/write-all.ts";
import { type ContainerRoot, beneath, splitPath } from "./container-root.ts";
import { factsAt, toFacts, type FileFactsInit } from "./file-facts.ts";
import { FileHandles } from "./file-handles.ts";
import { removeTree } from "./remove-tree.ts";

type Response = MessageInitShape<typeof FileResponseSchema>;
type Change = MessageInitShape<typeof FileChangeSchema>;

/** Most bytes of one read, and of the answer to a list of names of usual length. */
const maxReadBytes = 1024 * 1024;
const entriesPerList = 1000;
const defaultFolderMode = 0o755, defaultFileMode = 0o644;
const { O_RDONLY, O_WRONLY, O_CREAT, O_APPEND, O_NONBLOCK, O_NOCTTY, O_DIRECTORY } = constants;
const readAsync = promisify(read), fstatAsync = promisify(fstat), ftruncateAsync = promisify(ftruncate);

/** Work on the files of containers for the host. */
export class ContainerFiles {
  readonly #openRoot: (containerId: string) => ContainerRoot;
  readonly #handles = new FileHandles();

  /** `openRoot` throws for a container that does not exist. */
  constructor(openRoot: (containerId: string) => ContainerRoot) {
    this.#openRoot = openRoot;
  }

  /** One operation. @throws RuntimeError with the code of the system's error, e.g. `not_found`. */
  async perform({ containerId, path, operation }: FileRequest): Promise<Response> {
    const { case: name } = operation;
    if (name === undefined) throw new RuntimeError("invalid_argument", "file: no operation");
    try {
      // These have the file already, and may outlive the container's process.
      if (name === "read") return await this.#read(containerId, operation.value);
      if (name === "write") return await this.#write(containerId, operation.value);
      if (name === "useLane") return await this.#useLane(containerId, operation.value);
      if (name === "close") {
        await this.#handles.close(containerId, operation.value.handle);
        return {};
      }
      using root = this.#openRoot(containerId);
      switch (name) {
        case "stat": return { facts: await factsOf(root, path, operation.value.followLink) };
        case "list": return await listFolder(root, path, operation.value.skip);
        case "makeFolder": return await makeFolder(root, path, operation.value);
        case "rename": return await renameFile(root, path, operation.value.to);
        case "remove": return await removeFile(root, path, operation.value);
        case "makeSymlink": return await makeSymlink(root, path, operation.value.target, operation.value.attributes);
        case "setAttributes": return await apply(root, path, operation.value);
        case "open": return await this.#open(containerId, root, path, operation.value);
      }
    } catch (error) {
      throw RuntimeError.wrap(withoutOwnPath(error), `${words[name]} "${Buffer.from(path).toString()}"`);
    }
  }

  /** Closes a container's files, so that its file systems can be unmounted. */
  async closeAll(containerId: string): Promise<void> {
    await this.#handles.closeAll(containerId);
  }

  /** Changes in a folder, or of a file, until the signal. */
  async *watch({ containerId, path }: WatchFileRequest, signal: AbortSignal): AsyncGenerator<Change> {
    using root = this.#openRoot(containerId);
    const fd = root.look(path, true);
    const changes = new PushQueue<Change>();
    try {
      const isFolder = (await fstatAsync(fd)).isDirectory();
      const watcher = watch(`/proc/self/fd/${fd}`, "buffer", (kind, name) => changes.push({ kind, ...(isFolder && name !== null && { name }) }));
      watcher.on("error", () => changes.end());
      signal.addEventListener("abort", () => changes.end(), { once: true });
      changes.push({ kind: "" });
      try {
        if (!signal.aborted) yield* changes;
      } finally {
        watcher.close();
      }
    } catch (error) {
      throw RuntimeError.wrap(withoutOwnPath(error), `watch "${Buffer.from(path).toString()}"`);
    } finally {
      closeSync(fd);
    }
  }

  async #open(containerId: string, root: ContainerRoot, path: Uint8Array, { write: toWrite, append, attributes }: OpenFile): Promise<Response> {
    // O_NONBLOCK: opening a FIFO would wait for its other end.
    const flags = O_NONBLOCK | O_NOCTTY | (toWrite ? O_WRONLY | O_CREAT | (append ? O_APPEND : 0) : O_RDONLY);
    const isNew = toWrite && isAbsent(root, path);
    const fd = root.open(path, flags, toWrite ? defaultFileMode : undefined);
    let facts: FileFactsInit;
    try {
      facts = await regularFacts(fd);
      if (toWrite && !append) await ftruncateAsync(fd, 0);
      if (toWrite) await applyTo(fd, isNew ? withOwner(root, attributes) : attributes ?? {});
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    return { facts, handle: this.#handles.add(containerId, fd) };
  }

  async #read(containerId: string, { handle, offset, length, byLane }: ReadFile): Promise<Response> {
    const { fd, lane } = this.#handles.use(containerId, handle);
    const most = byLane ? maxLanePieceBytes : maxReadBytes;
    if (length > most) throw new RuntimeError("invalid_argument", `read ${length} bytes at once: at most ${most}`);
    if (byLane) return { laneBytes: await requireLane(lane).send(fd, Number(offset), length) };
    const buffer = Buffer.allocUnsafe(length);
    let filled = 0;
    while (filled < length) {
      const { bytesRead } = await readAsync(fd, buffer, filled, length - filled, Number(offset) + filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return { bytes: buffer.subarray(0, filled) };
  }

  async #write(containerId: string, { handle, offset, bytes, laneLength }: WriteFile): Promise<Response> {
    const { fd, lane } = this.#handles.use(containerId, handle);
    if (laneLength > maxLanePieceBytes) throw new RuntimeError("invalid_argument", `write ${laneLength} bytes at once: at most ${maxLanePieceBytes}`);
    if (laneLength > 0) {
      await requireLane(lane).receive(fd, Number(offset), laneLength);
      return { laneBytes: laneLength };
    }
    await writeAll(fd, bytes, Number(offset));
    return {};
  }

  async #useLane(containerId: string, { handle, laneId }: UseLane): Promise<Response> {
    const lane = await LanePort.open(laneId);
    try {
      const file = this.#handles.use(containerId, handle); // it may have been closed meanwhile
      const before = file.lane;
      file.lane = lane;
      await before?.close();
    } catch (error) {
      await lane.close();
      throw error;
    }
    return {};
  }
}

function requireLane(lane: LanePort | undefined): LanePort {
  if (lane === undefined) throw new RuntimeError("failed_precondition", "the file has no lane", { reason: "lane_lost" });
  return lane;
}

/** A system error without the path it names: that one leads through this process's descriptors. */
function withoutOwnPath(error: unknown): unknown {
  if (!isErrnoException(error)) return error;
  const number = Object.entries(systemConstants.errno).find(([name]) => name === error.code)?.[1];
  return new RuntimeError(codeOf(error), number === undefined ? error.code : `${error.code}: ${getSystemErrorMessage(-number)}`);
}

/** What each operation is called in an error. */
const words: Readonly<Record<NonNullable<FileRequest["operation"]["case"]>, string>> = {
  stat: "look at", list: "list", makeFolder: "make folder", rename: "rename", remove: "remove", makeSymlink: "make link", setAttributes: "set attributes of",
  open: "open", read: "read", write: "write", close: "close", useLane: "open a lane to",
};

async function factsOf(root: ContainerRoot, path: Uint8Array, followLink: boolean): Promise<FileFactsInit> {
  if (followLink || splitPath(path).length === 0) {
    const fd = root.look(path, true);
    try {
      return toFacts(await stat(`/proc/self/fd/${fd}`, { bigint: true }), new Uint8Array(), new Uint8Array());
    } finally {
      closeSync(fd);
    }
  }
  using place = root.place(path);
  return await factsAt(place.path);
}

function isAbsent(root: ContainerRoot, path: Uint8Array): boolean {
  try {
    closeSync(root.look(path, true));
    return false;
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return true;
    throw error;
  }
}

async function listFolder(root: ContainerRoot, path: Uint8Array, skip: number): Promise<Response> {
  const fd = root.open(path, O_RDONLY | O_DIRECTORY);
  try {
    const names = (await readdir(`/proc/self/fd/${fd}`, { encoding: "buffer" })).sort((a, b) => a.compare(b));
    const entries: FileFactsInit[] = [];
    for (const name of names.slice(skip, skip + entriesPerList)) {
      try {
        entries.push(await factsAt(beneath(fd, name), name));
      } catch (error) {
        if (!isErrnoException(error, "ENOENT")) throw error; // removed since the folder was read
      }
    }
    return { entries, more: names.length > skip + entriesPerList };
  } finally {
    closeSync(fd);
  }
}

async function makeFolder(root: ContainerRoot, path: Uint8Array, { recursive, attributes }: MakeFolder): Promise<Response> {
  const parts = splitPath(path);
  for (let length = recursive ? 1 : parts.length; length <= parts.length; length++) {
    const part = Buffer.concat(parts.slice(0, length).flatMap((name) => [Buffer.from("/"), name]));
    if (recursive && !isAbsent(root, part)) continue;
    using place = root.place(part);
    await mkdir(place.path, defaultFolderMode);
    await apply(root, part, withOwner(root, length === parts.length ? attributes : undefined));
  }
  if (recursive) closeSync(root.open(path, O_RDONLY | O_DIRECTORY)); // something else may have been there
  return {};
}

async function renameFile(root: ContainerRoot, path: Uint8Array, to: Uint8Array): Promise<Response> {
  using from = root.place(path);
  using target = root.place(to);
  await rename(from.path, target.path);
  return {};
}

async function removeFile(root: ContainerRoot, path: Uint8Array, { recursive, force }: { readonly recursive: boolean; readonly force: boolean }): Promise<Response> {
  try {
    using place = root.place(path);
    if (recursive) await removeTree(place.path);
    else if ((await lstat(place.path)).isDirectory()) await rmdir(place.path);
    else await unlink(place.path);
  } catch (error) {
    if (!(force && isErrnoException(error, "ENOENT"))) throw error;
  }
  return {};
}

async function makeSymlink(root: ContainerRoot, path: Uint8Array, target: Uint8Array, attributes: FileAttributes | undefined): Promise<Response> {
  using place = root.place(path);
  await symlink(Buffer.from(target), place.path);
  await apply(root, path, withOwner(root, attributes));
  return {};
}

type Attributes = Partial<Pick<FileAttributes, "mode" | "uid" | "gid" | "modifiedUnixNanos">>;

/** Sets attributes of what is at a path; of a link, its own. */
async function apply(root: ContainerRoot, path: Uint8Array, attributes: Attributes): Promise<Response> {
  const fd = root.look(path, false);
  try {
    await applyTo(fd, attributes);
  } finally {
    closeSync(fd);
  }
  return {};
}

/** By /proc, which works for a descriptor that only looks, and leads to nothing but what is open. The owner first: changing it takes the set-uid bit away. */
async function applyTo(fd: number, { mode, uid, gid, modifiedUnixNanos }: Attributes): Promise<void> {
  const path = `/proc/self/fd/${fd}`;
  const unchanged = 0xffff_ffff; // chown(2): -1, which Node takes as unsigned
  if (uid !== undefined || gid !== undefined) await chown(path, uid ?? unchanged, gid ?? unchanged);
  if (mode !== undefined && !(await fstatAsync(fd)).isSymbolicLink()) await chmod(path, mode & 0o7777);
  if (modifiedUnixNanos !== undefined) await utimes(path, Number(modifiedUnixNanos) / 1e9, Number(modifiedUnixNanos) / 1e9);
}

/** Attributes of something new. */
function withOwner({ owner }: ContainerRoot, attributes: FileAttributes | undefined): Attributes {
  return { mode: attributes?.mode, uid: attributes?.uid ?? owner.uid, gid: attributes?.gid ?? owner.gid, modifiedUnixNanos: attributes?.modifiedUnixNanos };
}

/** Facts about an opened file. @throws RuntimeError `invalid_argument` (reason `not_a_file`) for folders, pipes, devices: reading one may never end. */
async function regularFacts(fd: number): Promise<FileFactsInit> {
  const stats = await stat(`/proc/self/fd/${fd}`, { bigint: true });
  if (!stats.isFile()) throw new RuntimeError("invalid_argument", stats.isDirectory() ? "it is a folder" : "it is no regular file", { reason: "not_a_file" });
  return toFacts(stats, new Uint8Array(), new Uint8Array());
}
