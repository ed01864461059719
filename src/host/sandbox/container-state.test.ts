import assert from "node:assert/strict";
import { test } from "node:test";
import { RuntimeError } from "../../shared/base/errors.ts";
import { nextState, operationTable, requireState, type ContainerOperation, type ContainerState } from "./container-state.ts";

const states: readonly ContainerState[] = ["creating", "created", "running", "paused", "stopped"];

/** A row for each operation, a column for each state above. */
const allowed: Readonly<Record<ContainerOperation, string>> = {
  start: "-x---",
  file: "-xxx-",
  stop: "xxxxx",
  delete: "-x--x",
  exec: "-xx--",
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

for (const [operation, row] of Object.entries(allowed) as [ContainerOperation, string][]) { // the keys of the table above
  test(`requireState() for ${operation}`, () => {
    for (const [index, state] of states.entries()) {
      if (row[index] === "x") requireState("c1", operation, state);
      else assert.throws(() => requireState("c1", operation, state), (error) => RuntimeError.is(error, "failed_precondition") && error.reason === "wrong_state" && error.message.startsWith(`${operation} container "c1": it is ${state}, must be `));
    }
  });
}

test("every operation is in the table", () => {
  assert.deepEqual(Object.keys(operationTable).toSorted(), Object.keys(allowed).toSorted());
});

test("nextState() knows every move: rows from, columns to", () => {
  const moves: Readonly<Record<ContainerState, string>> = { creating: "xx--x", created: "-xx-x", running: "--xxx", paused: "--xxx", stopped: "----x" };
  for (const from of states) {
    for (const [index, to] of states.entries()) {
      if (moves[from][index] === "x") assert.equal(nextState("c1", from, to), to);
      else assert.throws(() => nextState("c1", from, to), (error) => RuntimeError.is(error, "internal") && error.message.includes(`from ${from} to ${to}`));
    }
  }
});
