import type { Socket } from "node:net";
import { isErrnoException } from "../../shared/base/errors.ts";

/** Where one output stream of a process goes: the data port, under the process's stream id. */
export interface OutputSender {
  /** Queues bytes. False: enough are unacknowledged; read no more until {@link OutputSender.onRoom}. */
  send(bytes: Uint8Array): boolean;
  /** Called each time there is room again. */
  onRoom(listener: () => void): void;
  /** No more bytes. */
  end(): void;
}

/** Silence after a process's end by which its output counts as complete, when somebody it left behind keeps the pipe open. */
const quietMs = 200;
/** A process left behind that keeps on writing does not hold back the exit for longer. */
const drainTimeoutMs = 2_000;

/**
 * Moves one output of a process from its pipe to the data port. While the host is behind, the pipe is
 * not read, so the process waits in its own write as it would with any slow reader.
 */
export class OutputPump {
  readonly #stream: Socket;
  readonly #sender: OutputSender;
  #bytes = 0;
  #lastDataMs = performance.now();
  #draining = false;
  #finished = false;
  readonly #end = Promise.withResolvers<void>();

  constructor(stream: Socket, sender: OutputSender) {
    this.#stream = stream;
    this.#sender = sender;
    sender.onRoom(() => { if (!this.#finished) stream.resume(); });
    stream.on("data", (chunk: Buffer) => this.#take(chunk));
    stream.on("end", () => this.#finish());
    stream.on("close", () => this.#finish());
    // EIO is how a terminal's master says that the last process has closed its side.
    stream.on("error", (error) => { if (!isErrnoException(error, "EIO")) stream.destroy(); this.#finish(); });
  }

  /** Bytes taken so far. */
  get bytes(): number { return this.#bytes; }

  /**
   * To be called when the process has ended: takes what is left, which a pipe's size bounds, without
   * regard to the host's pace, and ends the stream. Resolves when {@link bytes} is final.
   */
  async drain(): Promise<void> {
    if (this.#finished) return;
    this.#draining = true;
    this.#lastDataMs = performance.now();
    this.#stream.resume();
    const startedMs = performance.now();
    const timer = setInterval(() => {
      const now = performance.now();
      if (now - this.#lastDataMs >= quietMs || now - startedMs >= drainTimeoutMs) this.#finish();
    }, quietMs / 4);
    await this.#end.promise;
    clearInterval(timer);
  }

  #take(chunk: Buffer): void {
    // A process left behind may go on writing; closing the pipe would end it by SIGPIPE.
    if (this.#finished) return;
    this.#bytes += chunk.length;
    this.#lastDataMs = performance.now();
    if (!this.#sender.send(chunk) && !this.#draining) this.#stream.pause();
  }

  #finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#stream.resume(); // from here on into nowhere
    this.#sender.end();
    this.#end.resolve();
  }
}
