import { describeError } from "../../shared/base/errors.ts";
import type { Logger } from "../../shared/base/log.ts";

/** Signals that would end Node, or start its debugger; the kernel panics when PID 1 ends. */
const ignoredSignals = ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGQUIT", "SIGWINCH"] as const;

const keepAliveMs = 2 ** 31 - 1;

/** PID 1 must not end: stray signals are ignored, and a mistake in one call is logged and costs only that call. */
export function survive(log: Logger): void {
  for (const signal of ignoredSignals) process.on(signal, () => undefined);
  // A signal handler does not keep Node running, and for moments there may be nothing else.
  setInterval(() => undefined, keepAliveMs);
  process.on("uncaughtException", (error) => log.error("uncaught exception", { error: describeError(error), stack: error.stack }));
  process.on("unhandledRejection", (error) => log.error("unhandled rejection", { error: describeError(error), stack: error instanceof Error ? error.stack : undefined }));
}
