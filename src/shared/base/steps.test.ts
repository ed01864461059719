import assert from "node:assert/strict";
import { test } from "node:test";
import { orAbandon, type WaitOptions } from "./deadline.ts";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import { Steps } from "./steps.ts";

test("run() returns what the step does, and times each one", async () => {
  const steps = new Steps("make tea");
  assert.equal(await steps.run("boil water", () => 100), 100);
  assert.equal(await steps.run("pour", async () => "poured"), "poured");
  assert.deepEqual(steps.timings.map(({ name }) => name), ["boil water", "pour"]);
  for (const { startMs, durationMs } of steps.timings) assert.ok(startMs >= 0 && durationMs >= 0);
});

test("run() names operation and step of a failure, keeps its code, and times it too", async () => {
  const steps = new Steps("make tea");
  const failure = new RuntimeError("not_found", "no kettle", { reason: "tool_missing", hint: "buy one" });
  await assert.rejects(steps.run("boil water", () => { throw failure; }), (error) => RuntimeError.is(error, "not_found") && error.reason === "tool_missing" && error.hint === "buy one" && describeError(error) === "make tea: boil water: no kettle");
  assert.deepEqual(steps.timings.map(({ name }) => name), ["boil water"]);
});

test("the hook comes before the step, which does not run when it throws, and after it", async () => {
  const seen: string[] = [];
  const steps = new Steps("make tea", { hook: (operation, step, phase) => {
    seen.push(`${phase} ${operation}/${step}`);
    if (step === "pour") throw new Error("spilt");
  } });
  await steps.run("boil water", () => seen.push("boiled"));
  await assert.rejects(steps.run("pour", () => seen.push("poured")), /make tea: pour/);
  assert.deepEqual(seen, ["before make tea/boil water", "boiled", "after make tea/boil water", "before make tea/pour"]);
});

test("a canceled caller gets no further step", async () => {
  const abort = new AbortController();
  const steps = new Steps("make tea", { signal: abort.signal });
  await steps.run("boil water", () => abort.abort());
  await assert.rejects(steps.run("pour", () => assert.fail("poured")), (error) => RuntimeError.is(error, "canceled") && error.message.includes('before "pour"'));
});

test("the time of the whole is passed down and shrinks", async () => {
  const steps = new Steps("make tea", { timeoutMs: 60_000 });
  assert.ok((steps.wait.timeoutMs ?? 0) <= 60_000 && (steps.wait.timeoutMs ?? 0) > 50_000);
  assert.equal(new Steps("make tea").wait.timeoutMs, Infinity);
  assert.equal(new Steps("make tea", { timeoutMs: 0 }).wait.timeoutMs, 0);
});


test("runAll() takes the steps of a list in order, leaves out those with nothing to do, and guards each", async () => {
  const seen: string[] = [];
  const list = [
    { name: "boil water", run: ({ cups }: { cups: number }) => seen.push(`water for ${cups}`) },
    { name: "add milk", when: ({ cups }: { cups: number }) => cups > 2, run: () => seen.push("milk") },
    { name: "pour", run: async () => { seen.push("poured"); } },
  ];
  const steps = new Steps("make tea", { guard: async (work) => { seen.push("guarded"); return work; } });
  await steps.runAll(list, { cups: 2 });
  assert.deepEqual(seen, ["water for 2", "guarded", "poured", "guarded"]);
  assert.deepEqual(steps.timings.map(({ name }) => name), ["boil water", "pour"]);
});

test("work that the guard has ended is told", async () => {
  let told: Promise<unknown> | undefined;
  const list = [{ name: "boil water", run: (_build: object, { signal }: WaitOptions) => {
    told = new Promise((resolve) => { signal?.addEventListener("abort", resolve); });
    return new Promise(() => { /* for ever */ });
  } }];
  const steps = new Steps("make tea", { guard: async () => { throw new RuntimeError("unavailable", "no fire"); } });
  await assert.rejects(steps.runAll(list, {}), /boil water/);
  await orAbandon(told ?? Promise.reject(new Error("it did not run")), "its end", { timeoutMs: 1_000 });
});

test("a hook that never comes back ends with the time of the whole", async () => {
  const steps = new Steps("make tea", { timeoutMs: 20, hook: () => new Promise(() => undefined) });
  await assert.rejects(steps.run("boil water", () => assert.fail("boiled")), (error) => RuntimeError.is(error, "deadline_exceeded") && error.message === "make tea: boil water");
});
