import { closeSync, constants, openSync } from "node:fs";
import { eventually } from "../../shared/base/deadline.ts";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { lanePortName } from "../../shared/channel/lane.ts";
import { callAsync } from "../../shared/linux/libc.ts";
import { writeAll } from "../linux/write-all.ts";
import { PortFile } from "./port-file.ts";
import { findPort, hasHost } from "./port.ts";

/** The kernel has a new port some milliseconds after QEMU has; a busy guest takes longer. */
const portTimeoutMs = 5_000;
const lookAgainMs = 2;
/** Taken from the port at once, while as much is written to the file. */
const blockBytes = 1024 * 1024;

/**
 * The guest's end of a lane: a virtio-serial port that carries the bytes of one file as they are. This
 * program never looks at them: system calls move them, a block or more each, on threads of libuv's pool,
 * while the event loop serves others. Such a thread waits as long as the host makes it wait;
 * when the host takes the port away, every call on it ends.
 */
export class LanePort {
  readonly #fd: number;
  readonly #port: PortFile;
  #blocks: readonly [Buffer, Buffer] | undefined;
  /** Moves one after the other: their bytes follow each other in the port. */
  #tail: Promise<unknown> = Promise.resolve();
  /** Where the next piece begins in the file. */
  #offset: number | undefined;
  #over = false;
  #closed: Promise<void> | undefined;

  /** Takes over the descriptor of an open port, which blocks. */
  constructor(fd: number) {
    this.#fd = fd;
    this.#port = new PortFile(fd);
  }

  /** Waits until the port is there and a host at its other end. */
  static async open(laneId: number): Promise<LanePort> {
    const options = { timeoutMs: portTimeoutMs, intervalMs: lookAgainMs };
    const path = await eventually(`lane ${laneId}`, () => lookForPort(laneId), options);
    const fd = openSync(path, constants.O_RDWR); // a thread that moves bytes waits in the kernel
    try {
      await eventually(`the host's end of lane ${laneId}`, () => hasHost(fd) || undefined, options);
      return new LanePort(fd);
    } catch (error) {
      closeSync(fd); // nobody has it yet
      throw error;
    }
  }

  /** Writes what comes by the port into a file. @throws RuntimeError of the file's error; `unavailable` (reason `lane_lost`) when the port is gone. */
  async receive(file: number, offset: number, length: number): Promise<void> {
    await this.#inTurn(offset, length, async () => {
      const [even, odd] = this.#blocks ??= [Buffer.allocUnsafeSlow(blockBytes), Buffer.allocUnsafeSlow(blockBytes)];
      const blocks = Array.from({ length: Math.ceil(length / blockBytes) }, (_, index) => (index % 2 === 0 ? even : odd).subarray(0, Math.min(blockBytes, length - index * blockBytes)));
      let written: Promise<void> = Promise.resolve();
      for (const [index, block] of blocks.entries()) {
        // The block before is written meanwhile, and its buffer is free by the time of the next one. Both are
        // waited for also when one fails: nothing may be under way when the port is closed.
        const [taken, before] = await Promise.allSettled([this.#port.fill(block), written]);
        if (before.status === "rejected") throw before.reason;
        if (taken.status === "rejected" || !taken.value) throw laneLost("the host has gone");
        written = writeAll(file, block, offset + index * blockBytes);
        written.catch(() => { /* thrown in the next turn, or below */ });
      }
      await written;
      return length;
    });
  }

  /** Sends bytes of a file into the port, and tells how many: fewer than asked for at the file's end. */
  async send(file: number, offset: number, length: number): Promise<number> {
    return this.#inTurn(offset, length, async () => {
      const position = Buffer.alloc(8); // off_t
      position.writeBigInt64LE(BigInt(offset));
      for (let moved = 0; ;) {
        const sent = moved === length ? 0 : Number(await callAsync("long sendfile(int, int, void *, unsigned long)", this.#fd, file, position, length - moved).catch(lost));
        if (sent === 0) return moved;
        moved += sent;
      }
    });
  }

  /** Moves that are under way end first; they do when the host takes the port away. */
  async close(): Promise<void> {
    this.#over = true;
    this.#closed ??= this.#tail.then(() => this.#port.close());
    return this.#closed;
  }

  async #inTurn(offset: number, length: number, move: () => Promise<number>): Promise<number> {
    const moved = this.#tail.then(async () => {
      if (this.#over) throw laneLost("it is closed, or a move before this one has failed");
      if (this.#offset !== undefined && offset !== this.#offset) throw laneLost(`the next byte is ${this.#offset}, not ${offset}`);
      const count = await move();
      this.#offset = offset + count;
      return count;
    });
    // After a failure nobody knows what is still in the port.
    this.#tail = moved.catch(() => { this.#over = true; });
    return moved;
  }
}

/** Undefined: the port, or its name, is still to come. */
function lookForPort(laneId: number): string | undefined {
  try {
    return findPort(lanePortName(laneId));
  } catch (error) {
    if (RuntimeError.is(error, "not_found") || isErrnoException(error, "ENOENT")) return undefined;
    throw error;
  }
}

/** A failure of the port, or of a file system that the kernel cannot send from; other errors are the file's. */
function lost(error: unknown): never {
  if (isErrnoException(error, "ENODEV") || isErrnoException(error, "EPIPE") || isErrnoException(error, "EINVAL")) throw laneLost(error.code);
  throw error;
}

function laneLost(why: string): RuntimeError {
  return new RuntimeError("unavailable", `the lane is lost: ${why}`, { reason: "lane_lost" });
}
