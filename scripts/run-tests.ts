// run-tests.ts [--only check|unit|integration|e2e|lab] [FILTER...]: runs the tests and prints one closing line.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describeError } from "../src/shared/base/errors.ts";
import { stateFolders } from "../src/host/store/paths.ts";
import { runChecks } from "./check.ts";
import { adoptOrphans, endDescendants } from "./test-runner/descendants.ts";
import { limits } from "./test-runner/limits.ts";
import { type RunRequest, type SuiteName, outputName, parseRunRequest, testFiles } from "./test-runner/plan.ts";
import { prepareMachine } from "./test-runner/prepare-machine.ts";
import { type FileResult, runTestFiles } from "./test-runner/run-file.ts";
import { readAllowedSkips, skipProblems } from "./test-runner/skips.ts";
import { VmCount } from "./test-runner/vm-count.ts";
import { labObstacle } from "../test/lab/lab-guest.ts";
import { runInLab } from "../test/lab/run-in-lab.ts";

const root = join(import.meta.dirname, "..");
const inCi = process.env["CI"] !== undefined && process.env["CI"] !== "" && process.env["CI"] !== "false";
const tailLines = 60;
const counts = { passed: 0, failed: 0, skipped: 0 };
const began = performance.now();

async function main(): Promise<void> {
  const request = parseRunRequest(process.argv.slice(2));
  adoptOrphans();
  const vms = new VmCount();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => void interrupt());
  if (wanted(request, "check") && request.filters.length === 0) await check();
  if (wanted(request, "unit")) await runUnitTests(request);
  const suites = (["integration", "e2e"] as const).filter((suite) => wanted(request, suite) && testFiles(root, suite, request.filters).length > 0);
  const labFiles = wanted(request, "lab") ? testFiles(root, "lab", request.filters) : [];
  if (suites.length > 0 || labFiles.length > 0) await prepare();
  for (const suite of suites) await runSuite(suite, request);
  if (labFiles.length > 0) await runLab(labFiles, vms);
  vms.stop();
  finish(vms);
}

function wanted(request: RunRequest, suite: SuiteName): boolean {
  return request.only === undefined || request.only === suite;
}

async function check(): Promise<void> {
  for (const result of await runChecks(root)) {
    if (result.ok) counts.passed++;
    else counts.failed++;
  }
}

/** Tests that need no VM still run when nothing can be made. */
async function prepare(): Promise<void> {
  try {
    await prepareMachine(root);
  } catch (error) {
    problem(`prepare the machine: ${describeError(error)}`);
  }
}

/** All in one process: they take milliseconds each, where a process would take 100. */
async function runUnitTests(request: RunRequest): Promise<void> {
  const files = testFiles(root, "unit", request.filters);
  if (files.length === 0) return;
  report(await runTestFiles({ root, title: `${files.length} unit test files`, files, outputFolder: join(root, "test-output/unit"), timeoutMs: limits.unitMs }));
}

/** One process a file, one after the other: each has VMs of its own, and two cores carry one at a time. */
async function runSuite(suite: "integration" | "e2e", request: RunRequest): Promise<void> {
  for (const file of testFiles(root, suite, request.filters)) {
    const leftMs = limits.totalMs - (performance.now() - began);
    if (leftMs <= 0) {
      problem(`${file}: not run, the whole run may take ${limits.totalMs / 60_000} minutes`);
      continue;
    }
    report(await runTestFiles({ root, title: file, files: [file], outputFolder: join(root, "test-output", outputName(file)), timeoutMs: Math.min(limits.fileMs, leftMs) }));
  }
}

/** In a guest where KVM and cgroup v2 are real (docs/lab-guest.md). Its tests count as any others. */
async function runLab(files: readonly string[], vms: VmCount): Promise<void> {
  const obstacle = labObstacle();
  if (obstacle !== undefined) {
    if (inCi) problem(`lab guest: ${obstacle}`);
    else console.log(`lab guest: skipped, ${obstacle}`);
    counts.skipped += files.length;
    return;
  }
  const labBegan = performance.now();
  const timeoutMs = Math.min(limits.labMs, limits.totalMs - (labBegan - began));
  const lab = await runInLab({ root, folders: stateFolders(undefined), outputFolder: join(root, "test-output/lab"), files, timeoutMs, onResult: report, onProblem: (text) => problem(`lab guest: ${text}`) });
  for (const file of lab.missing) problem(`${file}, in the lab guest: no result`);
  vms.add(lab.vmCount, lab.vmSeconds);
  for (const failure of lab.failures) console.log(`  lab guest given up: ${indent(failure)}`);
  console.log(`lab guest: ${lab.boots} booted, ${lab.failures.length} given up, ${((performance.now() - labBegan) / 1000).toFixed(1)} s`);
}

function report(result: FileResult): void {
  const { outcomes } = result;
  const number = (wantedOutcome: string): number => outcomes.filter(({ outcome }) => outcome === wantedOutcome).length;
  const problems = [...result.problems, ...skipProblems(outcomes, readAllowedSkips(join(root, "test/allowed-skips.json")), inCi)];
  if (outcomes.length === 0 && problems.length === 0) problems.push("has no tests");
  counts.passed += number("passed");
  counts.failed += number("failed") + problems.length;
  counts.skipped += number("skipped");
  const failed = number("failed") > 0 || problems.length > 0;
  const skipped = number("skipped") > 0 ? `, ${number("skipped")} skipped` : "";
  console.log(`${failed ? "FAILED" : "ok    "} ${result.title}: ${number("passed")} passed${skipped}, ${result.seconds.toFixed(1)} s`);
  if (number("failed") > 0 || result.problems.length > 0) console.log(indent(tail(result.outputFile)));
  for (const text of problems) console.log(`  problem: ${text}`);
}

function problem(text: string): void {
  counts.failed++;
  console.log(`FAILED ${text}`);
}

function finish(vms: VmCount): void {
  console.log(`${vms.count} VMs booted, ${Math.round(vms.seconds)} s`);
  if (vms.count > limits.vmCount) problem(`${vms.count} VMs: the whole run may boot ${limits.vmCount}`);
  const seconds = (performance.now() - began) / 1000;
  if (seconds * 1000 > limits.totalMs) problem(`the run took ${Math.round(seconds)} s: it may take ${limits.totalMs / 1000}`);
  if (counts.passed + counts.failed + counts.skipped === 0) problem("no test was run: nothing fits the filter");
  closingLine();
  process.exitCode = counts.failed === 0 ? 0 : 1;
}

function closingLine(): void {
  console.log(`${counts.passed} passed, ${counts.failed} failed${counts.skipped > 0 ? `, ${counts.skipped} skipped` : ""}`);
}

async function interrupt(): Promise<void> {
  await endDescendants();
  problem("interrupted");
  closingLine();
  process.exit(130);
}

function tail(path: string): string {
  return readFileSync(path, "utf8").trimEnd().split("\n").slice(-tailLines).join("\n");
}

function indent(text: string): string {
  return text.replaceAll(/^/gm, "  | ");
}

try {
  await main();
} catch (error) {
  problem(error instanceof Error ? error.message : String(error));
  closingLine();
  process.exitCode = 1;
}
