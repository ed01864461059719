import assert from "node:assert/strict";
import { closeSync, fstatSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createMemoryFile } from "../../shared/linux/memfd.ts";
import { copyMemory, copyPart } from "./guest-memory.ts";

const mebibyte = 1024 * 1024;

test("copyMemory() keeps the size of memory that ends with zeros, and leaves them out", async () => {
  const folder = mkdtempSync(join(tmpdir(), "casemate-guest-memory-"));
  const bytes = 8 * mebibyte;
  const from = createMemoryFile("test", bytes);
  const to = openSync(join(folder, "copy"), "wx+");
  try {
    writeSync(from, "something", 5 * mebibyte);
    const { hash, usedBytes } = await copyMemory(from, to, bytes);
    assert.deepEqual([fstatSync(to).size, usedBytes], [bytes, 64 * 1024]);
    assert.equal(readFileSync(join(folder, "copy")).toString("latin1", 5 * mebibyte, 5 * mebibyte + 9), "something");
    assert.equal((await copyMemory(to, undefined, bytes)).hash, hash);
  } finally {
    for (const fd of [from, to]) closeSync(fd);
    rmSync(folder, { recursive: true });
  }
});

test("copyMemory() finds what lies between holes, wherever they begin and end, and gives the hash of a file without holes", async () => {
  const folder = mkdtempSync(join(tmpdir(), "casemate-guest-memory-"));
  const bytes = 24 * mebibyte + 8192;
  const [from, to] = ["sparse", "copy"].map((name) => openSync(join(folder, name), "wx+")) as [number, number]; // two names
  const whole = Buffer.alloc(bytes);
  try {
    ftruncateSync(from, bytes);
    // Neighbours with small and large holes between them, over the end of a piece, in the middle of a block, and at both ends.
    for (const [offset, length] of [[0, 1], [100_000, 70_000], [300_000, 5_000], [mebibyte, 4096], [3 * mebibyte + 12_288, 5 * mebibyte], [9 * mebibyte, 1], [20 * mebibyte - 1, 2], [bytes - 1, 1]] as const) {
      whole.fill("x", offset, offset + length);
      writeSync(from, whole, offset, length, offset);
    }
    const { hash, usedBytes, pieces } = await copyMemory(from, to, bytes);
    assert.ok(readFileSync(join(folder, "copy")).equals(whole));
    assert.deepEqual(await copyMemory(from, undefined, bytes, pieces), { hash, usedBytes, pieces }, "the same when the pieces are known");
    writeFileSync(join(folder, "whole"), whole);
    const full = openSync(join(folder, "whole"), "r");
    const fromFull = await copyMemory(full, undefined, bytes);
    assert.deepEqual([fromFull.hash, fromFull.usedBytes], [hash, usedBytes]);
    closeSync(full);
  } finally {
    for (const fd of [from, to]) closeSync(fd);
    rmSync(folder, { recursive: true });
  }
});

test("copyPart() copies what lies behind a place to another place, and leaves zeros out", async () => {
  const block = 64 * 1024;
  const from = createMemoryFile("test", 40 * block), to = createMemoryFile("test", 0);
  try {
    writeSync(from, "before", 3 * block);
    for (const [number, text] of [[10, "first"], [12, "\0\0"], [39, "last"]] as const) writeSync(from, text, number * block);
    assert.equal(await copyPart(from, { from: 10 * block, end: 40 * block }, to, 5 * block), 2 * block);
    const copied = readFileSync(`/proc/self/fd/${to}`);
    assert.equal(copied.length, 35 * block);
    assert.deepEqual([5, 7, 34].map((number) => copied.toString("latin1", number * block, number * block + 5)), ["first", "\0\0\0\0\0", "last\0"]);
    assert.ok(!copied.includes("before"));
  } finally {
    for (const fd of [from, to]) closeSync(fd);
  }
});
