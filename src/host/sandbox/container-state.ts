import { RuntimeError } from "../../shared/base/errors.ts";

/** OCI's words (runtime-spec, runtime.md "State"), with `paused` as every runtime has it. */
export type ContainerState = "creating" | "created" | "running" | "paused" | "stopped";

/** Which state may follow which. */
const moves: Readonly<Record<ContainerState, readonly ContainerState[]>> = {
  creating: ["created", "stopped"],
  created: ["running", "stopped"],
  running: ["paused", "stopped"],
  paused: ["running", "stopped"],
  stopped: [],
};

/**
 * What can be asked of a container, and in which states it makes sense. `signal` is to one process,
 * `kill` to the container; `winsize` and `ioStream` are of its processes' terminals and streams.
 */
const allowedStates = {
  start: ["created"],
  file: ["created", "running", "paused"],
  stop: ["creating", "created", "running", "paused", "stopped"],
  delete: ["created", "stopped"],
  exec: ["created", "running"],
  wait: ["creating", "created", "running", "paused", "stopped"],
  kill: ["created", "running", "paused"],
  signal: ["created", "running", "paused"],
  winsize: ["created", "running", "paused", "stopped"],
  ioStream: ["created", "running", "paused", "stopped"],
  stats: ["created", "running", "paused", "stopped"],
  update: ["created", "running", "paused"],
  pause: ["running"],
  resume: ["paused"],
} as const satisfies Record<string, readonly ContainerState[]>;

export type ContainerOperation = keyof typeof allowedStates;

/** Every operation with the states it is allowed in, for the table test. */
export const operationTable: Readonly<Record<ContainerOperation, readonly ContainerState[]>> = allowedStates;

/** @throws RuntimeError `failed_precondition` (reason `wrong_state`) naming the operation and the present state. */
export function requireState(containerId: string, operation: ContainerOperation, state: ContainerState): void {
  const allowed = operationTable[operation];
  if (allowed.includes(state)) return;
  throw new RuntimeError("failed_precondition", `${operation} container "${containerId}": it is ${state}, must be ${allowed.join(" or ")}`, { reason: "wrong_state" });
}

/** The one place where a container's state changes. @throws RuntimeError `internal` for a move that is not in the table. */
export function nextState(containerId: string, from: ContainerState, to: ContainerState): ContainerState {
  if (from === to || moves[from].includes(to)) return to;
  throw new RuntimeError("internal", `container "${containerId}" cannot move from ${from} to ${to}`);
}
