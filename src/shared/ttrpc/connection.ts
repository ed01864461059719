import type { Duplex } from "node:stream";
import { RuntimeError, describeError } from "../base/errors.ts";
import { FrameDecoder, encodeFrameHeader, maxFrameBytes, type Frame } from "./frame.ts";

/** A frame with no more data is one write: over a VM's port each is a trip of its own. */
const maxJoinedBytes = 4096;

/** Frames over a duplex byte stream, with back-pressure on sending. Ends once, with or without an error. */
export class FrameConnection {
  readonly #stream: Duplex;
  readonly #onFrame: (frame: Frame) => void;
  readonly #ended = Promise.withResolvers<RuntimeError | undefined>();
  #drain: PromiseWithResolvers<void> | undefined;
  #over = false;

  constructor(stream: Duplex, onFrame: (frame: Frame) => void) {
    this.#stream = stream;
    this.#onFrame = onFrame;
    const decoder = new FrameDecoder();
    stream.on("data", (chunk: Uint8Array) => {
      try {
        for (const frame of decoder.push(chunk)) this.#onFrame(frame);
      } catch (error) {
        this.end(RuntimeError.wrap(error, "handle ttrpc frame"));
      }
    });
    stream.on("end", () => this.end());
    stream.on("close", () => this.end());
    stream.on("error", (error) => this.end(new RuntimeError("unavailable", "ttrpc connection", { cause: error })));
    stream.on("drain", () => {
      this.#drain?.resolve();
      this.#drain = undefined;
    });
  }

  /** Resolves when the connection is over; with the error that ended it, if any. */
  get ended(): Promise<RuntimeError | undefined> {
    return this.#ended.promise;
  }

  get over(): boolean {
    return this.#over;
  }

  /** Sends a frame; resolves when the stream has room for the next one. @throws RuntimeError `resource_exhausted` above 4 MiB, `unavailable` after the end. */
  async send(streamId: number, type: number, flags: number, data: Uint8Array): Promise<void> {
    if (data.length > maxFrameBytes) throw new RuntimeError("resource_exhausted", `message length ${data.length} exceed maximum message size of ${maxFrameBytes}`);
    if (this.#over) throw new RuntimeError("unavailable", "ttrpc connection is closed");
    if (this.#write(encodeFrameHeader(streamId, type, flags, data.length), data)) return;
    this.#drain ??= Promise.withResolvers<void>();
    await this.#drain.promise;
  }

  /** False when the stream should drain first. */
  #write(header: Buffer, data: Uint8Array): boolean {
    if (data.length <= maxJoinedBytes) return this.#stream.write(Buffer.concat([header, data]));
    this.#stream.cork();
    this.#stream.write(header);
    const room = this.#stream.write(data);
    this.#stream.uncork();
    return room;
  }

  end(error?: RuntimeError): void {
    if (this.#over) return;
    this.#over = true;
    this.#ended.resolve(error);
    this.#drain?.resolve(); // a race with `ended` instead would leave something behind with every message
    this.#stream.destroy();
  }
}

/** The error of a call whose connection ended. */
export function connectionLost(error: RuntimeError | undefined): RuntimeError {
  return new RuntimeError("unavailable", error === undefined ? "ttrpc connection closed" : `ttrpc connection lost: ${describeError(error)}`, { reason: "connection_lost" });
}
