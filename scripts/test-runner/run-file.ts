import { closeSync, mkdirSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { isErrnoException } from "../../src/shared/base/errors.ts";
import { describeExit, startProcess, terminateGroup } from "../../src/shared/linux/run-process.ts";
import { endDescendants } from "./descendants.ts";
import { type TestOutcome, endLine } from "./event-reporter.ts";

/** How one process with one or more test files ended. */
export interface FileResult {
  /** What is printed as its name. */
  readonly title: string;
  readonly outcomes: readonly TestOutcome[];
  /** What went wrong beside the tests that failed: a time limit, processes left behind. */
  readonly problems: readonly string[];
  readonly seconds: number;
  /** All that it printed. */
  readonly outputFile: string;
}

/** What to run. */
export interface FileRun {
  readonly root: string;
  readonly title: string;
  readonly files: readonly string[];
  readonly outputFolder: string;
  readonly timeoutMs: number;
}

/** Time for a test process to end by itself after SIGTERM; its hooks clean the host up in it. */
const graceMs = 5_000;

/** Runs test files in one process of their own and ends whatever they leave behind. */
export async function runTestFiles(run: FileRun): Promise<FileResult> {
  rmSync(run.outputFolder, { recursive: true, force: true });
  mkdirSync(run.outputFolder, { recursive: true });
  const outputFile = join(run.outputFolder, "output.log");
  const eventsFile = join(run.outputFolder, "events.jsonl");
  const began = performance.now();
  const problems = await runProcessOf(run, outputFile, eventsFile);
  const left = await endDescendants();
  if (left.length > 0) problems.push(`left ${left.length} processes behind:\n${left.map((line) => `    ${line.slice(0, 200)}`).join("\n")}`);
  return { title: run.title, outcomes: readEvents(eventsFile).outcomes, problems, seconds: (performance.now() - began) / 1000, outputFile };
}

async function runProcessOf(run: FileRun, outputFile: string, eventsFile: string): Promise<string[]> {
  const output = openSync(outputFile, "w");
  try {
    const { child, exited } = await startProcess(process.execPath, testArguments(run, eventsFile), {
      cwd: run.root,
      env: { ...process.env, CASEMATE_TEST_OUTPUT: run.outputFolder },
      stdio: ["ignore", output, output],
    });
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      void terminateGroup(child, graceMs); // its end is what `exited` waits for
    }, run.timeoutMs);
    const exit = await exited;
    clearTimeout(timer);
    if (timedOut) return [`not done within ${Math.round(run.timeoutMs / 1000)} s: ended`];
    const { outcomes, complete } = readEvents(eventsFile);
    if (!complete) return [`the test process ended before its tests: ${describeExit(exit)}`];
    // Exit code 1 says that a test failed, which the events tell better.
    const failedTests = outcomes.some(({ outcome }) => outcome === "failed");
    return exit.exitCode === 0 || (exit.exitCode === 1 && failedTests) ? [] : [`the test process failed outside of its tests: ${describeExit(exit)}`];
  } finally {
    closeSync(output);
  }
}

function testArguments(run: FileRun, eventsFile: string): string[] {
  return [
    "--test", "--test-isolation=none",
    `--test-reporter=${join(run.root, "scripts/test-runner/event-reporter.ts")}`, `--test-reporter-destination=${eventsFile}`,
    "--test-reporter=spec", "--test-reporter-destination=stdout",
    ...run.files,
  ];
}

function readEvents(eventsFile: string): { readonly outcomes: TestOutcome[]; readonly complete: boolean } {
  let text: string;
  try {
    text = readFileSync(eventsFile, "utf8");
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return { outcomes: [], complete: false };
    throw error;
  }
  // Written by event-reporter.ts; a killed process may leave half a line at the end.
  const lines = text.slice(0, text.lastIndexOf("\n") + 1).split("\n").filter((line) => line !== "");
  return { outcomes: lines.filter((line) => line !== endLine).map((line) => JSON.parse(line) as TestOutcome), complete: lines.at(-1) === endLine };
}
