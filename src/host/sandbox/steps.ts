import { Deadline, type WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { silentLogger, type Logger } from "../../shared/base/log.ts";

/** How long one named step took. */
export interface StepTiming {
  readonly name: string;
  readonly startMs: number;
  readonly durationMs: number;
}

/** Called before each step; a test throws from here to fail that step. */
export type StepHook = (operation: string, step: string) => void | Promise<void>;

/**
 * The named steps of one operation, in order. Every step can be failed from outside (the hook), is
 * timed, and is named in the error when it fails.
 */
export class Steps {
  readonly operation: string;
  readonly deadline: Deadline;
  readonly signal: AbortSignal | undefined;
  readonly timings: StepTiming[] = [];
  readonly #hook: StepHook | undefined;
  readonly #log: Logger;
  readonly #startedMs = performance.now();

  constructor(operation: string, options: WaitOptions & { readonly hook?: StepHook | undefined; readonly log?: Logger } = {}) {
    this.operation = operation;
    this.deadline = Deadline.after(options.timeoutMs);
    this.signal = options.signal;
    this.#hook = options.hook;
    this.#log = options.log ?? silentLogger;
  }

  /** What to pass on to the functions a step calls. */
  get wait(): WaitOptions {
    return { timeoutMs: this.deadline.remainingMs, ...(this.signal !== undefined && { signal: this.signal }) };
  }

  async run<T>(name: string, step: () => T | Promise<T>): Promise<T> {
    if (this.signal?.aborted) throw new RuntimeError("canceled", `${this.operation}: canceled before "${name}"`, { cause: this.signal.reason });
    const startMs = performance.now();
    this.#log.debug("step", { operation: this.operation, step: name });
    try {
      await this.#hook?.(this.operation, name);
      return await step();
    } catch (error) {
      throw RuntimeError.wrap(error, `${this.operation}: ${name}`);
    } finally {
      this.timings.push({ name, startMs: startMs - this.#startedMs, durationMs: performance.now() - startMs });
    }
  }
}
