import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { Keeping } from "./keeping.ts";

/** The clock is the test's own; the runner gives it back. */
function keeping({ mock }: TestContext): { readonly keeping: Keeping; readonly ends: string[] } {
  mock.timers.enable({ apis: ["setTimeout"] });
  const ends: string[] = [];
  return { keeping: new Keeping((why) => ends.push(why)), ends };
}

async function* messages(...releases: boolean[]): AsyncGenerator<{ readonly release: boolean }> {
  for (const release of releases) yield { release };
}

test("Keeping ends nothing that nobody limited", (context) => {
  const { keeping: kept, ends } = keeping(context);
  kept.use()();
  context.mock.timers.tick(10 ** 9);
  assert.deepEqual(ends, []);
});

test("Keeping ends a sandbox when its total time is over, used or not", (context) => {
  const { keeping: kept, ends } = keeping(context);
  kept.limit({ totalMs: 1000, idleMs: 0 });
  kept.use();
  context.mock.timers.tick(999);
  assert.deepEqual(ends, []);
  context.mock.timers.tick(1);
  assert.deepEqual(ends, ["its time is over"]);
});

test("Keeping counts idle time from the end of the last use, and once", (context) => {
  const { keeping: kept, ends } = keeping(context);
  const first = kept.use();
  kept.limit({ totalMs: 0, idleMs: 100 });
  const second = kept.use();
  first();
  first();
  context.mock.timers.tick(500);
  assert.deepEqual(ends, []);
  second();
  context.mock.timers.tick(99);
  const third = kept.use();
  third();
  context.mock.timers.tick(99);
  assert.deepEqual(ends, []);
  context.mock.timers.tick(1000);
  assert.deepEqual(ends, ["nobody has used it"]);
});

test("Keeping takes new limits instead of the old ones", (context) => {
  const { keeping: kept, ends } = keeping(context);
  kept.limit({ totalMs: 100, idleMs: 100 });
  context.mock.timers.tick(50);
  kept.limit({ totalMs: 0, idleMs: 0 });
  context.mock.timers.tick(10_000);
  assert.deepEqual(ends, []);
});

test("a lease that ends without a release ends the sandbox, a released one does not", async (context) => {
  const { keeping: kept, ends } = keeping(context);
  await kept.hold(messages(true));
  assert.deepEqual(ends, []);
  await kept.hold(messages());
  await kept.hold((async function* broken(): AsyncGenerator<{ readonly release: boolean }> { throw new Error("connection reset"); })());
  assert.deepEqual(ends, ["the program that holds its lease has gone"]);
});

test("a new owner goes on with limits and lease; a holder that does not come back has gone", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const saved: object[] = [];
  const first = new Keeping(() => undefined, (state) => saved.push(state));
  first.limit({ totalMs: 60_000, idleMs: 0 });
  const lease = Promise.withResolvers<{ readonly release: boolean }>();
  void first.hold((async function* held() { yield await lease.promise; })());
  assert.deepEqual(saved, [{ leased: false, totalUntilUnixMs: 60_000, idleMs: 0 }, { leased: true, totalUntilUnixMs: 60_000, idleMs: 0 }]);
  const ends: string[] = [];
  const state = { leased: true, totalUntilUnixMs: 60_000, idleMs: 0 };
  const [forsaken, held, limited] = ["forsaken", "held", "limited"].map((name) => new Keeping((why) => ends.push(`${name}: ${why}`)));
  forsaken?.restore(state);
  held?.restore(state);
  limited?.restore({ ...state, leased: false });
  void held?.hold((async function* waits(): AsyncGenerator<{ readonly release: boolean }> { await new Promise(() => { /* for ever */ }); })());
  context.mock.timers.tick(20_000);
  assert.deepEqual(ends, ["forsaken: the program that held its lease has not come back"]);
  context.mock.timers.tick(40_000);
  assert.deepEqual(ends.slice(1), ["held: its time is over", "limited: its time is over"]);
});

test("a program that asked for a sandbox and does not come for it has gone", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const saved: object[] = [], ends: string[] = [];
  const [forsaken, held] = ["forsaken", "held"].map((name) => new Keeping((why) => ends.push(`${name}: ${why}`), (state) => saved.push(state)));
  forsaken?.expectHolder();
  assert.deepEqual(saved, [{ leased: true, totalUntilUnixMs: 0, idleMs: 0 }]); // so that the next owner knows of it
  held?.expectHolder();
  void held?.hold((async function* waits(): AsyncGenerator<{ readonly release: boolean }> { await new Promise(() => { /* for ever */ }); })());
  context.mock.timers.tick(60_000);
  assert.deepEqual(ends, ["forsaken: the program that asked for it has not come"]);
});
