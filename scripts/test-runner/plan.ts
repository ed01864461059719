import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

/** The parts of a run, in their order. */
export const suiteNames = ["check", "unit", "integration", "e2e", "lab"] as const;
export type SuiteName = (typeof suiteNames)[number];

/** What was asked for on the command line. */
export interface RunRequest {
  /** Undefined: everything. */
  readonly only: SuiteName | undefined;
  /** Only test files whose path contains one of these; empty: all of them. */
  readonly filters: readonly string[];
}

/** Parses `[--only SUITE] [FILTER...]`. @throws Error that says what is allowed. */
export function parseRunRequest(args: readonly string[]): RunRequest {
  const filters: string[] = [];
  let only: SuiteName | undefined;
  for (let index = 0; index < args.length; index++) {
    const argument = args[index] ?? "";
    if (argument === "--only" || argument.startsWith("--only=")) only = suiteNamed(argument === "--only" ? args[++index] : argument.slice("--only=".length));
    else if (argument.startsWith("-")) throw new Error(`unknown option "${argument}": known is --only ${suiteNames.join("|")}`);
    else filters.push(argument);
  }
  return { only, filters };
}

function suiteNamed(name: string | undefined): SuiteName {
  const suite = suiteNames.find((candidate) => candidate === name);
  if (suite === undefined) throw new Error(`--only "${name ?? ""}": must be one of ${suiteNames.join(", ")}`);
  return suite;
}

/** Where the test files of each suite are: folders, or single files, such as one to run in the lab guest once more. */
const places: Readonly<Record<Exclude<SuiteName, "check">, readonly string[]>> = {
  unit: ["src", "scripts", "bench", "test/support", "test/fakes"],
  integration: ["test/integration"],
  e2e: ["test/e2e"],
  lab: ["test/lab"],
};

/** Test files of a suite, relative to the package, in a fixed order. A folder that is not there has none. */
export function testFiles(root: string, suite: Exclude<SuiteName, "check">, filters: readonly string[]): string[] {
  return places[suite]
    .filter((place) => existsSync(join(root, place)))
    .flatMap((place) => (place.endsWith(".ts") ? [place] : readdirSync(join(root, place), { recursive: true, encoding: "utf8" }).map((name) => `${place}/${name}`)))
    .filter((path) => path.endsWith(".test.ts") && (filters.length === 0 || filters.some((filter) => path.includes(filter))))
    .sort();
}

/** Folder in test-output of one test file: `test/e2e/run.test.ts` gives `e2e-run`. */
export function outputName(testFile: string): string {
  return testFile.replace(/^test\//, "").replace(/\.test\.ts$/, "").replaceAll("/", "-");
}
