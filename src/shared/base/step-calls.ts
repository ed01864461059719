import { AsyncLocalStorage } from "node:async_hooks";
import type { CallPart } from "./call-parts.ts";

/** A call that a step made to somebody else, and what that one says of where the time went; times by `performance.now()`. */
export interface StepCall {
  readonly name: string;
  readonly startMs: number;
  readonly endMs: number;
  readonly parts: readonly CallPart[];
}

/** What collects the calls of a step. */
export interface CallCollector {
  /** W3C's header (w3.org/TR/trace-context): sent along, it asks for the parts. */
  readonly traceparent: string;
  readonly calls: StepCall[];
}

const collector = new AsyncLocalStorage<CallCollector>();

/** Does the work of a step whose calls are collected. */
export function collectCalls<T>(into: CallCollector, work: () => T): T {
  return collector.run(into, work);
}

/** Who wants to know of a call that is made here; undefined: nobody. */
export function callCollector(): CallCollector | undefined {
  return collector.getStore();
}

/** The work on the other side as it lies in the caller's time: in the middle of the call, since what was before and after it took is not known. Undefined: that side said nothing. */
export function partsInTime({ startMs, endMs, parts: [whole, ...parts] }: StepCall): { readonly whole: TimedPart; readonly parts: readonly TimedPart[] } | undefined {
  if (whole === undefined) return undefined;
  const beganMs = startMs + (endMs - startMs - whole.durationMicros / 1000) / 2;
  const at = ({ name, startMicros, durationMicros }: CallPart): TimedPart => ({ name, startMs: beganMs + startMicros / 1000, endMs: beganMs + (startMicros + durationMicros) / 1000 });
  return { whole: at(whole), parts: parts.map(at) };
}

/** A part by the caller's clock, `performance.now()`. */
export interface TimedPart {
  readonly name: string;
  readonly startMs: number;
  readonly endMs: number;
}
