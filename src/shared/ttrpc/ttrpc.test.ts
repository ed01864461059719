import assert from "node:assert/strict";
import { Duplex, duplexPair } from "node:stream";
import { test } from "node:test";
import fc from "fast-check";
import { RuntimeError } from "../base/errors.ts";
import { PushQueue } from "../base/push-queue.ts";
import { Owner, type AttachInput } from "../protocol/gen/owner_pb.ts";
import { Task } from "../protocol/gen/containerd/task_pb.ts";
import { TtrpcClient, createServiceClient } from "./client.ts";
import { FrameDecoder, encodeFrameHeader, maxFrameBytes } from "./frame.ts";
import { TtrpcServer } from "./server.ts";

/** A server with a few handlers, and a client of it; `chunkBytes` cuts what goes to the server. */
function connect(chunkBytes?: number) {
  const [clientSide, serverSide] = duplexPair();
  const server = new TtrpcServer();
  server.addService(Task, {
    connect: (request) => ({ version: request.id, shimPid: 7 }),
    kill: (request) => { throw new RuntimeError("not_found", "process already finished", { reason: request.execId, hint: "look" }); },
    wait: (_request, { signal }) => new Promise((resolve) => { signal.addEventListener("abort", () => resolve({ exitStatus: 1 })); }),
    state: (request) => ({ bundle: "x".repeat(Number(request.id)) }),
  });
  server.addService(Owner, {
    async *events() {
      for (const action of ["create", "start", "die"]) yield { action };
    },
    async *attach(inputs: AsyncIterable<AttachInput>) {
      for await (const input of inputs) if (input.kind.case === "stdin") yield { kind: { case: "output", value: { fd: 1, offset: input.kind.value.offset, bytes: input.kind.value.bytes } } };
      yield { kind: { case: "exit", value: { exitStatus: 3 } } };
    },
  });
  const served = server.serve(chunkBytes === undefined ? serverSide : rechunk(serverSide, chunkBytes));
  const client = TtrpcClient.over(clientSide);
  return { client, served, serverSide, task: createServiceClient(Task, client), owner: createServiceClient(Owner, client) };
}

/** The same stream with its incoming bytes cut into pieces of that length. */
function rechunk(inner: Duplex, chunkBytes: number): Duplex {
  const outer: Duplex = new Duplex({ read: () => undefined, write: (chunk, _encoding, done) => { inner.write(chunk, done); }, destroy: (_error, done) => { inner.destroy(); done(null); } });
  inner.on("data", (chunk: Buffer) => { for (let at = 0; at < chunk.length; at += chunkBytes) outer.push(chunk.subarray(at, at + chunkBytes)); });
  inner.on("end", () => outer.push(null));
  return outer;
}

test("a unary request and its answer are the bytes that containerd and its shim exchange", async () => {
  // Recorded between Debian's containerd 1.6.20 and its shim: Connect of container "t1".
  const request = Buffer.from("0000002800000001010" + "0" + "0a17" + Buffer.from("containerd.task.v2.Task").toString("hex") + "1207" + Buffer.from("Connect").toString("hex") + "1a040a027431", "hex");
  const [clientSide, peer] = duplexPair();
  const sent: Buffer[] = [];
  peer.on("data", (chunk: Buffer) => sent.push(chunk));
  const client = TtrpcClient.over(clientSide);
  const answer = createServiceClient(Task, client).create({ id: "x" });
  await new Promise(setImmediate);
  sent.length = 0;
  const connected = createServiceClient(Task, client).connect({ id: "t1" });
  await new Promise(setImmediate);
  const expected = Buffer.from(request);
  expected.writeUInt32BE(3, 4); // the second stream of this connection
  assert.deepEqual(Buffer.concat(sent), expected);
  peer.write(Buffer.from("00000006000000010200120408dc9801", "hex")); // recorded: CreateTaskResponse pid 19548
  assert.equal((await answer).pid, 19548);
  peer.write(Buffer.from("000000260000000302000a2408051220" + Buffer.from("container not created: not found").toString("hex"), "hex")); // recorded
  await assert.rejects(connected, { code: "not_found", message: "container not created: not found" });
  client.close();
});

