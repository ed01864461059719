import { setFlagsFromString } from "node:v8";

/** An emulated guest on an idle host has started its first container by then. */
const quietMs = 1_000;

/**
 * V8's optimizing compiler, off while a sandbox starts (guest-image/init has it off from the beginning). Which
 * function it takes up, and when, is chance: as many as 20,000 blocks of code that an emulated guest would
 * translate in the middle of a start (docs/performance.md).
 */
export class Optimizer {
  #waiting: NodeJS.Timeout | undefined;

  /** Off now, and on again some time after the last call. */
  holdBack(): void {
    if (this.#waiting !== undefined) {
      this.#waiting.refresh();
      return;
    }
    setFlagsFromString("--no-turbofan");
    this.#waiting = setTimeout(() => {
      this.#waiting = undefined;
      setFlagsFromString("--turbofan");
    }, quietMs);
  }
}
