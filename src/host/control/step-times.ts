import { partsInTime, type TimedPart } from "../../shared/base/step-calls.ts";
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
  /** 0: a step; 1: what it asked of the guest, there; 2: a part of that. */
  readonly depth: number;
}

/** For whom nobody else has one: it only asks. */
const ownTraceparent = `00-${"0".repeat(31)}1-${"0".repeat(15)}1-00`;

/** Keeps how long the first steps took, and passes them on to others who want to know. */
export class StepTimes implements StepObserver {
  readonly kept: StepTime[] = [];
  readonly #startedMs = performance.now();
  /** When the owner began to work on the sandbox. */
  readonly beganUnixMs = performance.timeOrigin + this.#startedMs;
  /** Where spans go; undefined: nowhere. */
  #next: StepObserver | undefined;
  readonly #askGuest: boolean;

  /** `askGuest`: ask for the guest's times too, which costs each call some time. */
  constructor({ askGuest = false }: { readonly askGuest?: boolean } = {}) {
    this.#askGuest = askGuest;
  }

  get traceparent(): string | undefined {
    return this.#next?.traceparent ?? (this.#askGuest ? ownTraceparent : undefined);
  }

  /** From now on; what was before is told as well. */
  forward(next: StepObserver): void {
    this.#next = next;
  }

  ended(run: StepRun): void {
    this.#keep(run.operation, { name: run.step, startMs: run.startMs, endMs: run.endMs }, 0);
    for (const call of run.calls) {
      const inGuest = partsInTime(call);
      if (inGuest === undefined) continue;
      this.#keep(run.operation, { ...inGuest.whole, name: `in the guest: ${call.name}` }, 1);
      for (const part of inGuest.parts) this.#keep(run.operation, part, 2);
    }
    this.#next?.ended(run);
  }

  #keep(operation: string, { name, startMs, endMs }: TimedPart, depth: number): void {
    if (this.kept.length < maxKept) this.kept.push({ operation, step: name, startMs: startMs - this.#startedMs, durationMs: endMs - startMs, depth });
  }
}
