import assert from "node:assert/strict";
import { setImmediate as turn } from "node:timers/promises";
import { test } from "node:test";
import { RuntimeError } from "../shared/base/errors.ts";
import { StartQueue, type HostRoom } from "./start-queue.ts";

const mib = 1024 * 1024;

/** A machine with that much memory, and starts that end when the test says so. */
class Starts {
  readonly begun: number[] = [];
  readonly progress: string[] = [];
  readonly host: HostRoom;
  availableBytes: number;
  readonly #ends = new Map<number, () => void>();

  constructor(availableMiB: number, parallelStarts: number) {
    this.availableBytes = availableMiB * mib;
    this.host = { availableBytes: () => this.availableBytes, parallelStarts };
  }

  start(queue: StartQueue, number: number, bytes: number, signal?: AbortSignal): Promise<number> {
    return queue.run(bytes, { signal, onProgress: (what) => this.progress.push(`${number}: ${what}`) }, async () => {
      this.begun.push(number);
      await new Promise<void>((resolve) => this.#ends.set(number, resolve));
      return number;
    });
  }

  async end(number: number): Promise<void> {
    this.#ends.get(number)?.();
    await turn();
  }
}

test("StartQueue starts as many at once as there are CPUs, in order", async () => {
  const starts = new Starts(100_000, 2);
  const queue = new StartQueue(starts.host);
  const all = [1, 2, 3, 4].map((number) => starts.start(queue, number, mib));
  await turn();
  assert.deepEqual(starts.begun, [1, 2]);
  await starts.end(2);
  assert.deepEqual(starts.begun, [1, 2, 3]);
  assert.ok(starts.progress.includes("4: waiting for room: 1 before this one"));
  for (const number of [1, 3, 4]) await starts.end(number);
  assert.deepEqual(await Promise.all(all), [1, 2, 3, 4]);
});

test("StartQueue counts what starts under way will take", async () => {
  const starts = new Starts(512 + 300, 8);
  const queue = new StartQueue(starts.host);
  const all = [1, 2].map((number) => starts.start(queue, number, 200 * mib));
  await turn();
  assert.deepEqual(starts.begun, [1]);
  await starts.end(1);
  assert.deepEqual(starts.begun, [1, 2]);
  await starts.end(2);
  await Promise.all(all);
});

test("StartQueue forgets a start that is given up while it waits, and a failed one makes room", async () => {
  const starts = new Starts(100_000, 1);
  const queue = new StartQueue(starts.host);
  const failing = queue.run(mib, {}, async () => { throw new Error("no"); });
  const stop = new AbortController();
  const given = starts.start(queue, 1, mib, stop.signal);
  stop.abort();
  await assert.rejects(given, (error: unknown) => RuntimeError.is(error, "canceled"));
  await assert.rejects(failing, /no/);
  const last = starts.start(queue, 2, mib);
  await turn();
  await starts.end(2);
  assert.equal(await last, 2);
  assert.deepEqual(starts.begun, [2]);
});
