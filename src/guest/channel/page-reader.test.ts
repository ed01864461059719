import assert from "node:assert/strict";
import { closeSync, writeSync } from "node:fs";
import { test } from "node:test";
import { makePipe, setNonBlocking } from "../linux/pipes.ts";
import { PageReader, pageBytes } from "./page-reader.ts";

test("take() gives what waits, as bytes of their own, and nothing when nothing does", () => {
  const [reading, writing] = makePipe();
  try {
    setNonBlocking(reading);
    const pages = new PageReader();
    assert.equal(pages.take(reading), undefined);
    writeSync(writing, Buffer.alloc(3 * pageBytes + 5, "a"));
    const first = pages.take(reading);
    writeSync(writing, "b");
    const second = pages.take(reading);
    assert.deepEqual([first?.length, second?.toString()], [3 * pageBytes + 5, "b"]);
    assert.ok(first?.every((byte) => byte === 0x61), "the second take left the first one's bytes alone");
    closeSync(writing);
    assert.equal(pages.take(reading), undefined);
  } finally {
    closeSync(reading);
  }
});
