import { RuntimeError, describeError } from "../shared/base/errors.ts";

/** docker's exit codes for what is not the command's own. */
export const exitCodes = { someFailed: 1, casemateFailed: 125, notExecutable: 126, notFound: 127, signalBase: 128 } as const;

/** Reasons of a failed start that have an exit code of their own. */
const startFailureCodes: Readonly<Record<string, number>> = {
  executable_not_found: exitCodes.notFound,
  executable_not_runnable: exitCodes.notExecutable,
  cwd_not_found: exitCodes.notExecutable,
};

/** The exit code for a process that could not be started. */
export function startFailureExitCode(error: unknown): number {
  return (RuntimeError.is(error) && error.reason !== undefined && startFailureCodes[error.reason]) || exitCodes.casemateFailed;
}

/** One line that says what went wrong, one that says what to do; with `debug` the stack and every cause. */
export function reportError(error: unknown, debug: boolean): void {
  process.stderr.write(`casemate: ${debug ? describeError(error) : shortenIds(describeError(error))}\n`);
  if (RuntimeError.is(error)) {
    if (error.hint !== undefined) process.stderr.write(`hint: ${error.hint}\n`);
    for (const failure of error.cleanupErrors) process.stderr.write(`while cleaning up: ${describeError(failure)}\n`);
  }
  if (!debug) return;
  for (let current = error; current instanceof Error; current = current.cause) {
    process.stderr.write(`${RuntimeError.is(current) ? `[${current.code}${current.reason === undefined ? "" : `, ${current.reason}`}] ` : ""}${current.stack ?? current.message}\n`);
  }
}

/** Containers' ids as `ps` shows them. */
export function shortenIds(text: string): string {
  return text.replaceAll(/(?<=container ")([0-9a-f]{12})[0-9a-f]{52}(?=")/g, "$1");
}

/** Ends the program after everything written to its streams has been taken. */
export async function exitWith(code: number): Promise<never> {
  await Promise.all([process.stdout, process.stderr].map((stream) => new Promise<void>((resolve) => {
    if (stream.writableLength === 0 || stream.destroyed) return resolve();
    stream.write("", () => resolve()); // also called when the write fails: nobody reads any more
  })));
  process.exit(code);
}
