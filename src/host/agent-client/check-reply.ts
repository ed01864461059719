import type { CallPart } from "../../shared/base/call-parts.ts";
import { RuntimeError, codeOf, describeError } from "../../shared/base/errors.ts";

// What comes from a guest is a hostile root's. Frames are bounded by ttRPC (4 MiB), their shape by the
// protocol's schema; here is what the schema does not say. An answer that is not plausible is an error of
// the call, and so of that sandbox only.

/** Names, paths and messages; the longest we have is a path of 4096 bytes. */
const maxStringLength = 4096;
/** Processes, interfaces, statistics: the most a guest of any size has is a few thousand. */
const maxEntries = 16_384;
const maxDepth = 8;
/** Linux's largest pid (PID_MAX_LIMIT). */
const maxPid = 4_194_304;
/** Of a message for people. */
const maxMessageLength = 4_000;
const reasonPattern = /^[a-z][a-z0-9_]{0,63}$/;

const partNamePattern = /^[a-z0-9 '-]{0,64}$/;

/** Rules of single fields, by message type. */
const rules: Readonly<Record<string, (message: Readonly<Record<string, unknown>>) => string | undefined>> = {
  "casemate.v1.ProcessStarted": ({ pid }) => (isPid(pid) ? undefined : "pid"),
  "casemate.v1.GuestProcess": ({ cgroupPids }) => (Array.isArray(cgroupPids) && cgroupPids.every(isPid) ? undefined : "cgroup_pids"),
  "casemate.v1.Event": ({ kind }) => (isObject(kind) && ["exit", "oom", "memoryShort"].includes(String(kind["case"])) ? undefined : "kind"),
  "casemate.v1.Exit": ({ exitStatus }) => (typeof exitStatus === "number" && exitStatus <= 255 ? undefined : "exit_status"),
};

/** @throws RuntimeError `data_loss` (reason `bad_reply`) for an answer no agent of ours gives. */
export function checkReply<T>(method: string, reply: T): T {
  const problem = problemOf(reply, 0);
  if (problem !== undefined) throw new RuntimeError("data_loss", `${method}: the guest's answer is not plausible: ${problem}`, { reason: "bad_reply" });
  return reply;
}

/** An error of the guest's, fit for logs and terminals: bounded, one reason word, no control characters. */
export function cleanGuestError(error: unknown): RuntimeError {
  if (!RuntimeError.is(error)) return new RuntimeError(codeOf(error), "the guest's answer cannot be read", { cause: error, reason: "bad_reply" });
  const message = clean(error.message), hint = error.hint === undefined ? undefined : clean(error.hint);
  const reason = error.reason !== undefined && reasonPattern.test(error.reason) ? error.reason : undefined;
  if (message === error.message && hint === error.hint && reason === error.reason) return error;
  return new RuntimeError(error.code, message, { ...(reason !== undefined && { reason }), ...(hint !== undefined && { hint }), ...(error.cause !== undefined && { cause: clean(describeError(error.cause)) }) });
}

/** A guest's word of where the time of a call went: nothing that lies outside the call, and names that can be shown. */
export function plausibleParts(parts: readonly CallPart[], callMs: number): CallPart[] {
  const limitMicros = callMs * 1000;
  return parts.filter(({ name, startMicros, durationMicros }) => partNamePattern.test(name) && startMicros >= 0 && durationMicros >= 0 && startMicros + durationMicros <= limitMicros);
}

/** Text of a guest without what steers a terminal, at most 4000 characters. */
export function clean(text: string): string {
  // Tabs and line ends are harmless; C0, DEL and C1 are not.
  const plain = text.slice(0, maxMessageLength).replaceAll(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\uFFFD");
  return text.length > maxMessageLength ? `${plain} ...` : plain;
}

function problemOf(value: unknown, depth: number): string | undefined {
  if (depth > maxDepth) return "nested too deeply";
  if (typeof value === "string") return value.length > maxStringLength ? `a text of ${value.length} characters` : undefined;
  if (!isObject(value) || value instanceof Uint8Array) return undefined;
  const entries = Object.entries(value);
  if (entries.length > maxEntries) return `${entries.length} entries`;
  const broken = typeof value["$typeName"] === "string" ? rules[value["$typeName"]]?.(value) : undefined;
  if (broken !== undefined) return `${broken} of ${String(value["$typeName"])}`;
  for (const [key, inner] of entries) {
    const problem = key.length > maxStringLength ? `a key of ${key.length} characters` : problemOf(inner, depth + 1);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

function isPid(value: unknown): boolean {
  return typeof value === "number" && value > 0 && value <= maxPid;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
