import { RuntimeError } from "../../../shared/base/errors.ts";
import { blockBytes, paddingBytes, typeFlags, xattrKeyPrefix, type TarEntry } from "./tar-entry.ts";

/** Something that can be read at a position; an archive on disk. */
export interface Archive {
  readonly sizeBytes: number;
  read(position: number, length: number): Buffer;
}

/** Longest pax or long-name header; xattrs and paths of real images take some kilobytes. */
const maxHeaderBytes = 1024 * 1024;
/** PATH_MAX and NAME_MAX: nothing longer could be unpacked. */
const maxPathBytes = 4095, maxNameBytes = 255;
/** Linux's device numbers: 12 and 20 bits. */
const maxDeviceMajor = 0xfff, maxDeviceMinor = 0xfffff;
const maxUint32 = 0xffff_ffff;

const types: ReadonlyMap<string, TarEntry["type"]> = new Map([
  ...Object.entries(typeFlags).map(([type, flag]) => [flag, type as TarEntry["type"]] as const), // the table's own keys
  ["\0", "file"], ["7", "file"],
]);

/** Headers that belong to the entry after them. */
interface Preamble {
  pax: ReadonlyMap<string, string>;
  longPath: string | undefined;
  longLink: string | undefined;
}

/**
 * Lists an archive's entries (POSIX ustar and pax, GNU's long names and large numbers) without reading
 * their contents. Global pax headers are passed over, as docker does.
 * @throws RuntimeError `data_loss` (reason `image_corrupt`).
 */
export function* readTar(archive: Archive): Generator<TarEntry> {
  let preamble = noPreamble();
  let begun = false;
  for (let at = 0; at < archive.sizeBytes;) {
    if (at + blockBytes > archive.sizeBytes) throw corrupt(at, "cut off");
    const header = archive.read(at, blockBytes);
    if (header.length < blockBytes) throw corrupt(at, "cut off");
    if (isZero(header)) break;
    checkHeader(header, at);
    const flag = header.toString("latin1", 156, 157);
    const type = typeOf(flag, preamble, header);
    const meta = flag === "x" || flag === "L" || flag === "K" || flag === "g";
    if (type === undefined && !meta) throw corrupt(at, flag === "S" ? "sparse files are not supported" : `unknown kind of entry ${JSON.stringify(flag)}`);
    // Only files have content; some writers put a size on links and folders.
    const sizeBytes = meta || type === "file" ? numberOf(meta ? undefined : preamble.pax.get("size"), header.subarray(124, 136), Number.MAX_SAFE_INTEGER, at, "size") : 0;
    const dataStart = at + blockBytes;
    const end = dataStart + sizeBytes + paddingBytes(sizeBytes);
    if (end > archive.sizeBytes) throw corrupt(at, "cut off");
    if (type === undefined) {
      if (sizeBytes > maxHeaderBytes) throw corrupt(at, "header too long");
      begun = flag !== "g" || begun;
      const content = flag === "g" ? Buffer.alloc(0) : archive.read(dataStart, sizeBytes);
      if (flag === "x") preamble.pax = parsePax(content, at);
      else if (flag === "L") preamble.longPath = cString(content);
      else if (flag === "K") preamble.longLink = cString(content);
    } else {
      yield parseEntry(header, preamble, { type, sizeBytes, dataStart, at });
      preamble = noPreamble();
      begun = false;
    }
    at = end;
  }
  if (begun) throw corrupt(archive.sizeBytes, "cut off");
}

function parseEntry(header: Buffer, { pax, longPath, longLink }: Preamble, { type, sizeBytes, dataStart, at }: { type: TarEntry["type"]; sizeBytes: number; dataStart: number; at: number }): TarEntry {
  if ([...pax.keys()].some((key) => key.startsWith("GNU.sparse."))) throw corrupt(at, "sparse files are not supported");
  const isDevice = type === "character" || type === "block";
  const isLink = type === "link" || type === "symlink";
  const path = cleanPath(pax.get("path") ?? longPath ?? ustarPath(header));
  const linkPath = isLink ? pax.get("linkpath") ?? longLink ?? cString(header.subarray(157, 257)) : "";
  const number = (key: string, start: number, length: number, max: number): number => numberOf(pax.get(key), header.subarray(start, start + length), max, at, key);
  if (path.length > maxPathBytes || linkPath.length > maxPathBytes || path.split("/").some((name) => name.length > maxNameBytes)) throw corrupt(at, "name too long");
  if (path.includes("\0") || linkPath.includes("\0")) throw corrupt(at, "name with a zero byte");
  if (path === "" && type !== "folder") throw corrupt(at, `${type} in place of the root folder`);
  if (isLink && linkPath === "") throw corrupt(at, "link to nothing");
  const xattrs = new Map([...pax].filter(([key]) => key.startsWith(xattrKeyPrefix)).map(([key, value]) => [key.slice(xattrKeyPrefix.length), value]));
  return {
    path, type, linkPath, sizeBytes, dataStart,
    mode: numberOf(undefined, header.subarray(100, 108), Number.MAX_SAFE_INTEGER, at, "mode") % 0o10000,
    uid: number("uid", 108, 8, maxUint32),
    gid: number("gid", 116, 8, maxUint32),
    mtimeSeconds: mtimeOf(pax.get("mtime"), header.subarray(136, 148), at),
    deviceMajor: isDevice ? number("devmajor", 329, 8, maxDeviceMajor) : 0,
    deviceMinor: isDevice ? number("devminor", 337, 8, maxDeviceMinor) : 0,
    xattrs: xattrs.size > 0 ? xattrs : undefined,
  };
}

