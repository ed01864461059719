import { RuntimeError } from "../../shared/base/errors.ts";

/** Numbers of a guest's events: each once, without gaps. One that comes again is passed over; a gap is a guest that lies, or has lost something. */
export class EventOrder {
  #last: bigint;

  /** `after`: the last number that is done with. */
  constructor(after: bigint) {
    this.#last = after;
  }

  /** True for an event that is due; false for one that was there already. @throws RuntimeError `data_loss` (reason `bad_reply`). */
  accept(sequence: bigint): boolean {
    if (sequence <= this.#last) return false;
    if (sequence !== this.#last + 1n) throw new RuntimeError("data_loss", `events: the guest sent number ${sequence} after ${this.#last}`, { reason: "bad_reply" });
    this.#last = sequence;
    return true;
  }
}
