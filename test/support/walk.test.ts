import assert from "node:assert/strict";
import { test } from "node:test";
import { parseWalk, walkDifference } from "./walk.ts";

const document = ["text", "```sh", "$ not this", "```", "```console", "$ echo a", "a", "", "$ id", "uid=…", "…", "last", "```", "$ nor this"].join("\n");

test("parseWalk() takes the commands of console blocks with what they print", () => {
  assert.deepEqual(parseWalk(document), [{ command: "echo a", expected: ["a"], line: 6 }, { command: "id", expected: ["uid=…", "…", "last"], line: 9 }]);
});

test("walkDifference() takes … for anything in a line, or for any lines", () => {
  const step = { command: "x", expected: ["a… (1.5)", "…", "last"], line: 1 };
  for (const output of ["abc (1.5)\nlast\n", "a (1.5)\none\ntwo\nlast\n"]) assert.equal(walkDifference(step, output), undefined, output);
  for (const output of ["abc (145)\nlast\n", "a (1.5)\nlast\nmore\n", "a (1.5)\n", ""]) assert.match(walkDifference(step, output) ?? "", /line 1: \$ x\nthe document shows:/, output);
});

test("walkDifference() does not mind the width of a table's columns", () => {
  const step = { command: "ps", expected: ["ID   NAME   STATE", "…   web   Up"], line: 1 };
  assert.equal(walkDifference(step, "ID             NAME  STATE\nf26abafc703a   web   Up\n"), undefined);
  assert.notEqual(walkDifference(step, "ID NAME STATE\nf26abafc703a   web   Up\n"), undefined);
});

test("walkDifference() wants silence where the document shows none", () => {
  const step = { command: "true", expected: [], line: 3 };
  assert.equal(walkDifference(step, ""), undefined);
  assert.match(walkDifference(step, "noise\n") ?? "", /it printed:\nnoise/);
});
