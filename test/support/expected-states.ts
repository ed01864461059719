import type { ContainerOperation, ContainerState } from "../../src/host/sandbox/container-state.ts";
import { RuntimeError } from "../../src/shared/base/errors.ts";

/** The states, in the order of the columns below. */
export const states: readonly ContainerState[] = ["creating", "created", "running", "paused", "stopped"];

/** A row for each operation; x: allowed in that column's state. */
export const expectedOperations: Readonly<Record<ContainerOperation, string>> = {
  start: "-x---",
  stop: "xxxxx",
  delete: "-x--x",
  exec: "-xx--",
  file: "-xxx-",
  wait: "xxxxx",
  kill: "-xxx-",
  signal: "-xxx-",
  winsize: "-xxxx",
  ioStream: "-xxxx",
  stats: "-xxxx",
  update: "-xxx-",
  pause: "--x--",
  resume: "---x-",
};

/** A row for each state; x: it may be followed by that column's state. */
export const expectedMoves: Readonly<Record<ContainerState, string>> = { creating: "xx--x", created: "-xx-x", running: "--xxx", paused: "--xxx", stopped: "----x" };

/** The functions that guard. */
export interface Guards {
  readonly requireState: (containerId: string, operation: ContainerOperation, state: ContainerState) => void;
  readonly nextState: (containerId: string, from: ContainerState, to: ContainerState) => ContainerState;
}

/** Where the guards do something else than expected, one line each. */
export function guardProblems({ requireState, nextState }: Guards): string[] {
  const operations = (Object.entries(expectedOperations) as [ContainerOperation, string][]).flatMap(([operation, row]) => states.map((state, column) => // the keys of the table above
    compare(row[column] === "x", `${operation} of a container that is ${state}`, "failed_precondition", `${operation} container "c1": it is ${state}, must be `, () => requireState("c1", operation, state))));
  const moves = states.flatMap((from) => states.map((to, column) =>
    compare(expectedMoves[from][column] === "x", `${from} to ${to}`, "internal", `container "c1" cannot move from ${from} to ${to}`, () => nextState("c1", from, to))));
  return [...operations, ...moves].filter((problem) => problem !== undefined);
}

function compare(allowed: boolean, what: string, code: string, message: string, attempt: () => unknown): string | undefined {
  try {
    attempt();
    return allowed ? undefined : `${what} is allowed`;
  } catch (error) {
    if (!RuntimeError.is(error) || error.code !== code || !error.message.startsWith(message)) return `${what} is refused with other words: ${String(error)}`;
    return allowed ? `${what} is refused` : undefined;
  }
}
