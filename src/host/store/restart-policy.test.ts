import assert from "node:assert/strict";
import { test } from "node:test";
import { nextRestart, startsAtBoot, type RestartPolicy, type RestartState } from "./restart-policy.ts";

const always: RestartPolicy = { name: "always", maxRetries: 0 };
const failed = { exitCode: 1, ranMs: 50, stopRequested: false };

/** The pauses of so many runs one after the other, at a clock of our own. */
function pauses(policy: RestartPolicy, runs: readonly typeof failed[]): (number | undefined)[] {
  let state: RestartState | undefined, nowMs = 1_000;
  return runs.map((run) => {
    nowMs += run.ranMs;
    const next = nextRestart(policy, run, state, nowMs);
    if (next !== undefined) assert.equal(next.atUnixMs, nowMs + next.delayMs);
    nowMs = next?.atUnixMs ?? nowMs;
    state = next;
    return next?.delayMs;
  });
}

test("pauses double from 100 ms to a minute", () => {
  assert.deepEqual(pauses(always, Array<typeof failed>(12).fill(failed)), [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 60_000, 60_000]);
});

test("a run of ten seconds begins them anew, and the count goes on", () => {
  assert.deepEqual(pauses(always, [failed, failed, { ...failed, ranMs: 9_999 }, { ...failed, ranMs: 10_000 }, failed]), [100, 200, 400, 100, 200]);
  assert.equal(nextRestart(always, { ...failed, ranMs: 20_000 }, { count: 7, delayMs: 800, atUnixMs: 1 }, 5)?.count, 8);
});

test("on-failure restarts failures, as often as it says", () => {
  const twice: RestartPolicy = { name: "on-failure", maxRetries: 2 };
  assert.deepEqual(pauses(twice, [failed, failed, failed]), [100, 200, undefined]);
  assert.deepEqual(pauses({ name: "on-failure", maxRetries: 0 }, [failed, failed, failed, { ...failed, exitCode: 0 }]), [100, 200, 400, undefined]);
});

test("nothing restarts what was asked to end, or what has no policy", () => {
  for (const name of ["always", "unless-stopped", "on-failure"] as const) assert.equal(nextRestart({ name, maxRetries: 0 }, { ...failed, stopRequested: true }, undefined, 0), undefined, name);
  assert.equal(nextRestart({ name: "no", maxRetries: 0 }, failed, undefined, 0), undefined);
  assert.equal(nextRestart({ name: "unless-stopped", maxRetries: 0 }, { ...failed, exitCode: 0 }, undefined, 0)?.count, 1);
});

test("at boot always starts, the others unless they were stopped or had ended well", () => {
  const cases: readonly (readonly [RestartPolicy["name"], number, boolean, boolean])[] = [
    ["always", 0, true, true], ["unless-stopped", 137, false, true], ["unless-stopped", 137, true, false],
    ["on-failure", 137, false, true], ["on-failure", 0, false, false], ["on-failure", 137, true, false], ["no", 137, false, false],
  ];
  for (const [name, exitCode, stopRequested, starts] of cases) assert.equal(startsAtBoot({ name, maxRetries: 0 }, { exitCode, stopRequested }, undefined), starts, `${name} ${exitCode} ${stopRequested}`);
});
