import assert from "node:assert/strict";
import { test } from "node:test";
import { OperationQueue } from "./operation-queue.ts";

test("OperationQueue runs one at a time, in order, and goes on after a failure", async () => {
  const queue = new OperationQueue();
  const order: string[] = [];
  const first = Promise.withResolvers<void>();
  const results = [
    queue.run(async () => {
      order.push("first begins");
      await first.promise;
      order.push("first ends");
      return 1;
    }),
    queue.run(async () => {
      order.push("second");
      throw new Error("second failed");
    }),
    queue.run(async () => {
      order.push("third");
      return 3;
    }),
  ];
  first.resolve();
  const outcomes = await Promise.allSettled(results);
  assert.deepEqual(order, ["first begins", "first ends", "second", "third"]);
  assert.deepEqual(outcomes.map((outcome) => (outcome.status === "fulfilled" ? outcome.value : "failed")), [1, "failed", 3]);
});
