import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { OutputReceiver, ProcessStreams } from "../agent-client/process-streams.ts";
import { ContainerLogWriter, readLogRun } from "../store/container-log.ts";
import { GuestProcess, type ProcessEnd } from "./process.ts";
import { ProcessIo, type AttachedClient, type ProcessIoOptions } from "./process-io.ts";

type Handlers = Parameters<ProcessStreams["openOutput"]>[1];

/** The guest's end of a process's streams: what a test sends, and what was acknowledged. */
class StreamsDouble implements ProcessStreams {
  readonly handlers = new Map<1 | 2, Handlers>();
  readonly acknowledged = new Map<number, number>();
  readonly starts = new Map<number, number>();
  readonly input: string[] = [];
  closed = false;

  openStdin(startOffset: number, onTaken: (offset: number) => void) {
    let written = startOffset;
    return {
      get written() { return written; },
      write: async (bytes: Uint8Array) => {
        this.input.push(Buffer.from(bytes).toString());
        written += bytes.length;
        onTaken(written);
      },
      end: () => { this.input.push("<end>"); },
      close: () => { this.input.push("<closed>"); },
    };
  }

  openOutput(fd: 1 | 2, handlers: Handlers, startOffset = 0): OutputReceiver {
    this.handlers.set(fd, handlers);
    this.starts.set(fd, startOffset);
    return { acknowledge: (offset) => this.acknowledged.set(fd, offset), close: () => undefined };
  }

  close(): void {
    this.closed = true;
  }

  /** The process prints that many bytes from that offset on. */
  print(fd: 1 | 2, offset: number, length: number): void {
    this.handlers.get(fd)?.onBytes(offset, new Uint8Array(length));
  }

  endAll(): void {
    for (const handlers of this.handlers.values()) handlers.onEnd(0);
  }
}

const options: ProcessIoOptions = { terminal: false, stdin: true, log: undefined, holdOutput: false };
const end = (more: Partial<ProcessEnd> = {}): ProcessEnd => ({ exitStatus: 3, exitedAtUnixNanos: 1n, oomKilled: false, reason: "", ...more });
const kibibytes = 1024;

function newProcess(streams: StreamsDouble, more: Partial<ProcessIoOptions> = {}, execId = ""): GuestProcess {
  return new GuestProcess({ containerId: "c1", execId, terminal: false }, new ProcessIo(streams, { ...options, ...more }));
}

/** A client that counts what it gets and takes it when it is told to. */
function newClient(): AttachedClient & { bytes: number; ends: number } {
  return {
    bytes: 0,
    ends: 0,
    output(_fd, _offset, bytes) { this.bytes += bytes.length; },
    outputEnd() { this.ends++; },
  };
}

test("an end is announced when the output has been delivered, after it was recorded", async () => {
  const streams = new StreamsDouble();
  const process = newProcess(streams);
  process.created(7);
  process.running();
  const order: string[] = [];
  const waiting = process.wait().then(() => order.push("announced"));
  const finishing = process.finish(end(), () => order.push("recorded"));
  assert.equal(process.state, "running");
  streams.endAll();
  await Promise.all([finishing, waiting]);
  assert.deepEqual(order, ["recorded", "announced"]);
  assert.deepEqual([process.state, process.guestPid, process.end?.exitStatus, streams.closed], ["stopped", 7, 3, true]);
});

test("the end of a lost VM does not wait for output that cannot come", async () => {
  const streams = new StreamsDouble();
  const process = newProcess(streams);
  await process.finish(end({ exitStatus: 137, reason: "vmm_died" }));
  assert.equal((await process.wait()).exitStatus, 137);
});

test("the first end counts, however many come, and everybody gets it", async () => {
  const streams = new StreamsDouble();
  const process = newProcess(streams);
  let records = 0;
  streams.endAll();
  await Promise.all([process.finish(end(), () => records++), process.finish(end({ exitStatus: 9 }), () => records++)]);
  await process.finish(end({ exitStatus: 9 }), () => records++);
  assert.deepEqual((await Promise.all([process.wait(), process.wait()])).map(({ exitStatus }) => exitStatus), [3, 3]);
  assert.equal(records, 1);
});

