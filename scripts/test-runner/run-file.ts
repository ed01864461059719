import { closeSync, mkdirSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { isErrnoException } from "../../src/shared/base/errors.ts";
import { type ProcessExit, describeExit, startProcess, terminateGroup } from "../../src/shared/linux/run-process.ts";
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

/** A process to run. */
export interface ProgramRun {
  readonly root: string;
  readonly title: string;
  readonly outputFolder: string;
  readonly timeoutMs: number;
}

/** Test files to run. */
export interface FileRun extends ProgramRun {
  readonly files: readonly string[];
}

/** Time for a test process to end by itself after SIGTERM; its hooks clean the host up in it. */
const graceMs = 5_000;

/** Runs test files in one process of their own and ends whatever they leave behind. */
export async function runTestFiles(run: FileRun): Promise<FileResult> {
  const eventsFile = join(run.outputFolder, "events.jsonl");
  const result = await runProgram(run, testArguments(run, eventsFile), (exit) => problemsOfTests(readEvents(eventsFile), exit));
  return { ...result, outcomes: readEvents(eventsFile).outcomes };
}

/** Runs Node with these arguments in a process of its own and ends whatever it leaves behind. `problemsOf` says what its end means, if it ends by itself. */
export async function runProgram(run: ProgramRun, args: readonly string[], problemsOf: (exit: ProcessExit) => string[]): Promise<FileResult> {
  rmSync(run.outputFolder, { recursive: true, force: true });
  mkdirSync(run.outputFolder, { recursive: true });
  const outputFile = join(run.outputFolder, "output.log");
  const began = performance.now();
  const exit = await runToEnd(run, args, outputFile);
  const problems = exit === undefined ? [`not done within ${Math.round(run.timeoutMs / 1000)} s: ended`] : problemsOf(exit);
  const left = await endDescendants();
  if (left.length > 0) problems.push(`left ${left.length} processes behind:\n${left.map((line) => `    ${line.slice(0, 200)}`).join("\n")}`);
  return { title: run.title, outcomes: [], problems, seconds: (performance.now() - began) / 1000, outputFile };
}

/** Undefined: the time was over. */
async function runToEnd(run: ProgramRun, args: readonly string[], outputFile: string): Promise<ProcessExit | undefined> {
  const output = openSync(outputFile, "w");
  try {
    const { child, exited } = await startProcess(process.execPath, args, {
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
    return timedOut ? undefined : exit;
  } finally {
    closeSync(output);
  }
}

function problemsOfTests({ outcomes, complete }: ReturnType<typeof readEvents>, exit: ProcessExit): string[] {
  if (!complete) return [`the test process ended before its tests: ${describeExit(exit)}`];
  // Exit code 1 says that a test failed, which the events tell better.
  const failedTests = outcomes.some(({ outcome }) => outcome === "failed");
  return exit.exitCode === 0 || (exit.exitCode === 1 && failedTests) ? [] : [`the test process failed outside of its tests: ${describeExit(exit)}`];
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
