import type { StepObserver, StepRun } from "../../shared/base/steps.ts";

/** More are of no use to a person; the first are those of the start. */
const maxKept = 200;

/** One step that has ended, for `casemate run --timings`. */
export interface StepTime {
  readonly operation: string;
  readonly step: string;
  /** Milliseconds since the owner began to work on the sandbox. */
  readonly startMs: number;
  readonly durationMs: number;
}

/** Keeps how long the first steps took, and passes them on to others who want to know. */
export class StepTimes implements StepObserver {
  readonly kept: StepTime[] = [];
  readonly #startedMs = performance.now();
  /** Where spans go; undefined: nowhere. */
  #next: StepObserver | undefined;

  /** From now on; what was before is told as well. */
  forward(next: StepObserver): void {
    this.#next = next;
  }

  ended(run: StepRun): void {
    if (this.kept.length < maxKept) this.kept.push({ operation: run.operation, step: run.step, startMs: run.startMs - this.#startedMs, durationMs: run.endMs - run.startMs });
    this.#next?.ended(run);
  }
}
