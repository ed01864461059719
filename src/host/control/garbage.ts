import { call } from "../../shared/linux/libc.ts";

/** What an ended exec left is kept for 10 s (sandbox.ts) and no garbage until then. */
const delayMs = 12_000;

/**
 * Has garbage collected some time after it was made. V8 alone looks through what has lived for a while only
 * when there are some further 8 MiB of it, and an owner that makes little keeps all of it. A collection takes some 25 ms.
 */
export class Garbage {
  readonly #collect: () => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(collect: () => void = collectAll) {
    this.#collect = collect;
  }

  /** Something was done that leaves garbage. However often that is said, it is collected once in a while. */
  collectLater(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#collect();
    }, delayMs).unref();
  }
}

/** V8's own collection that compacts too, which bin/owner-supervisor asks for by --expose-gc; then what malloc holds free goes back to the kernel. */
function collectAll(): void {
  globalThis.gc?.({ type: "major", flavor: "last-resort" });
  try {
    call("int malloc_trim(size_t)", 0);
  } catch {
    // A libc other than glibc.
  }
}
