import { RuntimeError } from "../../shared/base/errors.ts";

/** What to do about a full disk. */
export const diskFullHint = "free some space, for example with `casemate rmi`, or keep state elsewhere with --root";

/** Names the step that failed to write below the data or run folder; for a full disk also what to do. */
export function storageError(error: unknown, step: string): RuntimeError {
  const wrapped = RuntimeError.wrap(error, step);
  if (wrapped.reason !== undefined) return wrapped;
  // Tools (cp, mkfs) tell a full disk by their words alone.
  const full = wrapped.code === "resource_exhausted" || (RuntimeError.is(error) && /no space left|disk quota exceeded/i.test(error.message));
  return full ? new RuntimeError("resource_exhausted", step, { cause: error, reason: "disk_full", hint: diskFullHint }) : wrapped;
}
