import assert from "node:assert/strict";
import { closeSync, openSync, readSync } from "node:fs";
import { test } from "node:test";
import { interpreterOf } from "./read-ahead.ts";

function headOf(path: string): Buffer {
  const head = Buffer.alloc(4096);
  const fd = openSync(path, "r");
  try {
    return head.subarray(0, readSync(fd, head));
  } finally {
    closeSync(fd);
  }
}

test("interpreterOf() finds a script's interpreter and a program's loader", () => {
  for (const [script, interpreter] of [["#!/bin/sh\n", "/bin/sh"], ["#! /usr/bin/env node\n", "/usr/bin/env"], ["#!/bin/sh", "/bin/sh"]] as const) assert.equal(interpreterOf(Buffer.from(script)), interpreter);
  assert.match(interpreterOf(headOf(process.execPath)) ?? "", /^\/lib.*\/ld-linux.*\.so\.\d$/);
});

test("interpreterOf() finds none in what is neither, or cut off", () => {
  const program = headOf(process.execPath);
  for (const head of [Buffer.alloc(0), Buffer.from("#!"), Buffer.from("text"), program.subarray(0, 60), program.subarray(0, 100)]) assert.equal(interpreterOf(head), undefined);
});
