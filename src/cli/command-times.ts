import type { InspectResponse, StepTime } from "../shared/protocol/gen/owner_pb.ts";

/** A step as {@link formatTimings} takes it; microseconds since this program began. */
type Timed = Pick<StepTime, "operation" | "step" | "depth" | "startMicros" | "durationMicros">;

/** Where the time of a command goes that starts a container: one thing after the other, from the program's beginning. */
export class CommandTimes {
  readonly #operation: string;
  readonly #steps: Timed[] = [];
  #step = "load the program";
  #sinceMs = 0;

  constructor(operation: string) {
    this.#operation = operation;
  }

  /** What was done until now is over, and the next begins. */
  readonly next = (step: string): void => {
    const nowMs = performance.now();
    this.#steps.push({ operation: this.#operation, step: this.#step, depth: 0, startMicros: toMicros(this.#sinceMs), durationMicros: toMicros(nowMs - this.#sinceMs) });
    [this.#step, this.#sinceMs] = [step, nowMs];
  };

  /** The command's own steps and, in their place, those of the sandbox's owner. */
  with({ stepTimes, stepsBeganUnixMicros }: Pick<InspectResponse, "stepTimes" | "stepsBeganUnixMicros">): Timed[] {
    const offset = stepsBeganUnixMicros - toMicros(performance.timeOrigin);
    return [...this.#steps, ...stepTimes.map(({ operation, step, depth, startMicros, durationMicros }) => ({ operation, step, depth, startMicros: startMicros + offset, durationMicros }))];
  }
}

function toMicros(ms: number): bigint {
  return BigInt(Math.round(ms * 1000));
}