function noPreamble(): Preamble {
  return { pax: new Map(), longPath: undefined, longLink: undefined };
}

/** Archives older than POSIX mark a folder by a "/" at the end of its name alone. */
function typeOf(flag: string, { pax, longPath }: Preamble, header: Buffer): TarEntry["type"] | undefined {
  return flag === "\0" && (pax.get("path") ?? longPath ?? ustarPath(header)).endsWith("/") ? "folder" : types.get(flag);
}

function isZero(header: Buffer): boolean {
  for (const byte of header) if (byte !== 0) return false;
  return true;
}

/** The sum counts its own field as spaces; old writers summed signed bytes. */
function checkHeader(header: Buffer, at: number): void {
  let unsigned = 0;
  let large = 0;
  for (let index = 0; index < blockBytes; index++) {
    const byte = index >= 148 && index < 156 ? 32 : header[index] ?? 0;
    unsigned += byte;
    if (byte > 127) large++;
  }
  const stored = parseNumber(header.subarray(148, 156));
  if (stored !== unsigned && stored !== unsigned - large * 256) throw corrupt(at, "bad checksum");
}

/** A number of the pax record, if there is one, or of the header's field. */
function numberOf(record: string | undefined, field: Buffer, max: number, at: number, what: string): number {
  const value = record === undefined ? parseNumber(field) : /^\d+$/.test(record) ? Number(record) : NaN;
  if (!Number.isSafeInteger(value) || value < 0 || value > max) throw corrupt(at, `bad ${what}`);
  return value;
}

/** squashfs has 32 bits and no fractions: times outside become the nearest. */
function mtimeOf(record: string | undefined, field: Buffer, at: number): number {
  const value = record === undefined ? parseNumber(field) : /^-?\d+(\.\d*)?$/.test(record) ? Math.floor(Number(record)) : NaN;
  if (Number.isNaN(value)) throw corrupt(at, "bad mtime");
  return Math.min(Math.max(value, 0), maxUint32);
}

/** Octal text, or base 256 (two's complement) when the first bit is set (GNU). NaN when it is neither. */
function parseNumber(field: Buffer): number {
  if (((field[0] ?? 0) & 0x80) !== 0) return Number(BigInt.asIntN(field.length * 8 - 1, BigInt(`0x${field.toString("hex")}`)));
  const text = field.toString("latin1").replace(/\0.*$/s, "").trim();
  return text === "" ? 0 : /^[0-7]+$/.test(text) ? parseInt(text, 8) : NaN;
}

/** pax records; one without a value takes back what was said before, so it says nothing here. */
function parsePax(content: Buffer, at: number): Map<string, string> {
  const records = new Map<string, string>();
  for (let position = 0; position < content.length;) {
    const space = content.indexOf(32, position);
    const digits = content.toString("latin1", position, Math.max(space, position));
    const end = position + Number(digits);
    if (!/^\d{1,7}$/.test(digits) || end <= space + 1 || end > content.length || content[end - 1] !== 10) throw corrupt(at, "bad pax record");
    const record = content.toString("latin1", space + 1, end - 1);
    const equals = record.indexOf("=");
    if (equals <= 0) throw corrupt(at, "bad pax record");
    const key = record.slice(0, equals), value = record.slice(equals + 1);
    if (value === "" && !key.startsWith(xattrKeyPrefix)) records.delete(key);
    else records.set(key, value);
    position = end;
  }
  return records;
}

function ustarPath(header: Buffer): string {
  const name = cString(header.subarray(0, 100));
  // GNU's own format has the same mark, with spaces, and other things in the prefix's place.
  const prefix = header.toString("latin1", 257, 263) === "ustar\0" ? cString(header.subarray(345, 500)) : "";
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
