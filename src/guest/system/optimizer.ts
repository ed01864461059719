import { setFlagsFromString } from "node:v8";

/** An emulated guest on an idle host has started its first container by then; on a busy one it is still at it, and is looked at again after as long. */
const quietMs = 1_000;
/** The longest that a timer takes, 24 days. */
const neverMs = 2 ** 31 - 1;

/**
 * V8's optimizing compiler, off while a sandbox starts (guest-image/init has it off from the beginning). Which
 * function it takes up, and when, is chance: as many as 20,000 blocks of code that an emulated guest would
 * translate in the middle of a start (docs/performance.md).
 */
export class Optimizer {
  readonly #isStarting: () => boolean;
  #on = false;
  #waiting: NodeJS.Timeout | undefined;

  /** `isStarting`: containers or processes are being made. */
  constructor(isStarting: () => boolean) {
    this.#isStarting = isStarting;
  }

  /** Off now, and on again some time after the last call; `saved`: not before the next, for a guest that is saved meanwhile. */
  holdBack(saved: boolean): void {
    if (this.#on) setFlagsFromString("--no-turbofan");
    this.#on = false;
    this.#turnOnAfter(saved ? neverMs : quietMs);
  }

  #turnOnAfter(delayMs: number): void {
    clearTimeout(this.#waiting);
    this.#waiting = setTimeout(() => {
      if (this.#isStarting()) return this.#turnOnAfter(quietMs);
      this.#on = true;
      setFlagsFromString("--turbofan");
    }, delayMs);
  }
}
