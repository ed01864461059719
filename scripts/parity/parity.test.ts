import assert from "node:assert/strict";
import { test } from "node:test";
import { flipGuard } from "./flips.ts";
import { mentions, parityProblems, parseParity } from "./table.ts";

const files: Readonly<Record<string, string>> = { "a.ts": "", "a.test.ts": 'test("D1, 1.3 create: works")' };
const read = (path: string): string | undefined => files[path];
const page = (line: string): string => `| row | | file | test | note |\n|---|---|---|---|---|\n${line}\n`;

const cases: readonly (readonly [line: string, problem: string | undefined])[] = [
  ["| D1 | same | `a.ts` | `a.test.ts` | |", undefined],
  ["| D1 | better | `a.ts` | `a.test.ts` | |", "D1: better how"],
  ["| D1 | differs | `a.ts` | `a.test.ts` | because |", "D1: differs, but no decision says why"],
  ["| D1 | differs | `a.ts` | `a.test.ts` | docs/adr/0016 |", undefined],
  ["| D1 | open | | | |", "D1: open, and not of the storage part"],
  ["| D1 | open | | | some day |", "D1: open, and not of the storage part"],
  ["| D1 | open | | | storage part |", undefined],
  ["| D1 | same | `b.ts` | `a.test.ts` | |", "D1: b.ts does not exist"],
  ["| D1 | same | `a.ts` | | |", "D1: no test does not exist"],
  ["| D1 | same | `a.ts` | `a.ts` | |", "D1: no test of a.ts has it in its title"],
  ["| D2 | open | | | storage part |", "D1: is missing,D2: is no row of the inventory"],
  ["| D1 | open | | | storage part |\n| D1 | open | | | storage part |", "D1: is there twice"],
];

test("parityProblems() finds what is missing, strange, doubled or untrue", () => {
  for (const [line, problem] of cases) assert.equal(parityProblems(parseParity(page(line)), ["D1"], read).join(), problem ?? "", line);
});

test("mentions() knows whole names only", () => {
  assert.deepEqual([mentions("D12: x", "D1"), mentions("x D1, y", "D1"), mentions("11.3 create", "1.3 create"), mentions("1.3 created", "1.3 create")], [false, true, false, false]);
});

test("flipGuard() turns one entry round and leaves the rest", () => {
  const source = 'const a = {\n  start: ["created"],\n  stop: [],\n};\n';
  assert.equal(flipGuard(source, "start", "created"), 'const a = {\n  start: [],\n  stop: [],\n};\n');
  assert.equal(flipGuard(source, "stop", "paused"), 'const a = {\n  start: ["created"],\n  stop: ["paused"],\n};\n');
  assert.throws(() => flipGuard(source, "exec", "paused"));
});
