import assert from "node:assert/strict";
import { test } from "node:test";
import { firstArgument, rootArgument } from "./arguments.ts";

test("the command and its state folder are found before anything is parsed", () => {
  for (const [line, command, root] of [
    ["run busybox", "run", undefined],
    ["--root /a run --root /b", "run", "/a"],
    ["--root=/a -D run", "run", "/a"],
    ["--root /a --root /b run", "run", "/b"],
    ["--root run ps", "ps", "run"],
    ["-D", undefined, undefined],
  ] as const) {
    const args = line.split(" ");
    assert.deepEqual([firstArgument(args), rootArgument(args)], [command, root], line);
  }
});
