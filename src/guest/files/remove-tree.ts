import { closeSync, constants, openSync } from "node:fs";
import { readdir, rmdir, unlink } from "node:fs/promises";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { beneath } from "./container-root.ts";

/** Each level of folders holds a descriptor. */
const maxDepth = 512;

/**
 * Removes a file, link or folder with all in it. Every folder is opened without following a link, so
 * that one which a process of the container puts in its place meanwhile leads nowhere.
 */
export async function removeTree(path: Buffer, depth = 0): Promise<void> {
  if (depth > maxDepth) throw new RuntimeError("failed_precondition", `remove folder: more than ${maxDepth} levels deep`);
  try {
    return await unlink(path);
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return;
    if (!isErrnoException(error, "EISDIR") && !isErrnoException(error, "EPERM")) throw error; // what unlink says of a folder
  }
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  try {
    for (const name of await readdir(`/proc/self/fd/${fd}`, { encoding: "buffer" })) await removeTree(beneath(fd, name), depth + 1);
  } finally {
    closeSync(fd);
  }
  await rmdir(path);
}
