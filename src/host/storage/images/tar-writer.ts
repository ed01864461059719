import { blockBytes, paddingBytes, typeFlags, xattrKeyPrefix, type TarEntry } from "./tar-entry.ts";

/** What a new entry must say; the rest defaults to root's, of 1970, without attributes. */
export type NewTarEntry = Pick<TarEntry, "path" | "type" | "mode"> & Partial<TarEntry>;

/** Two blocks of zeros end an archive. */
export const tarEnd: Buffer = Buffer.alloc(2 * blockBytes);

/** An entry's headers: POSIX ustar, with pax records for what does not fit, but for links. */
export function encodeHeader(entry: NewTarEntry): Buffer {
  const { path, type, mode, linkPath = "", sizeBytes = 0, uid = 0, gid = 0, mtimeSeconds = 0, deviceMajor = 0, deviceMinor = 0 } = entry;
  const records: (readonly [string, string])[] = [];
  const header = Buffer.alloc(blockBytes);
  const text = (key: string, value: string, start: number, length: number): void => {
    header.write(value, start, length, "latin1");
    if (value.length > length) records.push([key, value]);
  };
  const number = (key: string, value: number, start: number, digits: number): void => {
    const octal = value.toString(8);
    header.write(octal.length > digits ? "0".repeat(digits) : octal.padStart(digits, "0"), start, "latin1");
    if (octal.length > digits) records.push([key, String(value)]);
  };
  text("path", path, 0, 100);
  number("mode", mode, 100, 7);
  number("uid", uid, 108, 7);
  number("gid", gid, 116, 7);
  number("size", sizeBytes, 124, 11);
  number("mtime", mtimeSeconds, 136, 11);
  header.write(typeFlags[type], 156, "latin1");
  header.write(linkPath, 157, 100, "latin1");
  header.write("ustar\x0000", 257, "latin1");
  number("devmajor", deviceMajor, 329, 7);
  number("devminor", deviceMinor, 337, 7);
  for (const [name, value] of entry.xattrs ?? []) records.push([`${xattrKeyPrefix}${name}`, value]);
  return Buffer.concat([longLinkHeader(linkPath), paxHeader(records), sealed(header)]);
}

/** Content's padding to whole blocks. */
export function tarPadding(sizeBytes: number): Buffer {
  return Buffer.alloc(paddingBytes(sizeBytes));
}

/** GNU's header for a target above 100 bytes: from a pax record sqfstar takes away a leading "/", "./" or "../". */
function longLinkHeader(linkPath: string): Buffer {
  return linkPath.length > 100 ? metaHeader("K", Buffer.from(`${linkPath}\0`, "latin1")) : Buffer.alloc(0);
}

function paxHeader(records: readonly (readonly [string, string])[]): Buffer {
  return records.length === 0 ? Buffer.alloc(0) : metaHeader("x", Buffer.concat(records.map(([key, value]) => paxRecord(key, value))));
}

/** A header that belongs to the entry after it. */
function metaHeader(flag: "x" | "K", body: Buffer): Buffer {
  const header = Buffer.alloc(blockBytes);
  header.write("meta", 0, "latin1");
  header.write("0000644", 100, "latin1");
  header.write("0000000", 108, "latin1");
  header.write("0000000", 116, "latin1");
  header.write(body.length.toString(8).padStart(11, "0"), 124, "latin1");
  header.write("00000000000", 136, "latin1");
  header.write(flag, 156, "latin1");
  header.write("ustar\x0000", 257, "latin1");
  return Buffer.concat([sealed(header), body, tarPadding(body.length)]);
}

/** `LENGTH KEY=VALUE\n`, where the length counts its own digits. */
function paxRecord(key: string, value: string): Buffer {
  const rest = ` ${key}=${value}\n`;
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.from(`${length}${rest}`, "latin1");
}

function sealed(header: Buffer): Buffer {
  header.fill(" ", 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return header;
}
