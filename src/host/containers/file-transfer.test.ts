import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { RuntimeError } from "../../shared/base/errors.ts";
import { FileRequestSchema, FileResponseSchema, type FileResponse } from "../../shared/protocol/gen/file_pb.ts";
import type { OwnerClient } from "../control/owner-client.ts";
import type { FileOperation } from "./container-file-client.ts";
import { readOpenFile, writeOpenFile, type OpenFileCalls } from "./file-transfer.ts";

const mebibyte = 1024 * 1024;
const folder = mkdtempSync(join(tmpdir(), "casemate-transfer-"));
after(() => rmSync(folder, { recursive: true }));
let sockets = 0;

/** How a guest lies, or an owner says no. */
interface Behaviour {
  /** Times that the lane is refused. */
  busy?: number;
  /** After that many bytes by lanes the lane is taken away. */
  lostAfter?: number;
  /** Bytes a read sends beyond those it tells of. */
  extraBytes?: number;
  /** What it says of the bytes it has moved. */
  count?: (moved: number) => number;
  /** Thrown by a write by the lane. */
  failure?: RuntimeError;
  /** Sends something during a write. */
  chatters?: boolean;
}

/** An owner and a guest with one open file: lanes are sockets, messages are as the agent has them. */
class GuestDouble implements AsyncDisposable, OpenFileCalls {
  readonly handle = 7;
  signal: AbortSignal | undefined;
  content: Buffer;
  byLane = 0;
  byMessages = 0;
  /** Asked for by a lane. */
  pieces = 0;
  lanesOpen = 0;
  readonly #behaviour: Behaviour;
  readonly #room = Buffer.alloc(32 * mebibyte);
  #server: Server | undefined;
  #socket: Promise<Socket> | undefined;
  #tail: Promise<unknown> = Promise.resolve();
  #lost = false;

  constructor(content: Buffer, behaviour: Behaviour = {}) {
    this.content = content;
    this.#behaviour = behaviour;
  }

  readonly owner = async (): Promise<OwnerClient["owner"]> => ({ lane: (inputs: AsyncIterable<unknown>) => this.#lend(inputs) }) as unknown as OwnerClient["owner"]; // nothing else is asked of it here

  readonly perform = async (init: FileOperation): Promise<FileResponse> => {
    const { operation } = create(FileRequestSchema, { operation: init });
    if (operation.case === "useLane") return create(FileResponseSchema);
    if (operation.case === "write" && operation.value.laneLength > 0 || operation.case === "read" && operation.value.byLane) this.pieces++;
    if (operation.case === "write" && operation.value.laneLength > 0) return this.#inTurn(() => this.#receive(Number(operation.value.offset), operation.value.laneLength));
    if (operation.case === "read" && operation.value.byLane) return this.#inTurn(() => this.#send(Number(operation.value.offset), operation.value.length));
    if (operation.case === "write") {
      this.byMessages += operation.value.bytes.length;
      this.#put(Number(operation.value.offset), operation.value.bytes);
      return create(FileResponseSchema);
    }
    assert.equal(operation.case, "read");
    const bytes = this.content.subarray(Number(operation.value.offset), Number(operation.value.offset) + operation.value.length);
    this.byMessages += bytes.length;
    return create(FileResponseSchema, { bytes });
  };

  async read(sizeBytes = this.content.length, options: { readonly whole?: boolean } = {}): Promise<Buffer> {
    const chunks: Uint8Array[] = [];
    for await (const chunk of readOpenFile(this, sizeBytes, options)) chunks.push(chunk);
    return Buffer.concat(chunks);
  }

  async *#lend(inputs: AsyncIterable<unknown>): AsyncGenerator<{ laneId: number; socketPath: string }> {
    if ((this.#behaviour.busy ?? 0) > 0) {
      this.#behaviour.busy = (this.#behaviour.busy ?? 0) - 1;
      throw new RuntimeError("resource_exhausted", "busy", { reason: "lane_busy" });
    }
    const socketPath = join(folder, `lane${sockets++}`);
    const server = this.#server = createServer();
    server.listen(socketPath);
    this.#socket = once(server, "connection").then(([socket]) => {
      (socket as Socket).on("error", () => { /* the other end may go at any time */ });
      return socket as Socket;
    });
    this.#lost = false;
    this.lanesOpen++;
    yield { laneId: 1, socketPath };
    for await (const input of inputs) void input;
    this.#takeAway();
    this.lanesOpen--;
  }

