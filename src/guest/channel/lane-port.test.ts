import assert from "node:assert/strict";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import type { Socket } from "node:net";
import { RuntimeError } from "../../shared/base/errors.ts";
import { pollableStream } from "../../shared/linux/pollable-stream.ts";
import { socketPair } from "../../shared/linux/unix-socket.ts";
import { LanePort } from "./lane-port.ts";

/** No page of it is like another. */
const content = Buffer.from(Uint32Array.from({ length: 800_000 }, (_, index) => index * 2_654_435_761).buffer).subarray(0, 3 * 1024 * 1024 + 777);
const laneLost = (error: unknown): boolean => RuntimeError.is(error, "unavailable") && error.reason === "lane_lost";

/** A port made of a socket, its host's end, and a file. */
class Fixture implements AsyncDisposable {
  readonly #folder = mkdtempSync(join(tmpdir(), "casemate-lane-"));
  readonly #ends = socketPair();
  readonly lane = new LanePort(this.#ends[0]);
  readonly host: Socket = pollableStream(this.#ends[1]);
  readonly path = join(this.#folder, "file");
  file: number;

  constructor(content: Buffer, flags = "r+") {
    writeFileSync(this.path, content);
    this.file = openSync(this.path, flags);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.host.destroy();
    await this.lane.close();
    closeSync(this.file);
    rmSync(this.#folder, { recursive: true });
  }
}

/** What a host reads until it has that much. */
async function read(host: Socket, bytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of host.iterator({ destroyOnReturn: false })) {
    chunks.push(chunk as Buffer);
    if (Buffer.concat(chunks).length >= bytes) break;
  }
  return Buffer.concat(chunks);
}

test("receive() writes exactly what was named, piece after piece, and leaves the next one's bytes", async () => {
  await using fixture = new Fixture(Buffer.alloc(0));
  fixture.host.write(content);
  const cut = 2 * 1024 * 1024 + 5;
  await Promise.all([fixture.lane.receive(fixture.file, 0, cut), fixture.lane.receive(fixture.file, cut, content.length - cut)]);
  assert.ok(readFileSync(fixture.path).equals(content));
});

test("send() gives a file's bytes, and tells where it ends", async () => {
  await using fixture = new Fixture(content);
  const piece = 2 * 1024 * 1024;
  const sent = Promise.all([fixture.lane.send(fixture.file, 0, piece), fixture.lane.send(fixture.file, piece, piece)]);
  assert.ok((await read(fixture.host, content.length)).equals(content));
  assert.deepEqual(await sent, [piece, content.length - piece]);
});

test("a piece that does not follow the one before it is refused", async () => {
  await using fixture = new Fixture(Buffer.alloc(100));
  assert.equal(await fixture.lane.send(fixture.file, 10, 20), 20);
  await assert.rejects(fixture.lane.send(fixture.file, 40, 20), laneLost);
  assert.equal((await read(fixture.host, 20)).length, 20);
});

test("a file's error is told as it is, and the lane is of no use afterwards", async () => {
  await using fixture = new Fixture(Buffer.alloc(0), "r");
  fixture.host.write(Buffer.alloc(10_000));
  await assert.rejects(fixture.lane.receive(fixture.file, 0, 5_000), (error: unknown) => (error as { code?: unknown }).code === "EBADF");
  await assert.rejects(fixture.lane.receive(fixture.file, 5_000, 5_000), laneLost);
});

test("a host that goes away ends a move, and close() waits for that", async () => {
  await using fixture = new Fixture(Buffer.alloc(0));
  const moved = assert.rejects(fixture.lane.receive(fixture.file, 0, 5_000), laneLost);
  await turn(); // it has begun
  let isClosed = false;
  const closed = fixture.lane.close().then(() => { isClosed = true; });
  await turn();
  assert.equal(isClosed, false);
  fixture.host.destroy();
  await Promise.all([moved, closed]);
  await assert.rejects(fixture.lane.receive(fixture.file, 0, 1), laneLost);
});
