import { setTimeout as delay } from "node:timers/promises";
import { RuntimeError } from "./errors.ts";

/** What every public asynchronous method takes last. */
export interface WaitOptions {
  /** Ends the wait early; the promise rejects with `canceled`. */
  readonly signal?: AbortSignal;
  /** Milliseconds until the promise rejects with `deadline_exceeded`; default: none. */
  readonly timeoutMs?: number;
}

/** A point in time (monotonic) by which a whole operation must be done; passed down, never stretched. */
export class Deadline {
  readonly #atMs: number;

  private constructor(atMs: number) {
    this.#atMs = atMs;
  }

  /** A deadline that many milliseconds from now; undefined or Infinity never expires. */
  static after(timeoutMs: number | undefined): Deadline {
    return new Deadline(timeoutMs === undefined ? Infinity : performance.now() + timeoutMs);
  }

  /** The earlier of this deadline and one `limitMs` from now. */
  within(limitMs: number): Deadline {
    return new Deadline(Math.min(this.#atMs, performance.now() + limitMs));
  }

  /** Milliseconds left: 0 when expired, Infinity when there is no limit. */
  get remainingMs(): number {
    return Math.max(0, this.#atMs - performance.now());
  }

  get expired(): boolean {
    return this.remainingMs === 0;
  }
}

/** Longest delay setTimeout keeps (2^31 - 1 ms); longer ones fire at once. */
const maxTimerMs = 2_147_483_647;

/**
 * Waits for `work`, but no longer than the options allow. When the caller has gone and the result
 * arrives later, `dispose` gets it; a late failure is dropped because the caller already has an error.
 */
export async function orAbandon<T>(work: Promise<T>, what: string, options: WaitOptions, dispose?: (late: T) => void): Promise<T> {
  const { signal, timeoutMs } = options;
  if (signal === undefined && (timeoutMs === undefined || timeoutMs === Infinity)) return work;
  const { promise: gaveUp, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(new RuntimeError("canceled", `${what}: canceled`, { cause: signal?.reason }));
  const timer = timeoutMs === undefined || timeoutMs === Infinity ? undefined
    : setTimeout(() => reject(new RuntimeError("deadline_exceeded", `${what}: no answer within ${Math.round(timeoutMs)} ms`)), Math.min(timeoutMs, maxTimerMs));
  if (signal?.aborted) onAbort();
  signal?.addEventListener("abort", onAbort, { once: true });
  let settled = false;
  work.then((value) => { if (settled) dispose?.(value); }, () => { /* the race below reports it, or the caller has its own error already */ });
  try {
    return await Promise.race([work, gaveUp]);
  } finally {
    settled = true;
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

/**
 * Polls until `probe` answers something other than undefined. For conditions without an event to
 * wait for; the interval is in milliseconds (default 20).
 */
export async function eventually<T>(what: string, probe: () => T | undefined | Promise<T | undefined>, options: WaitOptions & { readonly timeoutMs: number; readonly intervalMs?: number }): Promise<T> {
  const deadline = Deadline.after(options.timeoutMs);
  for (;;) {
    const found = await probe();
    if (found !== undefined) return found;
    if (options.signal?.aborted) throw new RuntimeError("canceled", `${what}: canceled`, { cause: options.signal.reason });
    if (deadline.expired) throw new RuntimeError("deadline_exceeded", `${what}: not within ${options.timeoutMs} ms`);
    await delay(Math.min(options.intervalMs ?? 20, deadline.remainingMs), undefined, { ref: true });
  }
}
