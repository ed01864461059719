import { AsyncLocalStorage } from "node:async_hooks";

/** A part of a call's work where it was done; times in microseconds since the call arrived there. */
export interface CallPart {
  readonly name: string;
  readonly startMicros: number;
  readonly durationMicros: number;
}

/** More parts of one call are of no use to anybody. */
export const maxCallParts = 32;

interface Measured { readonly startedMs: number; readonly parts: CallPart[] }

const measured = new AsyncLocalStorage<Measured>();

/** Does the work of a call whose caller wants to know where its time goes. The first part is the whole. */
export async function measureParts<T>(work: () => Promise<T>): Promise<{ readonly result: T; readonly parts: readonly CallPart[] }> {
  const call: Measured = { startedMs: performance.now(), parts: [] };
  const result = await measured.run(call, work);
  return { result, parts: [{ name: "", startMicros: 0, durationMicros: micros(performance.now() - call.startedMs) }, ...call.parts] };
}

/** Does a part of the work of a call; its time is noted if the caller has asked. */
export async function timePart<T>(name: string, work: () => Promise<T>): Promise<T> {
  const call = measured.getStore();
  if (call === undefined) return work();
  const startMs = performance.now();
  try {
    return await work();
  } finally {
    if (call.parts.length < maxCallParts - 1) call.parts.push({ name, startMicros: micros(startMs - call.startedMs), durationMicros: micros(performance.now() - startMs) });
  }
}

function micros(ms: number): number {
  return Math.max(0, Math.round(ms * 1000));
}
