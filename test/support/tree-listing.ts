import { createHash } from "node:crypto";
import { lstatSync, readFileSync, readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { runProcess } from "../../src/shared/linux/run-process.ts";

/** All that can be seen of one entry of a file system. */
export interface ListedEntry {
  readonly type: string;
  readonly mode: string;
  readonly owner: string;
  readonly mtimeSeconds: number;
  /** Sizes of folders are the file system's own affair. */
  readonly sizeBytes: number | undefined;
  /** For all but folders. */
  readonly linkCount: number | undefined;
  /** The first path, in order, of those that are the same file. */
  readonly sameAs: string;
  readonly content: string;
  readonly device: string;
  readonly xattrs: string;
}

/** Lists a file system from a folder down; paths are latin1 text of their bytes, the folder itself is "". */
export async function listTree(folder: string): Promise<Map<string, ListedEntry>> {
  const xattrs = await listXattrs(folder);
  const inodes = new Map<bigint, string>();
  const entries = new Map<string, ListedEntry>();
  const visit = (path: string): void => {
    const full = Buffer.from(path === "" ? folder : join(folder, "/") + path, "latin1");
    const stat = lstatSync(full, { bigint: true });
    const isFolder = stat.isDirectory();
    if (!inodes.has(stat.ino)) inodes.set(stat.ino, path);
    const isDevice = stat.isBlockDevice() || stat.isCharacterDevice();
    entries.set(path, {
      type: (stat.mode & 0o170000n).toString(8),
      mode: (stat.mode & 0o7777n).toString(8),
      owner: `${stat.uid}:${stat.gid}`,
      mtimeSeconds: Math.floor(Number(stat.mtimeMs) / 1000),
      sizeBytes: isFolder ? undefined : Number(stat.size),
      linkCount: isFolder ? undefined : Number(stat.nlink),
      sameAs: inodes.get(stat.ino) ?? "",
      content: stat.isSymbolicLink() ? readlinkSync(full, "latin1") : stat.isFile() ? createHash("sha256").update(readFileSync(full)).digest("hex") : "",
      device: isDevice ? String(stat.rdev) : "",
      xattrs: xattrs.get(path) ?? "",
    });
    if (isFolder) for (const name of readdirSync(full, { encoding: "latin1" }).toSorted()) visit(path === "" ? name : `${path}/${name}`);
  };
  visit("");
  return entries;
}

/** `getfattr`'s blocks by path; it writes unusual bytes of names in octal. */
async function listXattrs(folder: string): Promise<Map<string, string>> {
  const { stdout } = await runProcess("getfattr", ["-R", "-P", "-h", "-d", "-m", "-", "-e", "hex", "--absolute-names", folder]);
  return new Map(stdout.toString("latin1").split("\n\n").filter((block) => block !== "").map((block) => {
    const [head = "", ...values] = block.split("\n");
    const path = head.replace("# file: ", "").replace(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
    return [path.slice(folder.length + 1), values.toSorted().join(" ")];
  }));
}
