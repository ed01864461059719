import { orAbandon } from "./deadline.ts";
import { RuntimeError } from "./errors.ts";

/** One teardown step: must be idempotent, and "already gone" is success. */
export interface UndoStep {
  /** What the step gives back, for messages: `virtiofsd of sandbox a1`. */
  readonly name: string;
  readonly run: () => void | Promise<void>;
}

/** Longest time one teardown step may take before the next one starts; 10 s is QEMU's SIGTERM grace plus its kill. */
const stepTimeoutMs = 15_000;

/** Teardown steps in the order they were registered; they run in reverse. */
export class UndoStack {
  #steps: UndoStep[] = [];

  /** Registers a step. Register before acting, so that a step which fails half way is undone too. */
  add(name: string, run: () => void | Promise<void>): void {
    this.#steps.push({ name, run });
  }

  /** Takes over all steps of another stack, after its own. */
  adopt(other: UndoStack): void {
    this.#steps.push(...other.#steps);
    other.#steps = [];
  }

  /** Hands all steps to a new owner and forgets them here. */
  move(): UndoStack {
    const moved = new UndoStack();
    moved.adopt(this);
    return moved;
  }

  /** Runs every step in reverse, each within a time limit, whatever the others do. Returns the failures; never throws. */
  async run(): Promise<unknown[]> {
    const failures: unknown[] = [];
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      const { name, run } = step;
      try {
        await orAbandon(Promise.resolve().then(run), name, { timeoutMs: stepTimeoutMs });
      } catch (error) {
        failures.push(RuntimeError.wrap(error, `give back ${name}`));
      }
    }
    return failures;
  }
}

/**
 * Builds something out of several resources. When `build` throws, everything registered is undone in
 * reverse and the failures of that hang on the error's `cleanupErrors`. On success the result's owner
 * takes the steps with `undo.move()`; steps it leaves behind are forgotten.
 */
export async function withUndo<T>(build: (undo: UndoStack) => Promise<T>): Promise<T> {
  const undo = new UndoStack();
  try {
    return await build(undo);
  } catch (error) {
    const failure = RuntimeError.is(error) ? error : RuntimeError.wrap(error, "");
    failure.cleanupErrors.push(...await undo.run());
    throw failure;
  }
}
