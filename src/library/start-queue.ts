import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import { RuntimeError } from "../shared/base/errors.ts";
import { cgroupRoomBytes } from "./cgroup-room.ts";

/** What the machine has left. */
export interface HostRoom {
  /** Memory that can be had without swapping, and that the program's cgroup allows. */
  availableBytes(): number;
  /** Starts that may be under way at once: each keeps a CPU busy. */
  readonly parallelStarts: number;
}

/** Memory that is never taken by sandboxes. */
const reserveBytes = 512 * 1024 * 1024;
/** How often memory is looked at while something waits for it. */
const lookMs = 500;

/** This machine. */
export const thisHost: HostRoom = {
  availableBytes: () => Math.min(Number(/^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync("/proc/meminfo", "latin1"))?.[1] ?? 0) * 1024, cgroupRoomBytes()),
  parallelStarts: availableParallelism(),
};

interface Waiting {
  readonly bytes: number;
  readonly admitted: PromiseWithResolvers<void>;
  readonly onProgress: (what: string) => void;
}

/**
 * Lets sandboxes start in the order they were asked for, as many at once as the machine can hold: each
 * start takes a CPU for its time, and what it will need of memory is counted until it shows.
 */
export class StartQueue {
  readonly #host: HostRoom;
  readonly #waiting: Waiting[] = [];
  #starting = 0;
  #promisedBytes = 0;
  #looking = false;

  constructor(host: HostRoom = thisHost) {
    this.#host = host;
  }

  /** Runs a start when it is its turn. @throws RuntimeError `canceled` while it waits; whatever the start throws. */
  async run<T>(bytes: number, options: { readonly signal?: AbortSignal | undefined; readonly onProgress?: ((what: string) => void) | undefined }, start: () => Promise<T>): Promise<T> {
    const one: Waiting = { bytes, admitted: Promise.withResolvers<void>(), onProgress: options.onProgress ?? (() => undefined) };
    const giveUp = (): void => {
      const index = this.#waiting.indexOf(one);
      if (index === -1) return; // it has begun
      this.#waiting.splice(index, 1);
      one.admitted.reject(new RuntimeError("canceled", "wait for room on this machine", { cause: options.signal?.reason }));
    };
    options.signal?.addEventListener("abort", giveUp, { once: true });
    this.#waiting.push(one);
    if (options.signal?.aborted === true) giveUp();
    this.#admit();
    try {
      await one.admitted.promise;
    } finally {
      options.signal?.removeEventListener("abort", giveUp);
    }
    try {
      return await start();
    } finally {
      this.#starting--;
      this.#promisedBytes -= bytes;
      this.#admit();
    }
  }

  #admit(): void {
    for (let first = this.#waiting[0]; first !== undefined && this.#hasRoom(first); first = this.#waiting[0]) {
      this.#waiting.shift();
      this.#starting++;
      this.#promisedBytes += first.bytes;
      first.admitted.resolve();
    }
    for (const [before, { onProgress }] of this.#waiting.entries()) onProgress(before === 0 ? "waiting for room" : `waiting for room: ${before} before this one`);
    // The end of a start is an event; memory that comes free is not.
    if (this.#waiting.length > 0 && this.#starting < this.#host.parallelStarts && !this.#looking) void this.#lookAgain();
  }

  #hasRoom({ bytes }: Waiting): boolean {
    if (this.#starting >= this.#host.parallelStarts) return false;
    return this.#host.availableBytes() - this.#promisedBytes - reserveBytes >= bytes;
  }

  async #lookAgain(): Promise<void> {
    this.#looking = true;
    await delay(lookMs);
    this.#looking = false;
    this.#admit();
  }
}