test("calls give the same results however the bytes are cut", async () => {
  await fc.assert(fc.asyncProperty(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 0, max: 5000 }), async (chunkBytes, size) => {
    const { client, served, task, owner } = connect(chunkBytes);
    assert.deepEqual((await task.state({ id: String(size) })).bundle.length, size);
    const actions: string[] = [];
    for await (const event of owner.events({})) actions.push(event.action);
    assert.deepEqual(actions, ["create", "start", "die"]);
    client.close();
    await served;
  }), { numRuns: 30 });
});

test("errors keep their code, reason and hint", async () => {
  const { client, task } = connect();
  await assert.rejects(task.kill({ execId: "because" }), { code: "not_found", message: "process already finished", reason: "because", hint: "look" });
  await assert.rejects(task.pause({}), { code: "unimplemented", message: "method Pause" });
  client.close();
});

test("a bidirectional stream echoes and ends with the server's last message", async () => {
  const { client, owner } = connect();
  const inputs = new PushQueue<{ kind: { case: "stdin"; value: { fd: number; offset: bigint; bytes: Uint8Array } } }>();
  for (let index = 0; index < 5; index++) inputs.push({ kind: { case: "stdin", value: { fd: 0, offset: BigInt(index), bytes: Uint8Array.of(index) } } });
  inputs.end();
  const seen: unknown[] = [];
  for await (const output of owner.attach(inputs)) seen.push(output.kind.case === "output" ? output.kind.value.bytes[0] : output.kind.case);
  assert.deepEqual(seen, [0, 1, 2, 3, 4, "exit"]);
  client.close();
});

test("time limits, cancellation and the end of the connection reject a waiting call", async () => {
  const { client, served, task } = connect();
  await assert.rejects(task.wait({}, { timeoutMs: 20 }), { code: "deadline_exceeded" });
  const abort = new AbortController();
  const canceled = task.wait({}, { signal: abort.signal });
  abort.abort();
  await assert.rejects(canceled, { code: "canceled" });
  const lost = task.wait({});
  await new Promise(setImmediate);
  client.close();
  await assert.rejects(lost, { code: "unavailable" });
  await assert.rejects(task.connect({}), { code: "unavailable" });
  await served;
});

test("a message above 4 MiB is refused and the connection survives", async () => {
  const { client, task } = connect();
  await assert.rejects(task.connect({ id: "x".repeat(maxFrameBytes + 1) }), { code: "resource_exhausted" });
  await assert.rejects(task.state({ id: String(maxFrameBytes + 1) }), { code: "resource_exhausted" });
  assert.equal((await task.connect({ id: "ok" })).version, "ok");
  client.close();
});

test("FrameDecoder discards an oversized frame, says so, and goes on", () => {
  const decoder = new FrameDecoder();
  const big = Buffer.concat([encodeFrameHeader(1, 1, 0, maxFrameBytes + 5), Buffer.alloc(maxFrameBytes + 5), encodeFrameHeader(3, 2, 0, 2), Buffer.from("ok")]);
  const frames = [];
  for (let at = 0; at < big.length; at += 100_000) frames.push(...decoder.push(big.subarray(at, at + 100_000)));
  assert.deepEqual(frames.map(({ streamId, oversizedBytes, data }) => [streamId, oversizedBytes, Buffer.from(data).toString()]), [[1, maxFrameBytes + 5, ""], [3, undefined, "ok"]]);
});

test("random bytes end at most the connection they come on", async () => {
  await fc.assert(fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 64 }), { maxLength: 20 }), async (chunks) => {
    const [attacker, serverSide] = duplexPair();
    attacker.on("data", () => undefined);
    const server = new TtrpcServer();
    server.addService(Task, { connect: () => ({}) });
    const served = server.serve(serverSide).then(() => "over", (error: unknown) => RuntimeError.is(error));
    for (const chunk of chunks) attacker.write(chunk);
    attacker.end();
    assert.ok(await served);
  }), { numRuns: 200 });
});
