import { callAsync, callUnchecked } from "../../shared/linux/libc.ts";

/** setvbuf(3): no buffer of libc's between the port and ours. */
const _IONBF = 2;

/**
 * An open port as a file of libc's. The driver hands out at most one of its buffers, 4 KiB, a read; fread(3)
 * asks again until it has all, without a turn of the event loop for each.
 */
export class PortFile {
  /** `FILE *`. */
  readonly #file: bigint;

  /** Takes the descriptor over; it blocks. */
  constructor(fd: number) {
    this.#file = BigInt(callUnchecked("uintptr_t fdopen(int, const char *)", fd, "r"));
    callUnchecked("int setvbuf(uintptr_t, void *, int, unsigned long)", this.#file, null, _IONBF, 0);
  }

  /** Fills a buffer with what comes next, on a thread of its own. False: the other end is gone. */
  async fill(buffer: Buffer): Promise<boolean> {
    return Number(await callAsync("unsigned long fread(void *, unsigned long, unsigned long, uintptr_t)", buffer, 1, buffer.length, this.#file)) === buffer.length;
  }

  close(): void {
    callUnchecked("int fclose(uintptr_t)", this.#file);
  }
}
