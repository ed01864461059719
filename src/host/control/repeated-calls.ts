import { RuntimeError, type ErrorCode } from "../../shared/base/errors.ts";

/** What an error of a repeated call (OwnerClient.call) says: the owner that died had done it. */
type Settled = (error: RuntimeError) => { readonly result: undefined } | undefined;

function settledBy(code: ErrorCode, reason?: string): Settled {
  return (error) => (RuntimeError.is(error, code) && (reason === undefined || error.reason === reason) ? { result: undefined } : undefined);
}

/** Task calls whose repetition is refused when they were done the first time. */
export const doneBefore = {
  /** Also of an exec: the caller chose the id, nobody else has it. */
  create: settledBy("already_exists"),
  start: settledBy("failed_precondition", "wrong_state"),
  pause: settledBy("failed_precondition", "wrong_state"),
  resume: settledBy("failed_precondition", "wrong_state"),
  kill: settledBy("not_found", "process_finished"),
  delete: settledBy("not_found"),
} as const;
