import assert from "node:assert/strict";
import { test } from "node:test";
import { isShort } from "./memory-watch.ts";

const mebibyte = 1024 ** 2;
const stat = (fields: Readonly<Record<string, number>>): string => Object.entries(fields).map(([key, value]) => `${key} ${value * mebibyte}`).join("\n");

test("isShort() counts what cannot be taken back, and no page cache", () => {
  assert.equal(isShort(stat({ anon: 100, file: 700, shmem: 10, slab_reclaimable: 90 }), 800 * mebibyte), false);
  assert.equal(isShort(stat({ anon: 500, file: 200, shmem: 80, pagetables: 10, slab_unreclaimable: 20 }), 800 * mebibyte), true);
  assert.equal(isShort(stat({ anon: 10, file: 700, shmem: 650 }), 800 * mebibyte), true);
  assert.equal(isShort("", 800 * mebibyte), false);
});
