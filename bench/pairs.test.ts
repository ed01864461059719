import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { isMissed, measurePairs, median, medianInterval, medianSlope } from "./pairs.ts";

test("median() is the middle value or the mean of the two", () => {
  assert.equal(median([3]), 3);
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.equal(median([10, 9, 1]), 9);
});

test("medianInterval() takes the order statistics that tables give for 90 %", () => {
  const upTo = (n: number): number[] => Array.from({ length: n }, (_, index) => index + 1);
  // k of the sign test, two-sided 10 %: n = 5: 1, 8: 2, 11: 3, 15: 4, 20: 6, 30: 11.
  const cases: readonly (readonly [n: number, k: number])[] = [[5, 1], [7, 1], [8, 2], [10, 2], [11, 3], [15, 4], [20, 6], [30, 11]];
  for (const [n, k] of cases) assert.deepEqual(medianInterval(upTo(n)), [k, n + 1 - k], `n = ${n}`);
});

test("medianInterval() refuses too few pairs", () => {
  assert.throws(() => medianInterval([1, 1, 1, 1]), /at least 5/);
});

test("medianInterval() holds the median and does not depend on the order", () => {
  fc.assert(fc.property(fc.array(fc.double({ min: 0.01, max: 100, noNaN: true }), { minLength: 5, maxLength: 60 }), (values) => {
    const [low, high] = medianInterval(values);
    assert.ok(low <= median(values) && median(values) <= high);
    assert.deepEqual(medianInterval(values.toReversed()), [low, high]);
  }), { seed: 1 });
});

test("isMissed() needs the whole interval on the wrong side", () => {
  assert.equal(isMissed({ atMost: 1.25 }, [1.2, 1.6]), false);
  assert.equal(isMissed({ atMost: 1.25 }, [1.26, 1.6]), true);
  assert.equal(isMissed({ atLeast: 0.5 }, [0.3, 0.51]), false);
  assert.equal(isMissed({ atLeast: 0.5 }, [0.3, 0.49]), true);
});

test("measurePairs() alternates and leaves the first pair out", async () => {
  const order: string[] = [];
  const result = await measurePairs(async () => { order.push("a"); return order.length < 3 ? 1000 : 6; }, async () => { order.push("b"); return 2; }, 5);
  assert.equal(order.join(""), "ab".repeat(6));
  assert.deepEqual(result.ratios, [3, 3, 3, 3, 3]);
  assert.deepEqual([result.medianRatio, result.medianA, result.medianB], [3, 6, 2]);
});

test("medianSlope() finds the growth under jumps and says how sure it is", () => {
  const line = Array.from({ length: 16 }, (_, index): [number, number] => [index * 10, 3 * index * 10]);
  assert.deepEqual(medianSlope(line), { value: 3, interval: [3, 3] });
  const jumping = line.map(([x, y], index): [number, number] => [x, y + (index % 4) * 40]);
  const { value, interval: [low, high] } = medianSlope(jumping);
  assert.ok(low <= 3 && 3 < high && Math.abs(value - 3) < 1, `${low} ${value} ${high}`);
});