  #takeAway(): void {
    this.#lost = true;
    this.#server?.close();
    void this.#socket?.then((socket) => socket.destroy());
  }

  async #inTurn(move: () => Promise<number>): Promise<FileResponse> {
    const moved = this.#tail.then(async () => {
      if (this.#lost) throw new RuntimeError("unavailable", "lost", { reason: "lane_lost" });
      const count = await move();
      return create(FileResponseSchema, { laneBytes: this.#behaviour.count?.(count) ?? count });
    });
    this.#tail = moved.catch(() => { this.#lost = true; });
    return moved;
  }

  async #receive(offset: number, length: number): Promise<number> {
    const socket = await this.#socket;
    if (this.#behaviour.chatters === true) socket?.write("I was not asked");
    let received = 0;
    for await (const chunk of socket?.iterator({ destroyOnReturn: false }) ?? []) {
      const part = (chunk as Buffer).subarray(0, length - received);
      if (part.length < (chunk as Buffer).length) socket?.unshift((chunk as Buffer).subarray(part.length));
      this.#count(part.length);
      if (this.#behaviour.failure !== undefined) throw this.#behaviour.failure;
      this.#put(offset + received, part);
      received += part.length;
      if (received === length) return length;
    }
    throw new RuntimeError("unavailable", "lost", { reason: "lane_lost" });
  }

  async #send(offset: number, length: number): Promise<number> {
    const bytes = this.content.subarray(offset, offset + length);
    const { extraBytes = 0 } = this.#behaviour;
    this.#count(bytes.length);
    (await this.#socket)?.write(Buffer.concat([bytes, Buffer.alloc(extraBytes)]));
    return bytes.length;
  }

  #count(bytes: number): void {
    this.byLane += bytes;
    if (this.byLane <= (this.#behaviour.lostAfter ?? Infinity)) return;
    this.#behaviour.lostAfter = Infinity;
    this.#behaviour.busy = 1;
    this.#takeAway();
    throw new RuntimeError("unavailable", "lost", { reason: "lane_lost" });
  }

  #put(offset: number, bytes: Uint8Array): void {
    this.#room.set(bytes, offset);
    this.content = this.#room.subarray(0, Math.max(this.content.length, offset + bytes.length));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    assert.equal(this.lanesOpen, 0, "every lane was given back");
    this.#takeAway();
  }
}

const dataLoss = (error: unknown): boolean => RuntimeError.is(error, "data_loss") && error.reason === "bad_guest_answer";
const write = (guest: GuestDouble, content: Buffer, append = false): Promise<void> => writeOpenFile(guest, [content.subarray(0, 10), content.subarray(10)], { append });

test("a large file goes by a lane both ways, a small one and what is appended by messages", async () => {
  for (const [bytes, append, byLane] of [[9 * mebibyte + 3, false, true], [mebibyte - 1, false, false], [2 * mebibyte, true, false]] as const) {
    const content = randomBytes(bytes);
    await using guest = new GuestDouble(Buffer.alloc(0));
    await write(guest, content, append);
    assert.ok(guest.content.equals(content));
    assert.ok((await guest.read()).equals(content));
    assert.equal(guest.byLane > 0, byLane || append, `${bytes} bytes`); // what was appended may be read by one
  }
});

test("what the guest says of a file's size decides how it is read, not what", async () => {
  for (const [bytes, said] of [[5 * mebibyte, 0], [10, 2 ** 52], [0, 100 * mebibyte], [4 * mebibyte, mebibyte], [9 * mebibyte, 5 * mebibyte]] as const) {
    const content = randomBytes(bytes);
    for (const whole of [false, true]) {
      await using guest = new GuestDouble(content);
      assert.ok((await guest.read(said, { whole })).equals(content), `${bytes} bytes, said to be ${said}`);
    }
  }
});

