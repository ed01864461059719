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
  #limits: TimeLimits = { totalMs: 0, idleMs: 0 };
  #total: NodeJS.Timeout | undefined;
  #idle: NodeJS.Timeout | undefined;
  #uses = 0;
  #over = false;

  constructor(end: (why: string) => void) {
    this.#end = end;
  }

  /** Sets limits from now on, instead of those before. */
  limit(limits: TimeLimits): void {
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
    try {
      for await (const { release } of inputs) if (release) return;
    } catch {
      // The connection broke, which is how a killed program leaves.
    }
    this.#finish("the program that holds its lease has gone");
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