test("output that the guest never ends holds the waiters for a limited time only", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const process = newProcess(new StreamsDouble());
  const finishing = process.finish(end());
  t.mock.timers.tick(10_000);
  await finishing;
  assert.equal((await process.wait()).exitStatus, 3);
});

test("wait() ends with its time or its signal, and the process goes on", async () => {
  const process = newProcess(new StreamsDouble());
  await assert.rejects(process.wait({ timeoutMs: 5 }), (error) => RuntimeError.is(error, "deadline_exceeded"));
  await assert.rejects(process.wait({ signal: AbortSignal.abort() }), (error) => RuntimeError.is(error, "canceled"));
  assert.equal(process.state, "created");
});

test("requireRunning() tells not started from finished", async () => {
  const streams = new StreamsDouble();
  const exec = newProcess(streams, {}, "e1");
  assert.throws(() => exec.requireRunning("send signal 9"), (error) => RuntimeError.is(error, "failed_precondition") && error.reason === "process_not_started");
  exec.running();
  exec.requireRunning("send signal 9");
  await exec.finish(end({ reason: "vmm_died" }));
  assert.throws(() => exec.requireRunning("send signal 9"), (error) => RuntimeError.is(error, "not_found") && error.reason === "process_finished");
});

test("the slowest client holds the process back; when it leaves, the others go on", () => {
  const streams = new StreamsDouble();
  const io = new ProcessIo(streams, options);
  const [fast, slow] = [newClient(), newClient()];
  const [fastEnd, slowEnd] = [io.attach(fast), io.attach(slow)];
  streams.print(1, 0, 64 * kibibytes);
  fastEnd.acknowledge(1, 64 * kibibytes);
  assert.equal(streams.acknowledged.get(1), undefined);
  slowEnd.acknowledge(1, 40 * kibibytes);
  assert.equal(streams.acknowledged.get(1), 40 * kibibytes);
  slowEnd.detach();
  streams.print(1, 64 * kibibytes, 64 * kibibytes);
  fastEnd.acknowledge(1, 128 * kibibytes);
  assert.equal(streams.acknowledged.get(1), 128 * kibibytes);
  assert.deepEqual([fast.bytes, slow.bytes], [128 * kibibytes, 64 * kibibytes]);
});

test("a client cannot acknowledge what it was not given, nor take an acknowledgement back", () => {
  const streams = new StreamsDouble();
  const io = new ProcessIo(streams, options);
  const client = io.attach(newClient());
  streams.print(1, 0, 40 * kibibytes);
  client.acknowledge(1, 10 ** 9);
  assert.equal(streams.acknowledged.get(1), 40 * kibibytes);
  streams.print(1, 40 * kibibytes, 100 * kibibytes);
  client.acknowledge(1, 5);
  assert.equal(streams.acknowledged.get(1), 40 * kibibytes);
});

test("without log and client output is dropped, or held back when asked for", () => {
  const dropping = new StreamsDouble();
  const dropped = new ProcessIo(dropping, options);
  dropping.print(1, 0, 100 * kibibytes);
  assert.equal(dropping.acknowledged.get(1), 100 * kibibytes);
  const holding = new StreamsDouble();
  const held = new ProcessIo(holding, { ...options, holdOutput: true });
  assert.equal(holding.handlers.size, 0);
  held.attach(newClient());
  assert.equal(holding.handlers.size, 2);
  assert.ok(dropped.hasStdin && held.hasStdin);
});

test("a client that comes after the end of the output is told of it", () => {
  const streams = new StreamsDouble();
  const io = new ProcessIo(streams, options);
  streams.endAll();
  const late = newClient();
  io.attach(late);
  assert.deepEqual([late.bytes, late.ends], [0, 2]);
});

test("input reaches the process with its end; without stdin it is dropped", async () => {
  const streams = new StreamsDouble();
  const io = new ProcessIo(streams, options);
  await io.writeStdin(Buffer.from("typed"));
  io.endStdin();
  await io.close();
  await io.close();
  assert.deepEqual(streams.input, ["typed", "<end>", "<closed>"]);
  const without = new StreamsDouble();
  const silent = new ProcessIo(without, { ...options, stdin: false });
  await silent.writeStdin(Buffer.from("typed"));
  silent.endStdin();
  assert.deepEqual([silent.hasStdin, without.input], [false, []]);
});

