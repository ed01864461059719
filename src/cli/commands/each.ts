import { exitCodes, exitWith, reportError } from "../exit.ts";

/** Does the same for several containers or images: one failure does not keep the others from being done. Ends with 1 if any failed, as docker does. */
export async function forEach(names: readonly string[], debug: boolean, work: (name: string) => Promise<void>): Promise<void> {
  let failed = false;
  for (const name of names) {
    try {
      await work(name);
    } catch (error) {
      reportError(error, debug);
      failed = true;
    }
  }
  await exitWith(failed ? exitCodes.someFailed : 0);
}
