import { RuntimeError } from "../../../shared/base/errors.ts";

/** An entry of a tar archive (POSIX pax, with GNU's long names), as far as merging layers needs it. */
export interface TarEntry {
  /** Bytes of the name as latin1 text, so that a name in any encoding stays what it is; no leading "./" or "/", no trailing "/". */
  readonly path: string;
  readonly type: "file" | "link" | "symlink" | "character" | "block" | "folder" | "fifo";
  /** Target of a link, in the form of `path`. */
  readonly linkPath: string;
  readonly sizeBytes: number;
  /** Where the entry with its pax and long-name headers begins and ends in the archive. */
  readonly start: number;
  readonly dataStart: number;
  readonly end: number;
  /** The pax records in force, values as latin1. */
  readonly pax: ReadonlyMap<string, string>;
}

export const blockBytes = 512;
/** Longest pax or long-name header; xattrs and paths of real images take some kilobytes. */
const maxHeaderBytes = 1024 * 1024;

const types: Readonly<Record<string, TarEntry["type"]>> = { "0": "file", "\0": "file", "7": "file", "1": "link", "2": "symlink", "3": "character", "4": "block", "5": "folder", "6": "fifo" };

/** Something that can be read at a position; an archive on disk. */
export interface Archive {
  readonly sizeBytes: number;
  read(position: number, length: number): Buffer;
}

/** Lists an archive's entries without reading their contents. @throws RuntimeError `data_loss` (reason `image_corrupt`). */
export function* readTar(archive: Archive): Generator<TarEntry> {
  let start: number | undefined;
  let pax = new Map<string, string>();
  let longPath: string | undefined;
  let longLink: string | undefined;
  for (let at = 0; at + blockBytes <= archive.sizeBytes;) {
    const header = archive.read(at, blockBytes);
    if (header.every((byte) => byte === 0)) return;
    checkHeader(header, at);
    const flag = header.toString("latin1", 156, 157);
    const size = pax.has("size") ? Number(pax.get("size")) : parseNumber(header.subarray(124, 136));
    if (!Number.isSafeInteger(size) || size < 0) throw corrupt(at, "bad size");
    const dataStart = at + blockBytes;
    const type = types[flag];
    // Only files have content; some writers put a size on links.
    const contentBytes = type === undefined || type === "file" ? size : 0;
    const end = dataStart + Math.ceil(contentBytes / blockBytes) * blockBytes;
    if (end > archive.sizeBytes) throw corrupt(at, "cut off");
    start ??= at;
    if (flag === "x" || flag === "L" || flag === "K") {
      if (contentBytes > maxHeaderBytes) throw corrupt(at, "header too long");
      const content = archive.read(dataStart, contentBytes);
      if (flag === "x") pax = parsePax(content, at);
      else if (flag === "L") longPath = cString(content);
      else longLink = cString(content);
    } else {
      if (type !== undefined) {
        yield {
          type, pax, start, dataStart, end,
          path: cleanPath(pax.get("path") ?? longPath ?? ustarPath(header)),
          linkPath: pax.get("linkpath") ?? longLink ?? cString(header.subarray(157, 257)),
          sizeBytes: contentBytes,
        };
      }
      start = longPath = longLink = undefined; // global headers ("g") and unknown kinds are passed over
      pax = new Map();
    }
    at = end;
  }
}

/** Mode and owner of an entry. */
export function readOwner(archive: Archive, entry: TarEntry): { readonly mode: number; readonly uid: number; readonly gid: number } {
  const header = archive.read(entry.dataStart - blockBytes, blockBytes);
  const number = (key: string, start: number): number => Number(entry.pax.get(key) ?? parseNumber(header.subarray(start, start + 8)));
  return { mode: parseNumber(header.subarray(100, 108)) & 0o7777, uid: number("uid", 108), gid: number("gid", 116) };
}

/** The same entry under another name: its headers made anew, its content still in the archive. */
export function renamedHeader(archive: Archive, entry: TarEntry, path: string): Buffer {
  const header = Buffer.from(archive.read(entry.dataStart - blockBytes, blockBytes));
  return withPax(header, new Map([...entry.pax, ["path", path]]));
}

/** A folder's entry, for one that no layer names. */
export function folderHeader(path: string): Buffer {
  return encodeHeader({ path: `${path}/`, mode: 0o755, type: "5", sizeBytes: 0, linkPath: "" });
}

