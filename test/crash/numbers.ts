import { Writable } from "node:stream";

/** What is wrong with numbered output, in bytes. */
export interface OutputFaults {
  readonly lost: number;
  readonly doubled: number;
}

/** The bytes of a line with that number, its end included. */
function lineBytes(number: number): number {
  return String(number).length + 1;
}

/** The bytes of the lines 1 to `last`. */
export function outputBytes(last: number): number {
  let total = 0;
  for (let digits = 1, from = 1; from <= last; digits++, from *= 10) total += (Math.min(last, from * 10 - 1) - from + 1) * (digits + 1);
  return total;
}

/**
 * Takes lines that count up from 1, as seq(1) prints them, and knows afterwards what was lost and what
 * came twice. A line that is no number counts as lost where it belonged.
 */
export class NumberedOutput extends Writable {
  readonly #counts: number[] = [];
  #rest = "";
  #garbledBytes = 0;
  #bytes = 0;
  #dropAt: number | undefined;

  /** `dropAt`: loses the byte at that offset, to see that it is noticed. */
  constructor(dropAt?: number) {
    super();
    this.#dropAt = dropAt;
  }

  get bytes(): number { return this.#bytes; }

  /** The largest number that came. */
  get last(): number { return this.#counts.length - 1; }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error) => void): void {
    this.take(chunk);
    done();
  }

  take(chunk: Uint8Array): void {
    const at = this.#bytes;
    this.#bytes += chunk.length;
    const drop = this.#dropAt !== undefined && this.#dropAt >= at && this.#dropAt < this.#bytes ? this.#dropAt - at : undefined;
    const kept = drop === undefined ? chunk : Buffer.concat([chunk.subarray(0, drop), chunk.subarray(drop + 1)]);
    const lines = (this.#rest + Buffer.from(kept).toString("latin1")).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      const number = Number(line);
      if (/^[1-9]\d*$/.test(line) && number < 100_000_000) this.#counts[number] = (this.#counts[number] ?? 0) + 1;
      else this.#garbledBytes += line.length + 1;
    }
  }

  /** Compares with the lines 1 to `last`. */
  faults(last: number): OutputFaults {
    let lost = 0, doubled = this.#garbledBytes;
    for (let number = 1; number <= Math.max(last, this.last); number++) {
      const count = this.#counts[number] ?? 0;
      if (number <= last && count === 0) lost += lineBytes(number);
      doubled += Math.max(0, count - (number <= last ? 1 : 0)) * lineBytes(number);
    }
    return { lost, doubled: doubled + this.#rest.length };
  }
}
