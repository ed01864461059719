// check.ts: everything that can be said about the code without running it. Prints one line a check.
import { existsSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { RuntimeError, describeError } from "../src/shared/base/errors.ts";
import { runProcess } from "../src/shared/linux/run-process.ts";
import { checkFiles, type TextFile } from "./check-files.ts";
import { stepProblems } from "./check-steps.ts";
import { checkImports } from "./check-imports.ts";

/** One check: what it prints when something is wrong, or nothing. */
interface Check {
  readonly name: string;
  readonly run: (root: string) => Promise<string>;
}

/** How one check ended. */
export interface CheckResult {
  readonly name: string;
  readonly ok: boolean;
}

/** Far above what any of them takes; typed linting from an empty cache takes the longest, about a minute. */
const timeoutMs = 10 * 60_000;

const lintCache = ["--cache", "--cache-location", "node_modules/.cache/eslint/"];

/** The longest first, so that the short ones fill the other core. */
const checks: readonly Check[] = [
  // The cache compares a file with itself alone, but a type may change elsewhere: not where the answer counts.
  { name: "lint", run: (root) => runTool(root, "node_modules/eslint/bin/eslint.js", ["--max-warnings", "0", ...(process.env["CI"] === undefined ? lintCache : []), "."]) },
  { name: "types", run: (root) => runTool(root, "node_modules/typescript/bin/tsc", ["-p", "."]) },
  { name: "generated code", run: (root) => runTool(root, "scripts/generate.ts", ["--check"]) },
  { name: "imports", run: async (root) => checkImports(root).join("\n") },
  { name: "files", run: async (root) => checkFiles(root, await repositoryFiles(root)).join("\n") },
  { name: "steps", run: async (root) => stepProblems(await textFiles(root, /^(src\/host|test)\/.*\.ts$/)).join("\n") },
];

/** Runs all checks, as many at once as there are cores, and prints each as it ends. */
export async function runChecks(root: string): Promise<CheckResult[]> {
  const waiting = [...checks];
  const results: CheckResult[] = [];
  const worker = async (): Promise<void> => {
    for (let check = waiting.shift(); check !== undefined; check = waiting.shift()) results.push(await runCheck(root, check));
  };
  await Promise.all(Array.from({ length: Math.min(availableParallelism(), checks.length) }, worker));
  return results;
}

async function runCheck(root: string, check: Check): Promise<CheckResult> {
  const began = performance.now();
  let output: string;
  try {
    output = await check.run(root);
  } catch (error) {
    output = describeError(error);
  }
  const ok = output.trim() === "";
  console.log(`${ok ? "ok    " : "FAILED"} check: ${check.name} (${((performance.now() - began) / 1000).toFixed(1)} s)`);
  if (!ok) console.log(output.trimEnd().replaceAll(/^/gm, "  | "));
  return { name: check.name, ok };
}

async function runTool(root: string, script: string, args: readonly string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await runProcess(process.execPath, [join(root, script), ...args], { cwd: root, timeoutMs, okExitCodes: [0, 1, 2] });
  if (exitCode === 0) return "";
  return `${stdout.toString()}${stderr}` || `exit code ${exitCode}`;
}

/** Those of the repository's files with their text. */
async function textFiles(root: string, pattern: RegExp): Promise<TextFile[]> {
  return (await repositoryFiles(root)).filter((path) => pattern.test(path) && existsSync(join(root, path))).map((path) => ({ path, text: readFileSync(join(root, path), "utf8") }));
}

/** What git tracks or would track; a package unpacked without git has nothing to check here. */
async function repositoryFiles(root: string): Promise<string[]> {
  try {
    const { stdout } = await runProcess("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], { cwd: root, timeoutMs });
    return stdout.toString().split("\0").filter((path) => path !== "");
  } catch (error) {
    throw RuntimeError.wrap(error, "list the repository's files");
  }
}

if (import.meta.main) {
  const results = await runChecks(join(import.meta.dirname, ".."));
  process.exitCode = results.every(({ ok }) => ok) ? 0 : 1;
}
