import { constants, createReadStream, type Stats } from "node:fs";
import { chmod, chown, lchown, lstat, mkdir, open, readdir, readlink, rm, stat, symlink, utimes } from "node:fs/promises";
import { basename, join } from "node:path";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import type { FileFacts } from "../../shared/protocol/gen/file_pb.ts";
import type { ContainerFileClient, FileAttributesInit } from "./container-file-client.ts";

const { S_IFMT, S_IFDIR, S_IFREG, S_IFLNK } = constants;
const nanosPerMilli = 1_000_000n;

/** How a tree is copied. */
export interface CopyOptions {
  /** Owners go with the files (docker cp -a); else what is made belongs to the container's user, or on the host to the caller. Default: false. */
  readonly keepOwner?: boolean;
  /** A source that is a link is copied as what it leads to (docker cp -L); links in a folder stay links. Default: false. */
  readonly followLink?: boolean;
}

/** Copies a file, link or folder of the host, with all in it, to exactly that path of a container. Links are copied as links. */
export async function uploadTree(client: ContainerFileClient, source: string, target: string, { followLink = false, ...options }: CopyOptions = {}): Promise<void> {
  const stats = await (followLink ? stat(source) : lstat(source));
  const attributes = uploadAttributes(stats, options);
  if (stats.isSymbolicLink()) {
    await client.remove(target, { recursive: false, force: true });
    await client.makeSymlink(target, await readlink(source), attributes);
  } else if (stats.isDirectory()) {
    await makeContainerFolder(client, target, attributes);
    for (const name of (await readdir(source)).sort()) await uploadTree(client, join(source, name), join(target, name), options);
    await client.setAttributes(target, attributes); // the time last: what was put into it has changed it
  } else if (stats.isFile()) {
    await replaceLink(client, target);
    await client.write(target, createReadStream(source, { highWaterMark: 512 * 1024 }) as AsyncIterable<Uint8Array>, { attributes });
    await client.setAttributes(target, attributes);
  } else {
    throw new RuntimeError("invalid_argument", `copy "${source}": only files, folders and links can be copied`, { reason: "not_a_file" });
  }
}

/**
 * Copies a file, link or folder of a container to exactly that path of the host. Names are the guest's
 * word: none leads out of the target, and no link that is made here is followed. `folder/.` is the folder,
 * also where a link leads to it.
 */
export async function downloadTree(client: ContainerFileClient, source: string, target: string, options: CopyOptions = {}): Promise<void> {
  const contentOnly = source.endsWith("/.");
  const path = contentOnly ? source.slice(0, -1) : source;
  await download(client, path, target, await client.stat(path, contentOnly || options.followLink === true), options);
}

async function download(client: ContainerFileClient, source: string, target: string, facts: FileFacts, options: CopyOptions): Promise<void> {
  const kind = facts.mode & S_IFMT;
  if (kind === S_IFLNK) {
    await rm(target, { force: true });
    await symlink(Buffer.from(facts.linkTarget), target);
    if (options.keepOwner === true) await lchown(target, facts.uid, facts.gid);
    return;
  }
  if (kind === S_IFDIR) {
    await makeHostFolder(target);
    for await (const entry of client.list(source)) {
      const name = safeName(entry.name);
      await download(client, `${source.replace(/\/+$/, "")}/${name}`, join(target, name), entry, options);
    }
  } else if (kind === S_IFREG) {
    await rm(target, { force: true }); // a link there would be followed
    const file = await open(target, "wx", 0o600);
    try {
      for await (const bytes of client.read(source)) await file.writeFile(bytes);
    } finally {
      await file.close();
    }
  } else {
    throw new RuntimeError("invalid_argument", `copy "${source}": only files, folders and links can be copied`, { reason: "not_a_file" });
  }
  if (options.keepOwner === true) await chown(target, facts.uid, facts.gid);
  await chmod(target, facts.mode & 0o777 & ~process.umask());
  const seconds = Number(facts.modifiedUnixNanos) / 1e9;
  await utimes(target, seconds, seconds);
}

/** Where docker's cp puts a source: into a folder that is there, else to the name itself. */
export function targetIn(target: string, isFolder: boolean, source: string): string {
  return isFolder ? join(target, basename(source)) : target;
}

function uploadAttributes(stats: Stats, { keepOwner = false }: CopyOptions): FileAttributesInit {
  return {
    mode: stats.mode & 0o7777,
    modifiedUnixNanos: BigInt(Math.round(stats.mtimeMs)) * nanosPerMilli,
    ...(keepOwner && { uid: stats.uid, gid: stats.gid }),
  };
}

/** A folder that is there is gone on with; a link to one too, as docker does: it cannot lead out of the container. */
async function makeContainerFolder(client: ContainerFileClient, path: string, attributes: FileAttributesInit): Promise<void> {
  try {
    await client.makeFolder(path, { recursive: false, attributes });
  } catch (error) {
    if (!RuntimeError.is(error, "already_exists") && path !== "/") throw error;
    if (((await client.stat(path)).mode & S_IFMT) !== S_IFDIR) throw error;
  }
}

/** A file replaces a link instead of being written to where it leads. */
async function replaceLink(client: ContainerFileClient, path: string): Promise<void> {
  try {
    if (((await client.stat(path, false)).mode & S_IFMT) === S_IFLNK) await client.remove(path, { recursive: false, force: true });
  } catch (error) {
    if (!RuntimeError.is(error, "not_found")) throw error;
  }
}

async function makeHostFolder(path: string): Promise<void> {
  try {
    await mkdir(path, 0o700);
  } catch (error) {
    if (!isErrnoException(error, "EEXIST")) throw error;
    if (!(await lstat(path)).isDirectory()) throw new RuntimeError("failed_precondition", `copy to "${path}": something that is no folder is there`, { reason: "not_a_folder", cause: error });
  }
}

/** @throws RuntimeError `data_loss` for a name that no file can have: only a broken or hostile guest says so. */
function safeName(bytes: Uint8Array): string {
  const name = Buffer.from(bytes).toString("utf8");
  if (name === "" || name === "." || name === ".." || name.includes("/") || name.includes("\0")) throw new RuntimeError("data_loss", `the guest named a file "${name}"`, { reason: "bad_guest_answer" });
  if (!Buffer.from(name).equals(bytes)) throw new RuntimeError("unimplemented", `copy "${name}": its name is not UTF-8`, { reason: "name_not_utf8" });
  return name;
}
