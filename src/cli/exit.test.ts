import assert from "node:assert/strict";
import { test } from "node:test";
import { shortenIds } from "./exit.ts";

test("shortenIds() shortens ids of containers, and no other numbers", () => {
  const id = "0123456789abcdef".repeat(4);
  assert.equal(shortenIds(`create container "${id}": image "sha256:${id}", id "${id}": exec in container "web"`), `create container "0123456789ab": image "sha256:${id}", id "${id}": exec in container "web"`);
});
