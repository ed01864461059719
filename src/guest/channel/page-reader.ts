import { addressOf, callUnchecked } from "../../shared/linux/libc.ts";

/** The size of the buffers that the driver offers to the host: Linux' virtio_console takes one page each. */
export const pageBytes = 4096;
/** Pages taken at once: two of the channel's largest packets. */
const pageCount = 16;

/**
 * Takes what waits at a virtio-serial port. The driver hands out at most one of its buffers a read, and
 * libuv looks again only in the next turn of the event loop when a read gives less than there was room
 * for: 4 KiB a turn. readv(2) takes one buffer into each of its pieces.
 */
export class PageReader {
  readonly #pages = Buffer.allocUnsafeSlow(pageCount * pageBytes);
  readonly #vector = Buffer.alloc(pageCount * 16); // struct iovec: address, length

  constructor() {
    const address = addressOf(this.#pages);
    for (let page = 0; page < pageCount; page++) {
      this.#vector.writeBigUInt64LE(address + BigInt(page * pageBytes), page * 16);
      this.#vector.writeBigUInt64LE(BigInt(pageBytes), page * 16 + 8);
    }
  }

  /** Bytes of their own; undefined when nothing waits (any more), or the port has ended: then the stream will say so. */
  take(fd: number): Buffer | undefined {
    const length = Number(callUnchecked("long readv(int, void *, int)", fd, this.#vector, pageCount));
    return length <= 0 ? undefined : Buffer.from(this.#pages.subarray(0, length));
  }
}
