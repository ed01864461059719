import type { Socket } from "node:net";
import { orAbandon, type WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { PushQueue } from "../../shared/base/push-queue.ts";
import { connectUnix } from "../../shared/linux/unix-socket.ts";
import type { OwnerClient } from "../control/owner-client.ts";

/** The guest has said that the bytes are on their way; QEMU passes them on within milliseconds. */
const arrivalTimeoutMs = 10_000;
/** Takes what comes first, before a place was named; and what nobody asked for. */
const spareBytes = 16 * 1024;

/** Memory for bytes that were asked for. */
interface Place {
  readonly bytes: Buffer;
  filled: number;
}

/**
 * The host's end of a lane (docs/wire-channel.md). What comes is the guest's: it is put where it was asked
 * for, without a copy, and what was not asked for is an error of the transfer.
 */
export class Lane {
  readonly laneId: number;
  readonly #endCall: () => Promise<void>;
  readonly #spare = Buffer.allocUnsafeSlow(spareBytes);
  readonly #places: Place[] = [];
  #socket: Socket | undefined;
  #failure: RuntimeError | undefined;
  #wake: (() => void) | undefined;

  private constructor(laneId: number, endCall: () => Promise<void>) {
    this.laneId = laneId;
    this.#endCall = endCall;
  }

  /** @throws RuntimeError of the owner's, e.g. `resource_exhausted` (reason `lane_busy`). */
  static async open(owner: OwnerClient["owner"]): Promise<Lane> {
    const inputs = new PushQueue<Record<string, never>>();
    const answers = owner.lane(inputs)[Symbol.asyncIterator]();
    const endCall = async (): Promise<void> => {
      inputs.end();
      // The owner's last answer comes when the guest has lost the port.
      while ((await answers.next().catch(() => ({ done: true }))).done !== true);
    };
    try {
      const answer = await answers.next();
      if (answer.done === true) throw laneLost();
      const lane = new Lane(answer.value.laneId, endCall);
      await lane.#connect(answer.value.socketPath);
      return lane;
    } catch (error) {
      await endCall();
      throw error;
    }
  }

  /** Sends bytes; they must not change until the guest has told that it has them. */
  send(chunks: readonly Uint8Array[]): void {
    for (const chunk of chunks) this.#socket?.write(chunk);
  }

  /** That many bytes more may come. */
  expect(bytes: number): void {
    this.#places.push({ bytes: Buffer.allocUnsafeSlow(bytes), filled: 0 });
  }

  /**
   * What has come for the first {@link expect}, of which the guest says that it was so much.
   * @throws RuntimeError `unavailable` (reason `lane_lost`); `data_loss` (reason `bad_guest_answer`) when more has come.
   */
  async take(bytes: number, { signal }: WaitOptions = {}): Promise<Buffer> {
    const place = this.#places[0];
    if (place === undefined || place.bytes.length < bytes) throw unasked();
    const arrived = async (): Promise<void> => {
      while (place.filled < bytes) {
        if (this.#failure !== undefined) throw this.#failure;
        await new Promise<void>((resolve) => { this.#wake = resolve; });
      }
    };
    await orAbandon(arrived(), "receive what the guest has sent", { timeoutMs: arrivalTimeoutMs, signal });
    if (place.filled > bytes) throw unasked();
    this.#places.shift();
    return place.bytes.subarray(0, bytes);
  }

  /** @throws RuntimeError `data_loss` when anything has come that was not asked for. */
  requireSilent(): void {
    if (RuntimeError.is(this.#failure, "data_loss")) throw this.#failure;
  }

  /** True when nothing moves any more. */
  get lost(): boolean {
    return this.#failure !== undefined;
  }

  /** Resolves when the guest has lost the port. */
  async close(): Promise<void> {
    this.#fail(laneLost());
    this.#socket?.destroy();
    await this.#endCall();
  }

  async #connect(path: string): Promise<void> {
    const nextPlace = (): Buffer => {
      const place = this.#firstWithRoom();
      return place === undefined ? this.#spare : place.bytes.subarray(place.filled);
    };
    this.#socket = await connectUnix(path, {
      buffer: nextPlace,
      callback: (length, buffer) => {
        this.#receive(length, buffer);
        return true;
      },
    });
    this.#socket.on("error", (error) => this.#fail(laneLost(error)));
    this.#socket.on("end", () => this.#fail(laneLost()));
    this.#socket.on("close", () => this.#fail(laneLost()));
  }

  #firstWithRoom(): Place | undefined {
    return this.#places.find(({ bytes, filled }) => filled < bytes.length);
  }

  /** Bytes have been read, into the first place with room or else the spare one. */
  #receive(length: number, buffer: Uint8Array): void {
    const isSpare = buffer.buffer === this.#spare.buffer;
    for (let at = 0; at < length;) {
      const place = this.#firstWithRoom();
      if (place === undefined) {
        this.#fail(unasked());
        this.#socket?.destroy();
        return;
      }
      const count = Math.min(length - at, place.bytes.length - place.filled);
      if (isSpare) place.bytes.set(buffer.subarray(at, at + count), place.filled);
      place.filled += count;
      at += count;
    }
    this.#wake?.();
  }

  /** The first reason is the one that is told. */
  #fail(why: RuntimeError): void {
    this.#failure ??= why;
    this.#wake?.();
  }
}

/** True when the bytes have to go another way; nothing is wrong with the file. */
export function isLaneLost(error: unknown): boolean {
  return RuntimeError.is(error) && error.reason === "lane_lost";
}

function laneLost(cause?: unknown): RuntimeError {
  return new RuntimeError("unavailable", "the lane is lost", { reason: "lane_lost", cause });
}

function unasked(): RuntimeError {
  return new RuntimeError("data_loss", "the guest has sent bytes that nobody asked for", { reason: "bad_guest_answer" });
}
