import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { pollableStream } from "../../shared/linux/pollable-stream.ts";
import { socketPair } from "../../shared/linux/unix-socket.ts";
import { DirectWriter } from "./direct-writer.ts";

test("DirectWriter keeps the order of what the kernel took and what it did not, and needs the caller's bytes no longer", async () => {
  const [ours, theirs] = socketPair();
  const writing = pollableStream(ours), reading = pollableStream(theirs);
  try {
    const writer = new DirectWriter(writing, ours);
    const block = Buffer.alloc(32 * 1024);
    let blocks = 0;
    // Nobody reads: the kernel's buffer fills, then the stream's.
    for (let room = true; room; blocks++) room = writer.write(block.fill(blocks));
    const expected = Buffer.concat(Array.from({ length: blocks }, (_, index) => Buffer.alloc(block.length, index)));
    block.fill(0xff);
    const received: Buffer[] = [];
    const all = new Promise<void>((resolve) => reading.on("data", (chunk: Buffer) => {
      received.push(chunk);
      if (Buffer.concat(received).length >= expected.length) resolve();
    }));
    await Promise.all([all, once(writing, "drain")]);
    assert.ok(Buffer.concat(received).equals(expected));
    writing.destroy();
    assert.equal(writer.write(block), false);
  } finally {
    writing.destroy();
    reading.destroy();
  }
});
