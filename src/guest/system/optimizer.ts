import { setFlagsFromString } from "node:v8";

/** Pieces of data from the host. A container takes some ten from its creation to its end, an exec six; a guest that gets more has work that is worth compiling for. */
const enoughWork = 250;

/**
 * V8's optimizing compiler, off while a sandbox starts (guest-image/init has it off from the beginning) and for as long
 * as its host asks little of it. Which function it takes up, and when, is chance: as many as 20,000 blocks of code that
 * an emulated guest would translate in the middle of a start (docs/performance.md), and 70 ms of each guest that then idles.
 */
export class Optimizer {
  readonly #isStarting: () => boolean;
  readonly #setFlags: (flags: string) => void;
  #on = false;
  #heard = 0;

  /** `isStarting`: containers or processes are being made. */
  constructor(isStarting: () => boolean, setFlags = setFlagsFromString) {
    this.#isStarting = isStarting;
    this.#setFlags = setFlags;
  }

  /** Off now, and on again when the host has been heard of often enough; `saved`: not before the next call, for a guest that is saved meanwhile. */
  holdBack(saved: boolean): void {
    if (this.#on) this.#setFlags("--no-turbofan");
    this.#on = false;
    this.#heard = saved ? -Infinity : 0;
  }

  /** Something has come from the host. */
  heard(): void {
    if (this.#on || ++this.#heard < enoughWork || this.#isStarting()) return;
    this.#on = true;
    this.#setFlags("--turbofan");
  }
}
