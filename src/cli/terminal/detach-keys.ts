/** docker's default: Ctrl-P, Ctrl-Q. */
export const defaultDetachKeys = Uint8Array.of(0x10, 0x11);

/**
 * Looks for the detach sequence in what is typed. Keys that begin the sequence are held back until it
 * is complete (they are dropped then) or broken (they are passed on).
 */
export class DetachKeyFilter {
  readonly #sequence: Uint8Array;
  #matched = 0;

  constructor(sequence: Uint8Array = defaultDetachKeys) {
    this.#sequence = sequence;
  }

  /** What to pass on, and whether the sequence was completed; bytes after it are dropped. */
  push(input: Uint8Array): { readonly pass: Uint8Array; readonly detach: boolean } {
    const pass: number[] = [];
    for (const byte of input) {
      if (byte === this.#sequence[this.#matched]) {
        this.#matched++;
        if (this.#matched === this.#sequence.length) return { pass: Uint8Array.from(pass), detach: true };
        continue;
      }
      pass.push(...this.#sequence.subarray(0, this.#matched));
      this.#matched = byte === this.#sequence[0] ? 1 : 0;
      if (this.#matched === 0) pass.push(byte);
    }
    return { pass: Uint8Array.from(pass), detach: false };
  }
}