test("what is in memory as a whole goes and comes in one piece, a stream in pieces of 4 MiB", async () => {
  const content = randomBytes(13 * mebibyte);
  const inChunks = Array.from({ length: 13 }, (_, index) => content.subarray(index * mebibyte, (index + 1) * mebibyte));
  for (const [chunks, whole, written, read] of [[[content], true, 1, 1], [inChunks, false, 4, 4]] as const) {
    await using guest = new GuestDouble(Buffer.alloc(0));
    await writeOpenFile(guest, chunks, { append: false });
    assert.equal(guest.pieces, written);
    assert.ok((await guest.read(content.length, { whole })).equals(content));
    assert.equal(guest.pieces, written + read);
  }
});

test("a transfer whose lane is taken away goes on by messages, and by the next lane when it gets one", async () => {
  const content = randomBytes(25 * mebibyte);
  await using writing = new GuestDouble(Buffer.alloc(0), { lostAfter: 6 * mebibyte });
  await write(writing, content);
  assert.ok(writing.content.equals(content));
  assert.ok(writing.byMessages >= 4 * mebibyte && writing.byLane > 12 * mebibyte, `${writing.byMessages} by messages, ${writing.byLane} by lanes`);
  await using reading = new GuestDouble(content, { lostAfter: 6 * mebibyte });
  assert.ok((await reading.read()).equals(content));
  assert.ok(reading.byMessages >= 4 * mebibyte && reading.byLane > 12 * mebibyte, `${reading.byMessages} by messages, ${reading.byLane} by lanes`);
});

test("a lane that somebody else has is asked for again every 4 MiB", async () => {
  const content = randomBytes(13 * mebibyte);
  await using guest = new GuestDouble(Buffer.alloc(0), { busy: 2 });
  await write(guest, content);
  assert.deepEqual([guest.byMessages, guest.byLane], [8 * mebibyte, 5 * mebibyte]);
  await using reading = new GuestDouble(content, { busy: 2 });
  assert.ok((await reading.read()).equals(content));
  assert.deepEqual([reading.byMessages, reading.byLane], [8 * mebibyte, 5 * mebibyte]);
});

test("a file's own error ends a write as it is", async () => {
  await using guest = new GuestDouble(Buffer.alloc(0), { failure: new RuntimeError("resource_exhausted", "ENOSPC") });
  await assert.rejects(write(guest, randomBytes(20 * mebibyte)), (error) => RuntimeError.is(error, "resource_exhausted") && error.message === "ENOSPC");
  assert.equal(guest.byMessages, 0);
});

test("a guest that sends or tells of more or less than it was asked is an error of the transfer", async () => {
  const lies: readonly Behaviour[] = [{ extraBytes: 9 * mebibyte }, { count: (moved) => moved - 1 }, { count: () => 2 ** 31 }];
  for (const lie of lies) {
    await using guest = new GuestDouble(randomBytes(6 * mebibyte), lie);
    await assert.rejects(guest.read(), dataLoss, JSON.stringify(lie));
  }
  const wrong: readonly Behaviour[] = [{ chatters: true }, { count: (moved) => moved - 1 }, { count: (moved) => moved + 1 }];
  for (const lie of wrong) {
    await using guest = new GuestDouble(Buffer.alloc(0), lie);
    await assert.rejects(write(guest, randomBytes(6 * mebibyte)), dataLoss, JSON.stringify(lie));
  }
});

test("a guest that tells of bytes it never sends holds nobody who gives up", async () => {
  const stop = new AbortController();
  await using guest = new GuestDouble(randomBytes(mebibyte), { count: () => 2 * mebibyte });
  guest.signal = stop.signal;
  setImmediate(() => stop.abort());
  await assert.rejects(guest.read(), (error) => RuntimeError.is(error, "canceled"));
});

test("content that fails half way, and a reader that leaves, give the lane back", async () => {
  await using guest = new GuestDouble(Buffer.alloc(0));
  const failing = async function* (): AsyncGenerator<Buffer> {
    yield randomBytes(5 * mebibyte);
    throw new Error("the source broke");
  };
  await assert.rejects(writeOpenFile(guest, failing(), { append: false }), /the source broke/);
  await using reading = new GuestDouble(randomBytes(20 * mebibyte));
  for await (const chunk of readOpenFile(reading, 20 * mebibyte)) {
    assert.ok(chunk.length > 0);
    break;
  }
});
