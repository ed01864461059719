import type { Archive } from "../../src/host/storage/images/tar.ts";
import { encodeHeader, tarEnd, tarPadding, type NewTarEntry } from "../../src/host/storage/images/tar-writer.ts";

/** An entry with its content, if it has any. */
export type TestEntry = Omit<NewTarEntry, "mode" | "sizeBytes"> & { readonly mode?: number; readonly content?: string | Buffer };

/** Bytes as an archive. */
export function memoryArchive(...parts: readonly Uint8Array[]): Archive {
  const bytes = Buffer.concat(parts);
  return { sizeBytes: bytes.length, read: (position, length) => bytes.subarray(position, position + length) };
}

/** An archive with these entries, as its bytes. */
export function tarBytes(entries: readonly TestEntry[]): Buffer {
  return Buffer.concat([...entries.map(entryBytes), tarEnd]);
}

/** One entry: headers, content, padding. */
export function entryBytes({ content = "", mode, ...entry }: TestEntry): Buffer {
  const bytes = Buffer.from(content);
  return Buffer.concat([encodeHeader({ ...entry, mode: mode ?? (entry.type === "folder" ? 0o755 : 0o644), sizeBytes: bytes.length }), bytes, tarPadding(bytes.length)]);
}
