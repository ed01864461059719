import assert from "node:assert/strict";
import { test } from "node:test";
import { afterProbe, newHealth, type HealthCheck, type HealthState } from "./health.ts";

const check: HealthCheck = { test: ["CMD", "true"], intervalMs: 1_000, timeoutMs: 1_000, retries: 3, startPeriodMs: 0 };

/** The health after probes with those exit codes, a second apart, the first one a second after the start. */
function probed(exitCodes: readonly number[], changes: Partial<HealthCheck> = {}): HealthState {
  return exitCodes.reduce((state, exitCode, index) => afterProbe({ ...check, ...changes }, state, { startUnixMs: 1_000 * (index + 1), endUnixMs: 1_000 * (index + 1), exitCode, output: "" }, 0), newHealth);
}

test("a success makes it healthy, so many failures in a row unhealthy", () => {
  assert.equal(probed([]).status, "starting");
  assert.equal(probed([1, 1]).status, "starting");
  assert.deepEqual([probed([1, 1, 1]).status, probed([1, 1, 1]).failingStreak], ["unhealthy", 3]);
  assert.equal(probed([0, 1, 1]).status, "healthy");
  assert.equal(probed([0, 1, -1, 1]).status, "unhealthy");
  assert.deepEqual([probed([1, 1, 1, 0]).status, probed([1, 1, 1, 0]).failingStreak], ["healthy", 0]);
  assert.equal(probed([1, 0, 1], { retries: 1 }).status, "unhealthy");
});

test("failures of the start period do not count until the first success", () => {
  assert.deepEqual([probed([1, 1, 1], { startPeriodMs: 3_500 }).status, probed([1, 1, 1], { startPeriodMs: 3_500 }).failingStreak], ["starting", 0]);
  assert.equal(probed([1, 1, 1, 1, 1, 1], { startPeriodMs: 3_500 }).status, "unhealthy");
  assert.equal(probed([0, 1, 1, 1], { startPeriodMs: 10_000 }).status, "unhealthy");
});

test("the five latest probes are kept", () => {
  assert.deepEqual(probed([1, 2, 3, 4, 5, 6]).log.map(({ exitCode }) => exitCode), [2, 3, 4, 5, 6]);
});
