import assert from "node:assert/strict";
import { test } from "node:test";
import { fitsPattern } from "./filter.ts";

test("fitsPattern() takes parts of names and docker's expressions", () => {
  const names = ["web", "web2", "my.web"];
  for (const [wanted, fits] of [["web", names], ["^web$", ["web"]], ["^/web$", ["web"]], ["^web", ["web", "web2"]], ["web|2$", names], ["2$", ["web2"]], ["x", []]] as const) {
    assert.deepEqual(names.filter((name) => fitsPattern(name, wanted)), fits, wanted);
  }
  assert.throws(() => fitsPattern("web", "("), /filter "name=\("/);
});
