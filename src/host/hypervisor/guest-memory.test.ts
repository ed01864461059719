import assert from "node:assert/strict";
import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createMemoryFile } from "../../shared/linux/memfd.ts";
import { copyMemory } from "./guest-memory.ts";

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
