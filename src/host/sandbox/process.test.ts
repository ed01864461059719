import assert from "node:assert/strict";
import { test } from "node:test";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { OutputReceiver, ProcessStreams } from "../agent-client/process-streams.ts";
import { GuestProcess, type ProcessEnd } from "./process.ts";
import { ProcessIo, type AttachedClient, type ProcessIoOptions } from "./process-io.ts";

type Handlers = Parameters<ProcessStreams["openOutput"]>[1];

/** The guest's end of a process's streams: what a test sends, and what was acknowledged. */
class StreamsDouble implements ProcessStreams {
  readonly handlers = new Map<1 | 2, Handlers>();
  readonly acknowledged = new Map<number, number>();
  readonly input: string[] = [];
  closed = false;

  openStdin() {
    return {
      write: async (bytes: Uint8Array) => { this.input.push(Buffer.from(bytes).toString()); },
      end: () => { this.input.push("<end>"); },
      close: () => { this.input.push("<closed>"); },
    };
  }

  openOutput(fd: 1 | 2, handlers: Handlers): OutputReceiver {
    this.handlers.set(fd, handlers);
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
