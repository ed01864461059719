import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { type ImportTable, importProblems } from "./check-imports.ts";

const table = JSON.parse(readFileSync(new URL("imports.json", import.meta.url), "utf8")) as ImportTable; // the real one

const cases: readonly (readonly [path: string, text: string, problem: RegExp | undefined])[] = [
  ["src/host/sandbox/sandbox.ts", 'import { a } from "../store/ledger.ts";', undefined],
  ["src/host/store/ledger.ts", 'import { a } from "../sandbox/sandbox.ts";', /src\/host\/store may not import that/],
  ["src/host/sandbox/sandbox.ts", 'import { a } from "../../guest/guest.ts";', /src\/host\/sandbox may not import that/],
  ["src/guest/guest.ts", 'import { a } from "../host/store/paths.ts";', /src\/guest may not import that/],
  ["src/shared/base/errors.ts", 'import { a } from "../linux/proc.ts";', /src\/shared\/base may not import that/],
  ["src/host/sandbox/sandbox.ts", 'import type { A } from "../hypervisor/qemu/argv.ts";', /only assemble.ts names concrete drivers/],
  ["src/host/assemble.ts", 'import { A } from "./hypervisor/qemu/argv.ts";', undefined],
  ["src/host/hypervisor/qemu/launch.ts", 'import { A } from "./argv.ts";', undefined],
  ["src/host/sandbox/sandbox.ts", 'const a = await import("../control/owner.ts");', /src\/host\/sandbox may not import that/],
  ["src/host/sandbox/sandbox.ts", 'export * from "../control/owner.ts";', /src\/host\/sandbox may not import that/],
  ["src/host/sandbox/sandbox.ts", 'let a: import("../control/owner.ts").Owner;', /src\/host\/sandbox may not import that/],
  ["src/host/store/paths.ts", 'import { spawn } from "node:child_process";', /children are started by run-process.ts/],
  ["src/host/store/paths.ts", 'import type { ChildProcess } from "node:child_process";', undefined],
  ["src/host/store/paths.ts", 'import { type ChildProcess } from "node:child_process";', undefined],
  ["src/host/store/paths.ts", 'import left from "left-pad";', /not one of the packages we depend on/],
  ["src/host/store/paths.ts", 'import { Command } from "commander";', /the option parser is the command's own/],
  ["src/host/store/ledger.test.ts", 'import { a } from "../sandbox/sandbox.ts";', undefined],
  ["src/host/store/ledger.test.ts", 'import { a } from "../../guest/guest.ts";', /src\/host may not import that/],
  ["elsewhere/a.ts", 'import { a } from "../src/host/store/paths.ts";', /no entry/],
];

for (const [path, text, problem] of cases) {
  test(`importProblems() ${problem === undefined ? "allows" : "reports"} ${text} in ${path}`, () => {
    const problems = importProblems([{ path, text }], table);
    if (problem === undefined) assert.deepEqual(problems, []);
    else assert.match(problems.join("\n"), problem);
  });
}
