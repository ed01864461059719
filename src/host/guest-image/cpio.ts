/** One file of an archive. */
export interface CpioEntry {
  readonly path: string;
  readonly type: "file" | "folder";
  readonly mode: number;
  readonly content: Uint8Array;
}

/**
 * An archive in the "newc" format that the kernel unpacks as initramfs
 * (https://docs.kernel.org/driver-api/early-userspace/buffer-format.html). Owners are root and times
 * are zero, so the same entries give the same bytes.
 */
export function encodeCpio(entries: readonly CpioEntry[]): Buffer {
  const pieces: Uint8Array[] = [];
  const add = (path: string, mode: number, links: number, content: Uint8Array, inode: number): void => {
    const name = Buffer.from(`${path}\0`);
    const fields = [inode, mode, 0, 0, links, 0, content.length, 0, 0, 0, 0, name.length, 0];
    const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}`);
    pieces.push(header, name, padding(header.length + name.length), content, padding(content.length));
  };
  for (const [index, { path, type, mode, content }] of entries.entries()) {
    add(path, (type === "folder" ? 0o040000 : 0o100000) | mode, type === "folder" ? 2 : 1, content, index + 1);
  }
  add("TRAILER!!!", 0, 1, new Uint8Array(), 0);
  return Buffer.concat(pieces);
}

function padding(length: number): Uint8Array {
  return new Uint8Array((4 - (length % 4)) % 4);
}
