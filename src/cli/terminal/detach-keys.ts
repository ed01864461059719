import { RuntimeError } from "../../shared/base/errors.ts";

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

/** Parses docker's notation: keys separated by commas, a key is a character or `ctrl-` and one of a-z, @, [, \, ], ^, _. @throws RuntimeError `invalid_argument`. */
export function parseDetachKeys(text: string): Uint8Array {
  return Uint8Array.from(text.split(",").map((key) => {
    const control = /^ctrl-([a-z@[\\\]^_])$/i.exec(key)?.[1];
    const code = control === undefined ? key.charCodeAt(0) : control.toUpperCase().charCodeAt(0) & 0x1f;
    if (control === undefined && (key.length !== 1 || code > 0x7e)) throw new RuntimeError("invalid_argument", `detach keys "${text}": "${key}" is no key`, { reason: "bad_detach_keys", hint: "for example --detach-keys ctrl-p,ctrl-q" });
    return code;
  }));
}
