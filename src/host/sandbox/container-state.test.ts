import assert from "node:assert/strict";
import { test } from "node:test";
import { expectedOperations, guardProblems } from "../../../test/support/expected-states.ts";
import * as guards from "./container-state.ts";

test("1.2 ready, 1.2 running, 1.2 paused, 1.2 stopped: every operation and every move is allowed, or refused by name, in every state", () => {
  assert.deepEqual(guardProblems(guards), []);
});

test("every operation is in the table", () => {
  assert.deepEqual(Object.keys(guards.operationTable).toSorted(), Object.keys(expectedOperations).toSorted());
});