test("a terminal has one output stream", () => {
  const streams = new StreamsDouble();
  assert.ok(new ProcessIo(streams, { ...options, terminal: true }).hasStdin);
  assert.deepEqual([...streams.handlers.keys()], [1]);
});

/** A client that keeps the text it gets on stdout, and takes each piece at once. */
function newReader(): AttachedClient & { text: string; ends: number; take: (fd: 1 | 2, offset: number) => void } {
  return {
    text: "",
    ends: 0,
    take: () => undefined,
    output(fd, offset, bytes) {
      if (fd === 1) this.text += Buffer.from(bytes).toString();
      queueMicrotask(() => this.take(fd, offset + bytes.length));
    },
    outputEnd() { this.ends++; },
  };
}

function attachReader(io: ProcessIo, from?: number): { reader: ReturnType<typeof newReader>; level: Promise<void> } {
  const reader = newReader();
  const attachment = io.attach(reader, from === undefined ? undefined : new Map([[1, from], [2, 0]]));
  reader.take = (fd, offset) => attachment.acknowledge(fd, offset);
  return { reader, level: attachment.level };
}

test("a process of a dead owner goes on: the log gets each byte once, a client that comes back what it missed", async () => {
  const folder = mkdtempSync(join(tmpdir(), "casemate-io-"));
  try {
    const path = join(folder, "log");
    const first = await ContainerLogWriter.open(path);
    await first.append({ fd: 1, offset: 0, unixNanos: 1n, bytes: Buffer.from("0123456789") });
    await first.close();
    const { writer, end: { offsets } } = await ContainerLogWriter.resume(path);
    const streams = new StreamsDouble();
    const io = new ProcessIo(streams, { ...options, log: writer }, { acknowledged: new Map([[1, 4], [2, 0]]), logged: new Map([[1, offsets.get(1) ?? 0], [2, 0]]), stdinOffset: 7, over: false });
    assert.deepEqual([streams.starts.get(1), io.stdinOffset], [4, 7]);
    const early = attachReader(io, 6);
    streams.handlers.get(1)?.onBytes(4, Buffer.from("456789ab"));
    await writer.flushed();
    const late = attachReader(io, 2);
    streams.handlers.get(1)?.onBytes(12, Buffer.from("cd"));
    await late.level;
    streams.handlers.get(1)?.onEnd(14);
    streams.handlers.get(2)?.onEnd(0);
    await io.drained;
    assert.deepEqual([early.reader.text, late.reader.text], ["6789abcd", "23456789abcd"]);
    assert.deepEqual([early.reader.ends, late.reader.ends], [2, 2]);
    await io.close();
    assert.equal([...readLogRun(path, writer.runId)].map(({ bytes }) => Buffer.from(bytes).toString()).join(""), "0123456789abcd");
    const after = attachReader(io, 11);
    await after.level;
    assert.deepEqual([after.reader.text, after.reader.ends], ["bcd", 2]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("without a log the output of a process whose owner died waits for its client", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const resume = { acknowledged: new Map([[1, 100], [2, 0]] as const), logged: new Map(), stdinOffset: 0, over: false };
  const streams = new StreamsDouble();
  const io = new ProcessIo(streams, { ...options, holdOutput: true }, resume);
  assert.equal(streams.handlers.size, 0);
  const { reader } = attachReader(io, 103);
  streams.handlers.get(1)?.onBytes(100, Buffer.from("abcdef"));
  assert.deepEqual([streams.starts.get(1), reader.text], [100, "def"]);
  const forsaken = new StreamsDouble();
  assert.ok(new ProcessIo(forsaken, { ...options, holdOutput: true }, resume).hasStdin);
  t.mock.timers.tick(20_000);
  forsaken.print(1, 100, 64 * kibibytes);
  assert.equal(forsaken.acknowledged.get(1), 100 + 64 * kibibytes);
});

test("without a log an end is announced when those who are attached have the output", async () => {
  const streams = new StreamsDouble();
  const process = newProcess(streams);
  const client = process.io.attach(newClient());
  streams.print(1, 0, 10);
  for (const [fd, handlers] of streams.handlers) handlers.onEnd(fd === 1 ? 10 : 0);
  let recorded = false;
  const finishing = process.finish(end(), () => { recorded = true; });
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(recorded, false);
  client.acknowledge(1, 10);
  await finishing;
  assert.equal(recorded, true);
});
