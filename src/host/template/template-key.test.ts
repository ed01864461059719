import assert from "node:assert/strict";
import { test } from "node:test";
import { templateKey } from "./template-key.ts";

test("each fact that a saved VM depends on has a template of its own", () => {
  const facts = { guestImageId: "image", accelerator: "tcg", machine: "-cpu max\nQEMU 7.2\nLinux 6.18" };
  const keys = [facts, { ...facts, guestImageId: "image with another kernel" }, { ...facts, accelerator: "kvm" }, { ...facts, machine: `${facts.machine}.1` }].map(templateKey);
  assert.equal(new Set(keys).size, keys.length);
  for (const key of keys) assert.match(key, /^[0-9a-f]{32}$/);
  assert.equal(templateKey({ ...facts }), keys[0]);
});
