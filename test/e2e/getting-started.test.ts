// - a new user types every command of docs/getting-started.md, in order, in one folder
// - each prints what the document shows
import assert from "node:assert/strict";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { useCasemate } from "../support/cli.ts";
import { requires } from "../support/requires.ts";
import { parseWalk, walkDifference } from "../support/walk.ts";

const casemate = useCasemate();
/** One command boots at most one VM. */
const commandTimeoutMs = 120_000;

test("D22: getting-started.md shows what its commands print", { skip: requires("root") }, async () => {
  const folder = join(casemate.folders.data, "walk");
  const bin = join(folder, "bin");
  mkdirSync(bin, { recursive: true });
  const [launcher, ...args] = casemate.commandLine([]);
  writeFileSync(join(bin, "casemate"), `#!/bin/sh\nexec ${launcher} ${args.join(" ")} "$@"\n`);
  chmodSync(join(bin, "casemate"), 0o755);
  const steps = parseWalk(readFileSync(join(import.meta.dirname, "../../docs/getting-started.md"), "utf8"));
  assert.ok(steps.length > 15, "the document's commands were found");
  const differences: string[] = [];
  for (const step of steps) {
    const { stdout } = await runProcess("sh", ["-c", `exec 2>&1; ${step.command}`], {
      cwd: folder, timeoutMs: commandTimeoutMs, okExitCodes: Array.from({ length: 256 }, (_, code) => code),
      env: { ...process.env, PATH: `${bin}:${process.env["PATH"] ?? ""}` },
    });
    const difference = walkDifference(step, stdout.toString());
    if (difference !== undefined) differences.push(difference);
  }
  assert.equal(differences.join("\n\n"), "");
});
