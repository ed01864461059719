// What the runner of the tests must notice:
// - a test that fails, a hook that fails, a process that ends in the middle
// - a file that does not end in time
// - a process left behind, even one that has detached itself and one that is started anew
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { adoptOrphans } from "../../scripts/test-runner/descendants.ts";
import { type FileResult, runTestFiles } from "../../scripts/test-runner/run-file.ts";

const folder = mkdtempSync(join(tmpdir(), "casemate-runner-"));
adoptOrphans();
after(() => rmSync(folder, { recursive: true, force: true }));

const root = join(import.meta.dirname, "../..");
const imports = 'import { test, after } from "node:test"; import { spawn } from "node:child_process";\n';

async function run(name: string, code: string, timeoutMs = 30_000): Promise<FileResult> {
  const file = join(folder, `${name}.test.ts`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(file, imports + code);
  return runTestFiles({ root, title: name, files: [file], outputFolder: join(folder, name), timeoutMs });
}

const outcomes = (result: FileResult): string[] => result.outcomes.map(({ outcome }) => outcome);

test("runTestFiles() counts what passed, failed and was skipped", async () => {
  const result = await run("counts", 'test("a", () => {}); test("b", () => { throw new Error("b"); }); test("c", { skip: "requires kvm: none" }, () => {}); test("d", async (t) => { await t.test("e", () => { throw new Error("e"); }); });');
  assert.deepEqual(outcomes(result), ["passed", "failed", "skipped", "failed"]);
  assert.deepEqual(result.problems, []);
});

test("runTestFiles() reports a hook that fails after passing tests", async () => {
  const result = await run("hook", 'after(() => { throw new Error("not clean"); }); test("a", () => {});');
  assert.ok(result.problems.length > 0 || outcomes(result).includes("failed"), JSON.stringify(result));
});

test("runTestFiles() reports a process that ends in the middle", async () => {
  const result = await run("crash", 'test("a", () => {}); test("b", () => { process.kill(process.pid, "SIGKILL"); });');
  assert.match(result.problems.join(), /ended before its tests: ended by SIGKILL/);
});

test("runTestFiles() reports an exit with success in the middle", async () => {
  const result = await run("exit", 'test("a", () => {}); test("b", () => { process.exit(0); });');
  assert.match(result.problems.join(), /ended before its tests: exit code 0/);
});

test("runTestFiles() ends a file that takes too long, with all it started", async () => {
  const result = await run("slow", 'test("a", async () => { spawn("setsid", ["sleep", "1000"], { stdio: "ignore" }); await new Promise((r) => setTimeout(r, 100_000)); });', 1_500);
  assert.match(result.problems.join(), /not done within 2 s/);
  assert.match(result.problems.join(), /sleep 1000/);
});

test("runTestFiles() reports processes left behind, also when they come back", async () => {
  const result = await run("left", 'test("a", () => { spawn("setsid", ["sh", "-c", "while :; do sleep 1001; done"], { stdio: "ignore", detached: true }).unref(); });');
  assert.match(result.problems.join(), /left \d processes behind/);
  assert.match(result.problems.join(), /sleep 1001/);
});
