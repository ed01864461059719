import assert from "node:assert/strict";
import { test } from "node:test";
import { findFlatKeyed } from "./cgroup-tree.ts";
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

test("one value of a flat keyed file: on the first line or a later one, by its whole name, 0 when it is not there", () => {
  const text = "low 0\nhigh 1\noom 2\noom_kill 34\noom_group_kill 5\n";
  assert.deepEqual(["low", "high", "oom", "oom_kill", "kill", "max"].map((key) => findFlatKeyed(text, key)), [0, 1, 2, 34, 0, 0]);
  assert.equal(findFlatKeyed("", "oom"), 0);
});
