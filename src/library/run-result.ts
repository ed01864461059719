import { RuntimeError, type ErrorCode, type ErrorDetails } from "../shared/base/errors.ts";

/**
 * How a process ended.
 *
 * @example
 * const { exitCode, signal, oomKilled }: ProcessExit = await sandbox.spawn(["true"]).wait();
 */
export interface ProcessExit {
  /** The process's own code, or 128 + signal. */
  readonly exitCode: number;
  /** The signal that ended it, as in Node; null when it ended by itself. */
  readonly signal: NodeJS.Signals | null;
  /** The sandbox was out of memory and the kernel chose this process. */
  readonly oomKilled: boolean;
}

/**
 * What {@link Sandbox.run} resolves with. A code other than 0 is a result, not an error.
 *
 * @example
 * const { stdout, exitCode } = await sandbox.run("cat /etc/os-release");
 */
export interface RunResult extends ProcessExit {
  /** As UTF-8 text. */
  readonly stdout: string;
  readonly stderr: string;
  /** The same as bytes. */
  readonly stdoutBytes: Uint8Array;
  readonly stderrBytes: Uint8Array;
  readonly durationMs: number;
}

/**
 * A {@link Sandbox.run} that was cut short: its time was over (`deadline_exceeded`), it was given up
 * (`canceled`), or it printed too much (`resource_exhausted`). The process and all it had started are gone.
 *
 * @example
 * try {
 *   await sandbox.run("while true; do echo x; sleep 1; done", { timeoutMs: 5_000 });
 * } catch (error) {
 *   if (error instanceof RunError && error.code === "deadline_exceeded") console.log(error.stdout);
 * }
 */
export class RunError extends RuntimeError {
  /** What it had printed by then. */
  readonly stdout: string;
  readonly stderr: string;
  readonly durationMs: number;

  /** @internal */
  constructor(code: ErrorCode, message: string, partial: { readonly stdout: string; readonly stderr: string; readonly durationMs: number }, details: ErrorDetails = {}) {
    super(code, message, details);
    this.stdout = partial.stdout;
    this.stderr = partial.stderr;
    this.durationMs = partial.durationMs;
  }
}
