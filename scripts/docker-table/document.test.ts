import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { cases } from "./cases.ts";
import { problemOf } from "./compare.ts";
import { withTable } from "./document.ts";

test("docs/docker.md has the table of the cases", () => {
  const page = readFileSync(join(import.meta.dirname, "../../docs/docker.md"), "utf8");
  assert.equal(withTable(page), page, "run npm run docker-table -- --write");
});

test("the table has at least 60 commands, 45 of them the same", () => {
  assert.ok(cases.length >= 60);
  assert.ok(cases.filter(({ verdict }) => verdict === "same").length >= 45);
});

test("problemOf() sees other output, other keys, another exit code, and what is not refused", () => {
  const ended = (stdout: string, exitCode = 0, stderr = "") => ({ stdout, exitCode, stderr });
  const same = { command: ["x"], verdict: "same" } as const;
  assert.equal(problemOf(same, ended(`${"a".repeat(64)}\n`), ended(`${"b".repeat(64)}\n`)), "");
  assert.match(problemOf(same, ended("one"), ended("two")), /printed/);
  assert.match(problemOf(same, ended("", 1), ended("", 125)), /exit code 125/);
  assert.match(problemOf({ ...same, compare: "keys" }, ended("{\"a\":1}"), ended("{\"b\":1}")), /printed/);
  assert.equal(problemOf({ ...same, compare: "keys" }, ended("{\"a\":1,\"b\":2}"), ended("{\"b\":1,\"a\":1}")), "");
  const refused = { command: ["x"], verdict: "refused" } as const;
  assert.match(problemOf(refused, ended(""), ended("")), /not refused/);
  assert.match(problemOf(refused, ended(""), ended("", 125, "casemate: no")), /what to do/);
  assert.equal(problemOf(refused, ended(""), ended("", 125, "casemate: no\nhint: instead\n")), "");
});
