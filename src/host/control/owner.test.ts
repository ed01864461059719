import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import { test, type TestContext } from "node:test";
import { silentLogger } from "../../shared/base/log.ts";
import { SandboxFixture } from "../../../test/support/sandbox-fixture.ts";
import { ContainerStore } from "../store/container-store.ts";
import { Owner } from "./owner.ts";

/** Lets that much time pass on the mocked clock; says whether the owner has ended its sandbox by then. */
async function endsWithin(context: TestContext, owner: Owner, timeMs: number): Promise<boolean> {
  let over = false;
  void owner.finished.then(() => { over = true; });
  context.mock.timers.tick(timeMs);
  for (let turn = 0; turn < 50 && !over; turn++) await setImmediate();
  return over;
}

for (const [what, callers, keptMs] of [["that nobody has come to is kept for its starter", 0, 30_000], ["whose callers have all gone is given up soon", 2, 5_000]] as const) {
  test(`a sandbox without containers ${what}`, async (context) => {
    using fixture = await SandboxFixture.open();
    const sandbox = await fixture.create();
    context.mock.timers.enable({ apis: ["setTimeout"] });
    const owner = new Owner(Promise.resolve(sandbox), new AbortController(), new ContainerStore(fixture.config.folders), silentLogger, { sandboxId: "s1", adopting: false });
    await owner.ready();
    for (let caller = 0; caller < callers; caller++) {
      owner.connectionOpened();
      assert.equal(await endsWithin(context, owner, 2 * keptMs), false, "it is in use");
      owner.connectionClosed();
      assert.equal(await endsWithin(context, owner, keptMs - 1), false);
    }
    if (callers === 0) assert.equal(await endsWithin(context, owner, keptMs - 1), false);
    assert.equal(await endsWithin(context, owner, 1), true);
    assert.deepEqual(fixture.held, []);
  });
}
