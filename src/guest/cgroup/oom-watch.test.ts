import assert from "node:assert/strict";
import { test } from "node:test";
import { OomTally } from "./oom-watch.ts";

test("OomTally tells a container's own limit from the guest's, in whatever steps the counters move", () => {
  const tally = new OomTally(1, 4);
  assert.equal(tally.count(1, 4), undefined);
  assert.equal(tally.count(1, 5), undefined); // out of memory, nobody killed yet
  assert.equal(tally.count(2, 5), "own");
  assert.equal(tally.count(2, 5), undefined);
  assert.equal(tally.count(3, 5), "guest");
  assert.equal(tally.count(5, 6), "own");
});
