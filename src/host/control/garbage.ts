/** What an ended exec left is kept for 10 s (sandbox.ts) and no garbage until then. */
const delayMs = 12_000;

/**
 * Has garbage collected some time after it was made. V8 alone looks through what has lived for a while only
 * when there are some further 8 MiB of it, and an owner that makes little keeps all of it. A collection takes some 25 ms.
 */
export class Garbage {
  readonly #collect: () => void;
  #timer: NodeJS.Timeout | undefined;

  /** `collect`: V8's own that compacts too, which bin/owner-supervisor asks for by --expose-gc. */
  constructor(collect: () => void = () => globalThis.gc?.({ type: "major", flavor: "last-resort" })) {
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
