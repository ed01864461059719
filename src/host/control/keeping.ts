import type { SavedKeeping } from "../store/saved-records.ts";

/** A holder of a lease notices the death of an owner at once, and finds the next one within seconds. */
const holderReturnMs = 20_000;
/** Longest delay setTimeout keeps (2^31 - 1 ms): what is longer is as good as no limit. */
const maxTimerMs = 2_147_483_647;

/** Time limits of a sandbox, in milliseconds; 0: none. */
export interface TimeLimits {
  readonly totalMs: number;
  readonly idleMs: number;
}

/**
 * Decides when a sandbox has been kept long enough: when whoever holds a lease of it is gone, when its
 * time is over, when nobody has used it for too long. Nothing is decided before something of that was
 * asked for. `end` is called once, with why.
 */
export class Keeping {
  readonly #end: (why: string) => void;
  readonly #save: (keeping: SavedKeeping) => void;
  #saved: SavedKeeping = { leased: false, totalUntilUnixMs: 0, idleMs: 0 };
  /** Runs while the holder of a lease from an owner that died may still come back. */
  #holderReturns: NodeJS.Timeout | undefined;
  #limits: TimeLimits = { totalMs: 0, idleMs: 0 };
  #total: NodeJS.Timeout | undefined;
  #idle: NodeJS.Timeout | undefined;
  #uses = 0;
  #over = false;

  /** `save` gets what a new owner would have to know, each time that changes. */
  constructor(end: (why: string) => void, save: (keeping: SavedKeeping) => void = () => undefined) {
    this.#end = end;
    this.#save = save;
  }

  /** Goes on from where an owner that died was. Whoever held a lease comes back soon, or is gone too. */
  restore(saved: SavedKeeping): void {
    this.#saved = saved;
    const { leased, totalUntilUnixMs, idleMs } = saved;
    this.#set({ totalMs: totalUntilUnixMs === 0 ? 0 : Math.max(1, totalUntilUnixMs - Date.now()), idleMs });
    if (leased) this.#holderReturns = setTimeout(() => this.#finish("the program that held its lease has not come back"), holderReturnMs);
  }

  /** Whoever asked for the sandbox takes a lease soon, or is gone. */
  expectHolder(): void {
    this.#note({ leased: true });
    this.#holderReturns = setTimeout(() => this.#finish("the program that asked for it has not come"), holderReturnMs);
  }

  /** Sets limits from now on, instead of those before. */
  limit(limits: TimeLimits): void {
    this.#note({ totalUntilUnixMs: limits.totalMs === 0 ? 0 : Date.now() + limits.totalMs, idleMs: limits.idleMs });
    this.#set(limits);
  }

  #set(limits: TimeLimits): void {
    clearTimeout(this.#total);
    this.#limits = limits;
    if (limits.totalMs > 0 && limits.totalMs <= maxTimerMs) this.#total = setTimeout(() => this.#finish("its time is over"), limits.totalMs);
    this.#waitIdle();
  }

  /** Something uses the sandbox until the returned function is called. */
  use(): () => void {
    this.#uses++;
    clearTimeout(this.#idle);
    let over = false;
    return () => {
      if (over) return;
      over = true;
      this.#uses--;
      this.#waitIdle();
    };
  }

  /** Waits for what a lease's holder has to say: true is a release. The end of its messages without one is the holder's end. */
  async hold(inputs: AsyncIterable<{ readonly release: boolean }>): Promise<void> {
    clearTimeout(this.#holderReturns);
    this.#note({ leased: true });
    try {
      for await (const { release } of inputs) if (release) return this.#note({ leased: false });
    } catch {
      // The connection broke, which is how a killed program leaves.
    }
    this.#finish("the program that holds its lease has gone");
  }

  #note(change: Partial<SavedKeeping>): void {
    this.#saved = { ...this.#saved, ...change };
    this.#save(this.#saved);
  }

  #waitIdle(): void {
    clearTimeout(this.#idle);
    const { idleMs } = this.#limits;
    if (this.#uses === 0 && idleMs > 0 && idleMs <= maxTimerMs) this.#idle = setTimeout(() => this.#finish("nobody has used it"), idleMs);
  }

  #finish(why: string): void {
    if (this.#over) return;
    this.#over = true;
    this.#end(why);
  }
}
