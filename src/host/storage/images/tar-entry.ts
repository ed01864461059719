/** An entry of a tar archive, as layers use them. Names and values are bytes as latin1 text, so that any encoding stays what it is. */
export interface TarEntry {
  /** No leading "./" or "/", no trailing "/", no ".."; empty for the root folder. */
  readonly path: string;
  readonly type: "file" | "link" | "symlink" | "character" | "block" | "folder" | "fifo";
  /** Target of a link as the archive has it, else empty. */
  readonly linkPath: string;
  /** Of the content; 0 for all but files. */
  readonly sizeBytes: number;
  /** Where the content begins in the archive. */
  readonly dataStart: number;
  /** The twelve permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Whole seconds since 1970, within 32 bits. */
  readonly mtimeSeconds: number;
  /** For devices, else 0. */
  readonly deviceMajor: number;
  readonly deviceMinor: number;
  /** Extended attributes by name; undefined when there are none. */
  readonly xattrs: ReadonlyMap<string, string> | undefined;
}

export const blockBytes = 512;
/** Extended attributes in pax records, as GNU tar, Go and squashfs-tools write them. */
export const xattrKeyPrefix = "SCHILY.xattr.";
export const typeFlags: Readonly<Record<TarEntry["type"], string>> = { file: "0", link: "1", symlink: "2", character: "3", block: "4", folder: "5", fifo: "6" };

/** Bytes that fill content up to whole blocks. */
export function paddingBytes(sizeBytes: number): number {
  return (blockBytes - (sizeBytes % blockBytes)) % blockBytes;
}
