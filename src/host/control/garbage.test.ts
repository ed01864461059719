import assert from "node:assert/strict";
import { test } from "node:test";
import { Garbage } from "./garbage.ts";

test("garbage is collected once for all that was done meanwhile, and again after more", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  let collections = 0;
  const garbage = new Garbage(() => { collections++; });
  garbage.collectLater();
  context.mock.timers.tick(11_999);
  garbage.collectLater();
  assert.equal(collections, 0);
  context.mock.timers.tick(1);
  assert.equal(collections, 1);
  context.mock.timers.tick(60_000);
  assert.equal(collections, 1, "an idle owner does nothing");
  garbage.collectLater();
  context.mock.timers.tick(12_000);
  assert.equal(collections, 2);
});
