import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { dirname } from "node:path";

/**
 * Writes a file so that after a crash either the old or the new content is there: temporary file, fsync,
 * rename, fsync of the folder. Not `durable`: the same for a crash of this process only, without the
 * two fsync; after one of the host either content may be there, or none. `content`: of several files of
 * one folder whose last is written durably, which makes the names of all durable.
 */
export function writeFileAtomic(path: string, content: string | Uint8Array, mode = 0o600, { durable = true }: { readonly durable?: boolean | "content" } = {}): void {
  const temporary = `${path}.tmp-${process.pid}`;
  const bytes = typeof content === "string" ? Buffer.from(content) : content;
  try {
    const fd = openSync(temporary, "w", mode);
    try {
      for (let offset = 0; offset < bytes.length;) offset += writeSync(fd, bytes, offset);
      if (durable !== false) fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
  if (durable === true) syncPath(dirname(path));
}

/** Makes sure that a file's content, or the names in a folder, are on the disk. */
export function syncPath(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
