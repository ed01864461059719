import { inspect } from "node:util";

/**
 * The codes an error can carry: gRPC's names (https://grpc.io/docs/guides/status-codes/), which
 * ttRPC and containerd use too. Callers decide by code, never by message.
 *
 * @example
 * const worthAnotherTry: readonly ErrorCode[] = ["unavailable", "aborted"];
 */
export type ErrorCode =
  | "canceled"
  | "unknown"
  | "invalid_argument"
  | "deadline_exceeded"
  | "not_found"
  | "already_exists"
  | "permission_denied"
  | "resource_exhausted"
  | "failed_precondition"
  | "aborted"
  | "out_of_range"
  | "unimplemented"
  | "internal"
  | "unavailable"
  | "data_loss"
  | "unauthenticated";

/**
 * Details of a RuntimeError beyond code and message.
 *
 * @example
 * const details: ErrorDetails = { reason: "output_limit", hint: "ask for less" };
 * throw new RuntimeError("resource_exhausted", "answer the request", details);
 */
export interface ErrorDetails {
  /** The error that made this one happen; its message is printed after this one's. */
  readonly cause?: unknown;
  /** A machine-readable refinement of the code, e.g. `executable_not_found`; see docs/errors.md. */
  readonly reason?: string;
  /** One sentence that says what the user can do next. */
  readonly hint?: string;
}

const marker = Symbol.for("casemate.RuntimeError");

/**
 * The one error type of the project. The message tells this layer's step only; the cause tells the rest.
 *
 * @example
 * try {
 *   await Sandbox.load("web");
 * } catch (error) {
 *   if (!RuntimeError.is(error, "not_found")) throw error;
 *   console.log(error.reason, error.hint);
 * }
 */
export class RuntimeError extends Error {
  override readonly name = "RuntimeError";
  readonly code: ErrorCode;
  readonly reason: string | undefined;
  readonly hint: string | undefined;
  /** Failures met while undoing what had been done before the error, in the order they happened. */
  readonly cleanupErrors: unknown[] = [];
  readonly [marker] = true;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.reason = details.reason ?? (RuntimeError.is(details.cause) ? details.cause.reason : undefined);
    this.hint = details.hint ?? (RuntimeError.is(details.cause) ? details.cause.hint : undefined);
  }

  /**
   * True for a RuntimeError of any copy of this module, and of the given code if one is given.
   *
   * @example
   * const stopped = await sandbox.run("sleep 60", { timeoutMs: 1_000 }).catch((error: unknown) => RuntimeError.is(error, "deadline_exceeded"));
   */
  static is(error: unknown, code?: ErrorCode): error is RuntimeError {
    return typeof error === "object" && error !== null && marker in error && (code === undefined || (error as RuntimeError).code === code);
  }

  /**
   * Names the step that failed. Keeps the code of a RuntimeError and its cleanup failures; a system error becomes the code of its errno, anything else `internal`.
   *
   * @example
   * await sandbox.files.upload("./input", "/input").catch((error: unknown) => { throw RuntimeError.wrap(error, "prepare the job"); });
   */
  static wrap(error: unknown, step: string): RuntimeError {
    const wrapped = new RuntimeError(codeOf(error), step, { cause: error });
    if (RuntimeError.is(error)) wrapped.cleanupErrors.push(...error.cleanupErrors);
    return wrapped;
  }
}

/** The code of any thrown value: its own, or the one its errno maps to, or `internal`. */
export function codeOf(error: unknown): ErrorCode {
  if (RuntimeError.is(error)) return error.code;
  if (isErrnoException(error)) return errnoCodes[error.code] ?? "unknown";
  if (error instanceof DOMException && error.name === "AbortError") return "canceled";
  if (error instanceof DOMException && error.name === "TimeoutError") return "deadline_exceeded";
  return "internal";
}

/** The whole chain in one line: `start sandbox "a1": connect to QMP: connect ECONNREFUSED`. */
export function describeError(error: unknown): string {
  const parts: string[] = [];
  for (let current: unknown = error, depth = 0; current !== undefined && depth < 16; depth++) {
    const message = current instanceof Error ? current.message : inspect(current);
    if (message !== "" && parts.at(-1) !== message) parts.push(message);
    current = current instanceof Error ? current.cause : undefined;
  }
  return parts.join(": ");
}

/** A system error as Node throws it. */
export interface ErrnoException extends Error {
  readonly code: string;
  readonly syscall?: string;
  readonly path?: string;
}

/** True for an error with an errno name as its code, and for that one errno if it is given. */
export function isErrnoException(error: unknown, code?: string): error is ErrnoException {
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string" || RuntimeError.is(error)) return false;
  return code === undefined ? /^E[A-Z0-9]+$/.test(error.code) : error.code === code;
}

/** The one table from errno to code. */
const errnoCodes: Readonly<Record<string, ErrorCode>> = {
  ENOENT: "not_found",
  ESRCH: "not_found",
  EEXIST: "already_exists",
  EACCES: "permission_denied",
  EPERM: "permission_denied",
  EROFS: "permission_denied",
  EINVAL: "invalid_argument",
  ENAMETOOLONG: "invalid_argument",
  ENOTDIR: "invalid_argument",
  EISDIR: "invalid_argument",
  ELOOP: "invalid_argument",
  ENOSPC: "resource_exhausted",
  EDQUOT: "resource_exhausted",
  EMFILE: "resource_exhausted",
  ENFILE: "resource_exhausted",
  ENOMEM: "resource_exhausted",
  EBUSY: "failed_precondition",
  ENOTEMPTY: "failed_precondition",
  EADDRINUSE: "failed_precondition",
  ECONNREFUSED: "unavailable",
  ECONNRESET: "unavailable",
  EPIPE: "unavailable",
  EAGAIN: "unavailable",
  ETIMEDOUT: "deadline_exceeded",
  ENOSYS: "unimplemented",
  EOPNOTSUPP: "unimplemented",
};
