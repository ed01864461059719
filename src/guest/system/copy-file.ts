import { constants } from "node:fs";
import { chmod, chown, lchown, mkdir, open, readlink, rename, rm, symlink } from "node:fs/promises";
import { dirname } from "node:path";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import type { CopyFileRequest } from "../../shared/protocol/gen/agent/agent_pb.ts";
import { paths, requireAbsolutePath } from "../paths.ts";

const { S_IFMT, S_IFDIR, S_IFLNK, S_IFREG } = constants;

/**
 * Writes one piece of a file, or a whole folder or symlink, below the agent's folder. A file gets its
 * name when the last piece has come, so nobody sees a part of it.
 */
export async function copyFile(request: CopyFileRequest): Promise<void> {
  const path = requireAbsolutePath(request.path, "copy to");
  if (!path.startsWith(`${paths.run}/`)) throw new RuntimeError("permission_denied", `copy to "${path}": must be below ${paths.run}`);
  await mkdir(dirname(path), { recursive: true, mode: request.dirMode === 0 ? 0o750 : request.dirMode & 0o7777 });
  switch (request.fileMode & S_IFMT) {
    case S_IFDIR: return makeFolder(path, request);
    case S_IFLNK: return makeSymlink(path, request);
    case S_IFREG: case 0: return writePiece(path, request);
    default: throw new RuntimeError("invalid_argument", `copy to "${path}": mode 0${request.fileMode.toString(8)} is not a file, folder or symlink`);
  }
}

async function makeFolder(path: string, { fileMode, uid, gid }: CopyFileRequest): Promise<void> {
  await mkdir(path, { recursive: true });
  await chmod(path, fileMode & 0o7777);
  await chown(path, uid, gid);
}

async function makeSymlink(path: string, { data, uid, gid }: CopyFileRequest): Promise<void> {
  const target = Buffer.from(data).toString();
  try {
    if (await readlink(path) === target) return;
  } catch (error) {
    if (!isErrnoException(error, "ENOENT") && !isErrnoException(error, "EINVAL")) throw error;
  }
  await rm(path, { force: true });
  await symlink(target, path);
  await lchown(path, uid, gid);
}

async function writePiece(path: string, { data, offset, fileSize, fileMode, uid, gid }: CopyFileRequest): Promise<void> {
  const start = Number(offset), end = start + data.length, size = Number(fileSize);
  if (start < 0 || !Number.isSafeInteger(size) || end > size) throw new RuntimeError("invalid_argument", `copy to "${path}": bytes ${start} to ${end} of a file of ${size}`);
  const temporary = `${path}.casemate-part`;
  const file = await open(temporary, start === 0 ? "w" : "r+", 0o600);
  try {
    await file.write(data, 0, data.length, start);
    if (end < size) return;
    await file.chown(uid, gid);
    await file.chmod(fileMode & 0o7777);
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}
