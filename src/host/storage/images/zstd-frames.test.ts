import assert from "node:assert/strict";
import { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { test } from "node:test";
import { constants, createZstdDecompress, zstdCompressSync } from "node:zlib";
import fc from "fast-check";
import { ZstdFrames } from "./zstd-frames.ts";

const skippable = Buffer.from([0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
const emptySkippable = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]);

async function unpack(chunks: readonly Buffer[]): Promise<string> {
  const unpacked: Buffer[] = [];
  await pipeline(Readable.from(chunks, { objectMode: false }), new ZstdFrames(), createZstdDecompress(), new Writable({
    write(chunk: Buffer, _encoding, done) {
      unpacked.push(chunk);
      done();
    },
  }));
  return Buffer.concat(unpacked).toString("latin1");
}

function compressed(text: string, checksum: boolean): Buffer {
  return zstdCompressSync(Buffer.from(text, "latin1"), { params: { [constants.ZSTD_c_checksumFlag]: checksum ? 1 : 0 } });
}

test("ZstdFrames lets all frames be unpacked, wherever the chunks are cut, with skippable frames between", async () => {
  const text = fc.oneof(fc.string(), fc.nat(300_000).map((length) => "x".repeat(length)), fc.uint8Array({ maxLength: 70_000 }).map((bytes) => Buffer.from(bytes).toString("latin1")));
  const frame = fc.tuple(text.map((value) => Buffer.from(value, "latin1").toString("latin1")), fc.boolean(), fc.boolean());
  await fc.assert(fc.asyncProperty(fc.array(frame, { minLength: 1, maxLength: 4 }), fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 4 }), async (frames, cuts) => {
    const bytes = Buffer.concat(frames.flatMap(([value, checksum, skip]) => [...(skip ? [skippable, emptySkippable] : []), compressed(value, checksum)]));
    const at = [0, ...cuts.map((cut) => Math.floor(cut * bytes.length)).toSorted((a, b) => a - b), bytes.length];
    const chunks = at.slice(1).map((end, index) => bytes.subarray(at[index], end)).filter((chunk) => chunk.length > 0);
    assert.equal(await unpack(chunks), frames.map(([value]) => value).join(""));
  }), { numRuns: 60 });
});

test("ZstdFrames works byte by byte", async () => {
  const bytes = Buffer.concat([compressed("one ", true), skippable, compressed("two", false), emptySkippable]);
  assert.equal(await unpack([...bytes].map((byte) => Buffer.from([byte]))), "one two");
});

test("ZstdFrames reports what is cut off, and what is no frame", async () => {
  const bytes = compressed("text", true);
  for (let length = 1; length < bytes.length; length++) await assert.rejects(unpack([bytes.subarray(0, length)]), `cut to ${length} bytes`);
  await assert.rejects(unpack([Buffer.concat([bytes, Buffer.from("junk")])]), /no frame where one should begin/);
  await assert.rejects(unpack([Buffer.concat([bytes, skippable.subarray(0, 9)])]), /cut off/);
});
