import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { entryBytes, memoryArchive, tarBytes } from "../../../../test/support/memory-archive.ts";
import { RuntimeError } from "../../../shared/base/errors.ts";
import { cleanPath, readTar } from "./tar.ts";
import { blockBytes, type TarEntry } from "./tar-entry.ts";
import { encodeHeader, tarEnd, tarPadding } from "./tar-writer.ts";

function read(...parts: readonly Uint8Array[]): TarEntry[] {
  return [...readTar(memoryArchive(...parts))];
}

/** A header with some bytes changed and the checksum made right again. */
function changed(header: Buffer, start: number, bytes: string | Uint8Array): Buffer {
  const copy = Buffer.from(header);
  copy.set(typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes, start);
  copy.fill(" ", 148, 156);
  copy.write(`${copy.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return copy;
}

/** A header whose content describes the entry after it. */
function meta(flag: string, content: string): Buffer {
  const bytes = Buffer.from(content, "latin1");
  const header = changed(encodeHeader({ path: "meta", type: "file", mode: 0o644, sizeBytes: bytes.length }), 156, flag);
  return Buffer.concat([header, bytes, tarPadding(bytes.length)]);
}

const plain = encodeHeader({ path: "f", type: "file", mode: 0o644 });

test("readTar() reads what encodeHeader() wrote, of every type", () => {
  const written = [
    { path: "d", type: "folder", mode: 0o1777, uid: 1, gid: 2, mtimeSeconds: 1_700_000_000 },
    { path: "d/f", type: "file", mode: 0o4755, uid: 3_000_000, gid: 4_000_000_000, content: "x".repeat(513), xattrs: new Map([["user.a", "1\n2=3 \0"], ["security.capability", "\x01\0\0\x02"]]) },
    { path: "d/s", type: "symlink", mode: 0o777, linkPath: "../../elsewhere" },
    { path: "d/h", type: "link", mode: 0o644, linkPath: "d/f" },
    { path: "d/c", type: "character", mode: 0o600, deviceMajor: 5, deviceMinor: 0xfffff },
    { path: "d/b", type: "block", mode: 0o660, deviceMajor: 0xfff, deviceMinor: 1 },
    { path: "d/p", type: "fifo", mode: 0o600 },
    { path: `d/${"n".repeat(200)}/${"m".repeat(200)}`, type: "file", mode: 0o644 },
    { path: "d/l", type: "symlink", mode: 0o777, linkPath: "t".repeat(4000) },
    { path: "d/\xff\xfe", type: "file", mode: 0o644 },
    { path: "e".repeat(100), type: "file", mode: 0o644 },
  ] as const;
  const entries = read(tarBytes(written));
  assert.equal(entries.length, written.length);
  for (const [index, { content = "", ...expected }] of written.map((entry) => ({ content: "", ...entry })).entries()) {
    const { dataStart, ...entry } = entries[index] ?? assert.fail();
    assert.deepEqual(entry, { linkPath: "", uid: 0, gid: 0, mtimeSeconds: 0, deviceMajor: 0, deviceMinor: 0, xattrs: undefined, ...expected, sizeBytes: content.length });
    assert.equal(dataStart % blockBytes, 0);
  }
});

test("readTar() tells where the content is", () => {
  const bytes = tarBytes([{ path: "a", type: "file", content: "first" }, { path: `${"b/".repeat(150)}b`, type: "file", content: "second" }]);
  const found = read(bytes).map(({ dataStart, sizeBytes }) => bytes.toString("latin1", dataStart, dataStart + sizeBytes));
  assert.deepEqual(found, ["first", "second"]);
});

test("readTar() reads GNU's long names, and the ustar prefix", () => {
  const long = "l".repeat(150), target = "t".repeat(150);
  const [gnu] = read(meta("L", `${long}\0`), meta("K", `${target}\0`), encodeHeader({ path: "short", type: "symlink", mode: 0o777, linkPath: "x" }), tarEnd);
  assert.equal(gnu?.path, long);
  assert.equal(gnu.linkPath, target);
  const [ustar] = read(changed(plain, 345, "some/prefix"), tarEnd);
  assert.equal(ustar?.path, "some/prefix/f");
  const [oldGnu] = read(changed(changed(plain, 345, "77777"), 257, "ustar  \0"), tarEnd);
  assert.equal(oldGnu?.path, "f", "GNU's old format keeps other things there");
});

test("readTar() lets pax records win over the header, and forgets them after one entry", () => {
  const [first, second] = read(meta("x", "12 uid=1234\n14 path=p/q/r\n24 mtime=1234567890.987\n"), plain, plain, tarEnd);
  assert.deepEqual([first?.uid, first?.path, first?.mtimeSeconds], [1234, "p/q/r", 1_234_567_890]);
  assert.deepEqual([second?.uid, second?.path, second?.mtimeSeconds], [0, "f", 0]);
});

test("readTar() takes a pax record without a value as none", () => {
  assert.equal(read(meta("x", "8 path=\n"), plain, tarEnd)[0]?.path, "f");
});

test("readTar() passes over global pax headers", () => {
  assert.deepEqual(read(meta("g", "10 path=x\n"), plain, tarEnd).map(({ path }) => path), ["f"]);
});

test("readTar() does not take the entry's size for that of another header", () => {
  const content = Buffer.from("12345678");
  const entries = read(meta("x", "9 size=8\n"), meta("L", "renamed\0"), plain, content, tarPadding(8), tarEnd);
  assert.deepEqual(entries.map(({ path, sizeBytes }) => [path, sizeBytes]), [["renamed", 8]]);
});

test("readTar() reads numbers in base 256", () => {
  const big = Buffer.from([0x80, 0, 0, 0, 0x00, 0x98, 0x96, 0x80]);
  assert.equal(read(changed(plain, 108, big), tarEnd)[0]?.uid, 10_000_000);
  const before1970 = Buffer.alloc(12, 0xff);
  assert.equal(read(changed(plain, 136, before1970), tarEnd)[0]?.mtimeSeconds, 0);
  const after2106 = Buffer.from([0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
  assert.equal(read(changed(plain, 136, after2106), tarEnd)[0]?.mtimeSeconds, 0xffff_ffff);
});

test("readTar() ignores a size on what has no content", () => {
  for (const flag of ["1", "2", "3", "5", "6"]) {
    const header = changed(changed(changed(plain, 124, "00000001000"), 156, flag), 157, "target");
    assert.deepEqual(read(header, plain, tarEnd).map(({ sizeBytes }) => sizeBytes), [0, 0]);
  }
});

test("readTar() knows folders of archives older than POSIX", () => {
  const [folder] = read(changed(changed(plain, 0, "d/"), 156, "\0"), tarEnd);
  assert.deepEqual([folder?.path, folder?.type], ["d", "folder"]);
});

test("readTar() accepts a checksum of signed bytes", () => {
  const header = changed(plain, 0, "\xe9");
  const sum = header.reduce((total, byte, index) => total + (index >= 148 && index < 156 ? 32 : byte > 127 ? byte - 256 : byte), 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  assert.equal(read(header, tarEnd)[0]?.path, "\xe9");
});

test("readTar() ends at a block of zeros, and at the end without one", () => {
  assert.equal(read(plain, tarEnd, Buffer.from("anything")).length, 1);
  assert.equal(read(plain).length, 1);
  assert.deepEqual(read(), []);
});

test("cleanPath() stays below the root", () => {
  const cases = { "./a/b/": "a/b", "/etc/passwd": "etc/passwd", "../../etc": "etc", "a/../../b": "b", "a//./b": "a/b", "": "", ".": "", "..": "", "a/..": "", "...": "..." };
  for (const [path, clean] of Object.entries(cases)) assert.equal(cleanPath(path), clean, path);
});

const file = entryBytes({ path: "f", type: "file", content: "0123456789" });
const corruptArchives: Readonly<Record<string, readonly [RegExp, ...Uint8Array[]]>> = {
  "a header cut off": [/cut off at byte 0/, plain.subarray(0, 300)],
  "content cut off": [/cut off at byte 0/, file.subarray(0, 600)],
  "padding cut off": [/cut off at byte 0/, file.subarray(0, file.length - 1)],
  "a pax header without an entry": [/cut off/, meta("x", "10 path=x\n"), tarEnd],
  "a long name without an entry": [/cut off/, meta("L", "x\0")],
  "a flipped bit": [/bad checksum at byte 0/, Buffer.concat([Buffer.from("g"), plain.subarray(1)]), tarEnd],
  "an unknown kind": [/unknown kind of entry "Z"/, changed(plain, 156, "Z"), tarEnd],
  "a sparse file": [/sparse files are not supported/, changed(plain, 156, "S"), tarEnd],
  "a sparse file in pax": [/sparse files are not supported/, meta("x", "22 GNU.sparse.major=1\n"), plain, tarEnd],
  "a size beyond the end": [/cut off/, changed(plain, 124, "77777777777"), tarEnd],
  "a size that is no number": [/bad size/, changed(plain, 124, "12x45678901"), tarEnd],
  "a negative size": [/bad size/, changed(plain, 124, Buffer.alloc(12, 0xff)), tarEnd],
  "a size beyond all numbers": [/bad size/, changed(plain, 124, Buffer.concat([Buffer.from([0x80]), Buffer.alloc(11, 0xff)])), tarEnd],
  "a pax size that is no decimal": [/bad size/, meta("x", "12 size=0x1\n"), plain, tarEnd],
  "a pax uid out of range": [/bad uid/, meta("x", "18 uid=4294967296\n"), plain, tarEnd],
  "a negative pax gid": [/bad gid/, meta("x", "10 gid=-1\n"), plain, tarEnd],
  "a pax mtime of words": [/bad mtime/, meta("x", "13 mtime=now\n"), plain, tarEnd],
  "a pax length beyond the header": [/bad pax record/, meta("x", "99 path=x\n"), plain, tarEnd],
  "a pax length too short": [/bad pax record/, meta("x", "2 path=x\n"), plain, tarEnd],
  "a pax length of zero": [/bad pax record/, meta("x", "0 path=x\n"), plain, tarEnd],
  "a pax record without a space": [/bad pax record/, meta("x", "path=x\n"), plain, tarEnd],
  "a pax record without =": [/bad pax record/, meta("x", "8 path \n"), plain, tarEnd],
  "a pax header of 2 MiB": [/header too long/, meta("x", "x".repeat(2 << 20)), plain, tarEnd],
  "a device out of range": [/bad devmajor/, changed(changed(plain, 156, "3"), 329, "0077777\0"), tarEnd],
  "a name with a zero byte": [/name with a zero byte/, meta("x", "12 path=a\0b\n"), plain, tarEnd],
  "a name too long": [/name too long/, meta("L", "x/".repeat(2100)), plain, tarEnd],
  "a component too long": [/name too long/, meta("L", "x".repeat(256)), plain, tarEnd],
  "a file as the root": [/file in place of the root folder/, changed(plain, 0, "."), tarEnd],
  "a link to nothing": [/link to nothing/, changed(plain, 156, "2"), tarEnd],
};

for (const [what, [message, ...parts]] of Object.entries(corruptArchives)) {
  test(`readTar() reports ${what} as data_loss`, () => {
    assert.throws(() => read(...parts), (error) => {
      assert.ok(RuntimeError.is(error, "data_loss"), String(error));
      assert.equal(error.reason, "image_corrupt");
      assert.match(error.message, message);
      return true;
    });
  });
}

/** Reads an archive; anything but an end or data_loss fails. */
function survives(bytes: Uint8Array): void {
  try {
    for (const entry of readTar(memoryArchive(bytes))) {
      assert.ok(entry.dataStart + entry.sizeBytes <= bytes.length);
      assert.equal(cleanPath(entry.path), entry.path);
    }
  } catch (error) {
    if (!RuntimeError.is(error, "data_loss")) throw error;
  }
}

test("readTar() ends or throws data_loss on random bytes", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 4096 }), survives), { numRuns: 500 });
});

test("readTar() ends or throws data_loss on damaged headers whose checksums are right", () => {
  const archive = Buffer.concat([
    meta("x", "12 uid=1234\n14 path=p/q/r\n31 SCHILY.xattr.user.a=\0\xff\n\n=12\n"), file, meta("L", `${"n".repeat(120)}\0`), plain,
    encodeHeader({ path: "l", type: "symlink", mode: 0o777, linkPath: "f" }), tarEnd,
  ]);
  assert.equal(read(archive).length, 3);
  const damage = fc.array(fc.tuple(fc.nat(archive.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 });
  fc.assert(fc.property(damage, (changes) => {
    const copy = Buffer.from(archive);
    for (const [at, byte] of changes) copy[at] = byte;
    for (const block of new Set(changes.map(([at]) => at - (at % blockBytes)))) copy.set(changed(copy.subarray(block, block + blockBytes), 0, ""), block);
    survives(copy);
  }), { numRuns: 2000 });
});

test("readTar() reads back any name, link, owner and attribute encodeHeader() can write", () => {
  const bytesText = fc.string({ unit: fc.integer({ min: 1, max: 255 }).map((code) => String.fromCharCode(code)), minLength: 1, maxLength: 200 });
  const name = bytesText.map((text) => text.replaceAll("/", "_")).filter((text) => text !== "." && text !== "..");
  const uint32 = fc.nat(0xffff_ffff);
  const path = fc.array(name, { minLength: 1, maxLength: 5 }).map((parts) => parts.join("/"));
  fc.assert(fc.property(path, bytesText, uint32, uint32, uint32, bytesText, (entryPath, linkPath, uid, gid, mtimeSeconds, value) => {
    const written = { path: entryPath, type: "symlink", mode: 0o777, linkPath, uid, gid, mtimeSeconds, sizeBytes: 0, deviceMajor: 0, deviceMinor: 0, xattrs: new Map([["user.x", value]]) } as const;
    const [entry] = read(encodeHeader(written), tarEnd);
    assert.deepEqual({ ...entry, dataStart: 0 }, { ...written, dataStart: 0 });
  }), { numRuns: 300 });
});
