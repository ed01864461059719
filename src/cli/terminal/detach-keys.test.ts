import assert from "node:assert/strict";
import { test } from "node:test";
import { DetachKeyFilter } from "./detach-keys.ts";

const bytes = (text: string): Uint8Array => Buffer.from(text, "latin1");

test("DetachKeyFilter passes ordinary keys and finds the sequence across chunks", () => {
  const filter = new DetachKeyFilter();
  assert.deepEqual(filter.push(bytes("ab\x10")), { pass: Uint8Array.from(bytes("ab")), detach: false });
  assert.deepEqual(filter.push(bytes("\x11rest")), { pass: new Uint8Array(), detach: true });
});

test("DetachKeyFilter gives back a broken sequence", () => {
  const filter = new DetachKeyFilter();
  assert.deepEqual(filter.push(bytes("\x10x\x10\x10\x11")), { pass: Uint8Array.from(bytes("\x10x\x10")), detach: true });
});
