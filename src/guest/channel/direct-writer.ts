import type { Socket } from "node:net";
import { callUnchecked } from "../../shared/linux/libc.ts";

/**
 * Writes to a stream's descriptor at once, and by the stream what the kernel does not take: under
 * emulation a stream's own bookkeeping for a write costs as much as the write. The bytes are the
 * caller's again when a call returns.
 */
export class DirectWriter {
  readonly #stream: Socket;
  readonly #fd: number;

  /** `fd` belongs to the stream and does not block. */
  constructor(stream: Socket, fd: number) {
    this.#stream = stream;
    this.#fd = fd;
  }

  /** As a stream's: false when the caller should wait for its drain. */
  write(bytes: Uint8Array): boolean {
    if (this.#stream.destroyed) return false; // its descriptor may be another file's by now
    const taken = this.#stream.writableLength > 0 ? 0 : Math.max(0, Number(callUnchecked("long write(int, void *, unsigned long)", this.#fd, bytes, bytes.length)));
    // An error is met again, and reported, by the stream.
    return taken === bytes.length || this.#stream.write(Buffer.from(bytes.subarray(taken)));
  }
}
