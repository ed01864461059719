import type { Measure } from "../pairs.ts";
import type { BenchSetup } from "../bench.ts";
import { BareGuest } from "./bare-guest.ts";
import { BenchSandbox } from "./bench-sandbox.ts";

/** Bytes of one measurement. */
export const streamBytes = 256 * 1024 * 1024;

/** A sandbox and a bare guest side by side; the one that is not measured is idle. */
export async function openStreams(measure: (sandbox: BenchSandbox, bare: BareGuest) => { readonly a: Measure; readonly b: Measure }): Promise<BenchSetup> {
  const stack = new AsyncDisposableStack();
  try {
    const sandbox = stack.use(await BenchSandbox.start());
    const bare = stack.use(await BareGuest.start());
    return { ...measure(sandbox, bare), [Symbol.asyncDispose]: () => stack.disposeAsync() };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}
