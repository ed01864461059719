import { RuntimeError, type ErrorCode } from "../../shared/base/errors.ts";

interface CrunError {
  readonly pattern: RegExp;
  readonly code: ErrorCode;
  readonly reason?: string;
  readonly hint?: string;
}

/**
 * What crun 1.8 says, and what it means to the caller. The texts were taken from the program, which
 * has no machine-readable form; a text that is not listed is `internal` with crun's own words.
 */
const table: readonly CrunError[] = [
  { pattern: /executable file .* not found in \$PATH/, code: "not_found", reason: "executable_not_found", hint: "check the command's name, and that the image contains it" },
  { pattern: /^(open|stat) executable: No such file or directory|executable path .*: No such file/, code: "not_found", reason: "executable_not_found", hint: "check the command's name, and that the image contains it" },
  // A folder answers EPERM, a file without the x bit EACCES, an empty argument list EINVAL.
  { pattern: /^open executable: (Permission denied|Operation not permitted|Is a directory)/, code: "permission_denied", reason: "executable_not_runnable", hint: "the file is not executable for this user" },
  { pattern: /^open executable: Invalid argument/, code: "invalid_argument", reason: "executable_not_found", hint: "give a command: neither the image nor the call names one" },
  { pattern: /^exec(?: container process)?(?: `.*`)?: Exec format error/, code: "permission_denied", reason: "executable_not_runnable", hint: "the file is not a program for this CPU, or a script without a #! line" },
  { pattern: /^exec(?: container process)?(?: `.*`)?: Permission denied/, code: "permission_denied", reason: "executable_not_runnable", hint: "the file is not executable for this user" },
  { pattern: /^exec container process(?: `.*`)?: No such file or directory/, code: "not_found", reason: "executable_not_found", hint: "the program, or the interpreter it names, is not in the image" },
  { pattern: /^chdir `.*`: (No such file or directory|Not a directory)$/, code: "not_found", reason: "cwd_not_found", hint: "name a working directory that exists in the container" },
  { pattern: /^chdir .*: Permission denied/, code: "permission_denied", reason: "cwd_not_accessible" },
  { pattern: /the container .* is not running|container .* not running/i, code: "failed_precondition", reason: "wrong_state" },
  { pattern: /error opening file `.*\/status`: No such file or directory|container .* does not exist/, code: "not_found", reason: "container_not_found" },
  { pattern: /container .* already exists/, code: "already_exists", reason: "container_exists" },
  { pattern: /unknown (seccomp|capability|rlimit|signal)|invalid (rlimit|capability|config)/i, code: "invalid_argument", reason: "spec_invalid" },
  { pattern: /(No space left on device|Cannot allocate memory)$/, code: "resource_exhausted" },
];

/** The error for a failed crun; `output` is its log or stderr. */
export function crunFailure(step: string, output: string): RuntimeError {
  const lines = output.split("\n").map((line) => line.trim()).filter((line) => line !== "");
  const text = lines.at(-1) ?? "it ended without a message";
  const known = table.find(({ pattern }) => pattern.test(text));
  return new RuntimeError(known?.code ?? "internal", `${step}: crun: ${text.slice(0, 2_000)}`, { ...(known?.reason !== undefined && { reason: known.reason }), ...(known?.hint !== undefined && { hint: known.hint }) });
}

/** True when the log of a started process says that the kernel refused to run its program; the process itself ends with a code that says nothing. */
export function saysNotRunnable(log: string): boolean {
  return /^exec(?: container process)?(?: `.*`)?: (Exec format error|Permission denied)/m.test(log);
}
