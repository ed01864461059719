import { RuntimeError } from "../../shared/base/errors.ts";

/** A sandbox exists as an object only when its VM is up; `paused`: its vCPUs stand still. */
export type SandboxState = "running" | "paused" | "stopping" | "stopped";

/** Which state may follow which. */
const moves: Readonly<Record<SandboxState, readonly SandboxState[]>> = {
  running: ["paused", "stopping", "stopped"],
  paused: ["running", "stopping", "stopped"],
  stopping: ["stopped"],
  stopped: [],
};

/** @throws RuntimeError `failed_precondition` (reason `sandbox_paused` or `wrong_state`): nothing in a guest that stands still, or is going, can answer. */
export function requireSandboxRunning(sandboxId: string, state: SandboxState, operation: string): void {
  if (state === "running") return;
  if (state === "paused") throw new RuntimeError("failed_precondition", `${operation}: sandbox "${sandboxId}" is paused`, { reason: "sandbox_paused", hint: "resume it with `casemate unpause --sandbox`" });
  throw new RuntimeError("failed_precondition", `${operation}: sandbox "${sandboxId}" is ${state}, must be running`, { reason: "wrong_state" });
}

/** The one place where a sandbox's state changes. @throws RuntimeError `internal` for a move that is not in the table. */
export function nextSandboxState(sandboxId: string, from: SandboxState, to: SandboxState): SandboxState {
  if (from === to || moves[from].includes(to)) return to;
  throw new RuntimeError("internal", `sandbox "${sandboxId}" cannot move from ${from} to ${to}`);
}
