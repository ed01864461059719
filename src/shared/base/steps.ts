import { Deadline, orAbandon, type WaitOptions } from "./deadline.ts";
import { RuntimeError } from "./errors.ts";
import { collectCalls, type StepCall } from "./step-calls.ts";
import { silentLogger, type Logger } from "./log.ts";

/** How long one named step took. */
export interface StepTiming {
  readonly name: string;
  readonly startMs: number;
  readonly durationMs: number;
}

/** One step of an operation, as data: the list of them is the operation, and tests enumerate it. */
export interface Step<Build> {
  readonly name: string;
  /** False: the step has nothing to do this time. Default: always. */
  readonly when?: (build: Build) => boolean;
  readonly run: (build: Build, wait: WaitOptions) => unknown;
}

/** A part that an earlier step has made or found. */
export function made<T>(part: T | undefined): T {
  if (part === undefined) throw new RuntimeError("internal", "a step needs what a later one makes");
  return part;
}

/**
 * Called before and after each step. A test throws from here to fail the step before it has done
 * anything, or after it has done everything.
 */
export type StepHook = (operation: string, step: string, phase: "before" | "after") => void | Promise<void>;

/** One step that has ended; times by `performance.now()`. */
export interface StepRun {
  /** The same for all steps of one run of an operation. */
  readonly of: object;
  readonly operation: string;
  readonly step: string;
  readonly startMs: number;
  readonly endMs: number;
  readonly error: unknown;
  /** Calls it made, if the observer asked for them. */
  readonly calls: readonly StepCall[];
}

/** Is told of every step that has ended. */
export interface StepObserver {
  /** Sent along with the calls of a step, so that whoever is called tells where the time goes. Undefined: nobody is asked. */
  readonly traceparent?: string | undefined;
  ended(run: StepRun): void;
}

/** Around the work of every step, e.g. to end it with the VM. */
export type StepGuard = <T>(work: Promise<T>) => Promise<T>;

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
  readonly #guard: StepGuard;
  readonly #log: Logger;
  readonly #observer: StepObserver | undefined;
  readonly #startedMs = performance.now();

  constructor(operation: string, options: WaitOptions & { readonly hook?: StepHook | undefined; readonly guard?: StepGuard; readonly log?: Logger; readonly observer?: StepObserver | undefined } = {}) {
    this.operation = operation;
    this.deadline = Deadline.after(options.timeoutMs);
    this.signal = options.signal;
    this.#hook = options.hook;
    this.#guard = options.guard ?? ((work) => work);
    this.#log = options.log ?? silentLogger;
    this.#observer = options.observer;
  }

  /** What to pass on to the functions a step calls. */
  get wait(): WaitOptions {
    return { timeoutMs: this.deadline.remainingMs, ...(this.signal !== undefined && { signal: this.signal }) };
  }

  /** The steps of a part of this operation: the same hook, time and signal. */
  part(operation: string): Steps {
    return new Steps(operation, { ...this.wait, hook: this.#hook, guard: this.#guard, log: this.#log, observer: this.#observer });
  }

  /** Takes the steps of a list in order, within `limitMs` together. The build carries what one step makes to the next. */
  async runAll<Build>(list: readonly Step<Build>[], build: Build, limitMs = Infinity): Promise<void> {
    const limit = this.deadline.within(limitMs);
    for (const { name, when, run } of list) {
      if (when?.(build) ?? true) await this.run(name, () => this.#guarded((signal) => run(build, { timeoutMs: limit.remainingMs, signal })));
    }
  }

  /** Work that the guard has ended is told so: it might go on with what takes the place of what it worked on. */
  async #guarded(work: (signal: AbortSignal) => unknown): Promise<unknown> {
    const givenUp = new AbortController();
    try {
      return await this.#guard(Promise.resolve(work(AbortSignal.any([givenUp.signal, ...(this.signal === undefined ? [] : [this.signal])]))));
    } catch (error) {
      givenUp.abort(error);
      throw error;
    }
  }

  async run<T>(name: string, step: () => T | Promise<T>): Promise<T> {
    if (this.signal?.aborted) throw new RuntimeError("canceled", `${this.operation}: canceled before "${name}"`, { cause: this.signal.reason });
    const startMs = performance.now();
    let failure: unknown;
    const traceparent = this.#observer?.traceparent;
    const calls: StepCall[] = [];
    this.#log.debug("step", { operation: this.operation, step: name });
    try {
      await this.#callHook(name, "before");
      const result = await (traceparent === undefined ? step() : collectCalls({ traceparent, calls }, step));
      await this.#callHook(name, "after");
      return result;
    } catch (error) {
      failure = error;
      throw RuntimeError.wrap(error, `${this.operation}: ${name}`);
    } finally {
      const endMs = performance.now();
      this.timings.push({ name, startMs: startMs - this.#startedMs, durationMs: endMs - startMs });
      this.#observer?.ended({ of: this, operation: this.operation, step: name, startMs, endMs, error: failure, calls });
    }
  }

  async #callHook(name: string, phase: "before" | "after"): Promise<void> {
    if (this.#hook !== undefined) await orAbandon(Promise.resolve(this.#hook(this.operation, name, phase)), name, this.wait);
  }
}