/** A plain header; long names go into pax records. */
export function encodeHeader(entry: { readonly path: string; readonly mode: number; readonly type: "0" | "1" | "2" | "5"; readonly sizeBytes: number; readonly linkPath: string }): Buffer {
  const header = Buffer.alloc(blockBytes);
  header.write(entry.path, 0, 100, "latin1");
  header.write(entry.mode.toString(8).padStart(7, "0"), 100, "latin1");
  header.write("0000000", 108, "latin1");
  header.write("0000000", 116, "latin1");
  header.write(entry.sizeBytes.toString(8).padStart(11, "0"), 124, "latin1");
  header.write("00000000000", 136, "latin1");
  header.write(entry.type, 156, "latin1");
  header.write(entry.linkPath, 157, 100, "latin1");
  header.write("ustar\x0000", 257, "latin1");
  const long = [...(entry.path.length > 100 ? [["path", entry.path] as const] : []), ...(entry.linkPath.length > 100 ? [["linkpath", entry.linkPath] as const] : [])];
  return long.length > 0 ? withPax(header, new Map(long)) : sealed(header);
}

/** Content's padding to whole blocks. */
export function tarPadding(sizeBytes: number): Buffer {
  return Buffer.alloc((blockBytes - (sizeBytes % blockBytes)) % blockBytes);
}

function withPax(header: Buffer, records: ReadonlyMap<string, string>): Buffer {
  const body = Buffer.concat([...records].map(([key, value]) => {
    const rest = Buffer.from(` ${key}=${value}\n`, "latin1");
    let length = rest.length + 1;
    while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
    return Buffer.concat([Buffer.from(String(length)), rest]);
  }));
  const paxHeader = Buffer.alloc(blockBytes);
  header.copy(paxHeader);
  paxHeader.fill(0, 0, 100);
  paxHeader.write("pax", 0, "latin1");
  paxHeader.fill(0, 345, 500);
  paxHeader.write(body.length.toString(8).padStart(11, "0"), 124, "latin1");
  paxHeader.write("x", 156, "latin1");
  return Buffer.concat([sealed(paxHeader), body, tarPadding(body.length), sealed(header)]);
}

function sealed(header: Buffer): Buffer {
  header.fill(" ", 148, 156);
  header.write(`${header.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return header;
}

function checkHeader(header: Buffer, at: number): void {
  const stored = parseNumber(header.subarray(148, 156));
  const sum = header.reduce((total, byte, index) => total + (index >= 148 && index < 156 ? 32 : byte), 0);
  if (stored !== sum) throw corrupt(at, "bad checksum");
}

/** Octal text, or base 256 when the first bit is set (GNU). */
function parseNumber(field: Buffer): number {
  if (((field[0] ?? 0) & 0x80) !== 0) return Number(BigInt(`0x${field.toString("hex")}`) & ((1n << BigInt(field.length * 8 - 1)) - 1n));
  const text = field.toString("latin1").replace(/\0.*$/s, "").trim();
  return text === "" ? 0 : /^[0-7]+$/.test(text) ? parseInt(text, 8) : NaN;
}

function parsePax(content: Buffer, at: number): Map<string, string> {
  const records = new Map<string, string>();
  for (let position = 0; position < content.length;) {
    const space = content.indexOf(32, position);
    const length = space === -1 ? NaN : Number(content.toString("latin1", position, space));
    if (!Number.isSafeInteger(length) || length <= 0 || position + length > content.length) throw corrupt(at, "bad pax record");
    const record = content.toString("latin1", space + 1, position + length - 1);
    const equals = record.indexOf("=");
    records.set(record.slice(0, equals), record.slice(equals + 1));
    position += length;
  }
  return records;
}

function ustarPath(header: Buffer): string {
  const name = cString(header.subarray(0, 100));
  const prefix = header.toString("latin1", 257, 262) === "ustar" && header.toString("latin1", 257, 265) !== "ustar  \0" ? cString(header.subarray(345, 500)) : "";
  return prefix === "" ? name : `${prefix}/${name}`;
}

function cString(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString("latin1", 0, end === -1 ? bytes.length : end);
}

/** A name below the root, whatever it was: `..` stops there. */
export function cleanPath(path: string): string {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  }
  return parts.join("/");
}

function corrupt(at: number, why: string): RuntimeError {
  return new RuntimeError("data_loss", `layer archive: ${why} at byte ${at}`, { reason: "image_corrupt", hint: "pull the image again" });
}
