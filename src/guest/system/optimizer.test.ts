import assert from "node:assert/strict";
import { test } from "node:test";
import { Optimizer } from "./optimizer.ts";

/** An optimizer, what it has set, and a host that is heard of that often. */
function makeOptimizer(isStarting: () => boolean = () => false) {
  const set: string[] = [];
  const optimizer = new Optimizer(isStarting, (flags) => set.push(flags));
  return { optimizer, set, hear: (times: number) => { for (let i = 0; i < times; i++) optimizer.heard(); } };
}

test("comes on once when the host has been heard of often, and goes off with the next sandbox", () => {
  const { optimizer, set, hear } = makeOptimizer();
  optimizer.holdBack(false);
  hear(100);
  assert.deepEqual(set, []);
  hear(1_000);
  assert.deepEqual(set, ["--turbofan"]);
  optimizer.holdBack(false);
  assert.deepEqual(set, ["--turbofan", "--no-turbofan"]);
  hear(100);
  assert.equal(set.length, 2);
});

test("stays off in a guest that is saved, and while containers are made", () => {
  let starting = true;
  const { optimizer, set, hear } = makeOptimizer(() => starting);
  optimizer.holdBack(true);
  starting = false;
  hear(10_000);
  assert.deepEqual(set, []);
  optimizer.holdBack(false);
  starting = true;
  hear(10_000);
  assert.deepEqual(set, []);
  starting = false;
  hear(1);
  assert.deepEqual(set, ["--turbofan"]);
});
