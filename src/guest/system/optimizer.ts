import { setFlagsFromString } from "node:v8";

/** An emulated guest on an idle host has started its first container by then. */
const quietMs = 1_000;
/** The longest that a timer takes, 24 days. */
const neverMs = 2 ** 31 - 1;

/**
 * V8's optimizing compiler, off while a sandbox starts (guest-image/init has it off from the beginning). Which
 * function it takes up, and when, is chance: as many as 20,000 blocks of code that an emulated guest would
 * translate in the middle of a start (docs/performance.md).
 */
export class Optimizer {
  #on = false;
  #waiting: NodeJS.Timeout | undefined;

  /** Off now, and on again some time after the last call; `saved`: not before the next, for a guest that is saved meanwhile. */
  holdBack(saved: boolean): void {
    if (this.#on) setFlagsFromString("--no-turbofan");
    this.#on = false;
    clearTimeout(this.#waiting);
    this.#waiting = setTimeout(() => {
      this.#on = true;
      setFlagsFromString("--turbofan");
    }, saved ? neverMs : quietMs);
  }
}
