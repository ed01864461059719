import assert from "node:assert/strict";
import { test } from "node:test";
import { CommandTimes } from "./command-times.ts";

test("the owner's steps are put among the command's own, by the clock that both read", () => {
  const times = new CommandTimes("casemate run");
  times.next("write the container down");
  times.next("start the owner");
  const steps = times.with({ stepTimes: [{ $typeName: "casemate.v1.StepTime", operation: "create sandbox", step: "claim user", depth: 0, startMicros: 5n, durationMicros: 7n }], stepsBeganUnixMicros: BigInt(Math.round(performance.timeOrigin * 1000)) + 90_000n });
  assert.deepEqual(steps.map(({ operation, step }) => [operation, step]), [["casemate run", "load the program"], ["casemate run", "write the container down"], ["create sandbox", "claim user"]]);
  const [load, write, claim] = steps;
  assert.equal(load?.startMicros, 0n);
  assert.equal(write?.startMicros, load.durationMicros);
  assert.deepEqual([claim?.startMicros, claim?.durationMicros], [90_005n, 7n]);
});
