// parity.ts: docs/parity.md against the repository. Every row of the reference's inventory has its line; what
// the lines name exists; the tests carry the row's name and pass (those without a VM are run); each guard of
// the container's states is turned round once, and its test must fail. Prints the counts.
import { existsSync, readFileSync } from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { runProcess } from "../src/shared/linux/run-process.ts";
import { expectedMoves, expectedOperations, guardProblems, states, type Guards } from "../test/support/expected-states.ts";
import { flipGuard } from "./parity/flips.ts";
import { mentions, parityProblems, parseParity, type ParityRow } from "./parity/table.ts";

const root = join(import.meta.dirname, "..");
const testTimeoutMs = 5 * 60_000;
/** Operations whose guard is the table alone, with the test that tries them on a sandbox. */
const triedOnSandbox = ["start", "stop", "delete", "exec", "stats", "update", "pause", "resume"] as const;
const guardsFile = "src/host/sandbox/container-state.ts";

const read = (path: string): string | undefined => (path !== "" && existsSync(join(root, path)) ? readFileSync(join(root, path), "utf8") : undefined);

async function main(): Promise<void> {
  const { about: _about, ...sections } = JSON.parse(read("scripts/parity-rows.json") ?? "{}") as Readonly<Record<string, readonly string[]>>; // our own file
  const names = Object.values(sections).flat();
  const rows = parseParity(read("docs/parity.md") ?? "");
  const problems = [...parityProblems(rows, names, read), ...await testProblems(rows), ...await flipProblems()];
  for (const problem of problems) console.log(problem);
  const count = (verdict: string): number => rows.filter((row) => row.verdict === verdict).length;
  const missing = names.filter((name) => !rows.some(({ id }) => id === name)).length;
  console.log(`${rows.length} rows: ${count("same")} same, ${count("better")} better, ${count("differs")} differ, ${count("open")} open (storage part); ${missing} missing; ${problems.length} problems`);
  process.exitCode = problems.length === 0 ? 0 : 1;
}

/** Runs the rows' tests that need no VM; each row must be in the title of one that passed. */
async function testProblems(rows: readonly ParityRow[]): Promise<string[]> {
  const unit = rows.filter(({ test }) => test.startsWith("src/") && existsSync(join(root, test)));
  const files = [...new Set(unit.map(({ test }) => test))];
  const { exitCode, stdout } = await runProcess(process.execPath, ["--test", "--test-reporter=tap", "--test-isolation=none", ...files], { cwd: root, timeoutMs: testTimeoutMs, okExitCodes: [0, 1] });
  const passed = [...stdout.toString().matchAll(/^ok \d+ - (.*)$/gm)].map(([, title = ""]) => title.replaceAll("\\#", "#"));
  const unseen = unit.filter(({ id }) => !passed.some((title) => mentions(title, id))).map(({ id, test }) => `${id}: no test of ${test} with it in its title has passed`);
  return exitCode === 0 ? unseen : ["tests of the rows have failed", ...unseen];
}

async function flipProblems(): Promise<string[]> {
  const source = read(guardsFile) ?? "";
  const flips = [...Object.keys(expectedOperations), ...Object.keys(expectedMoves)].flatMap((row) => states.map((state) => ({ row, state })));
  // A state that follows itself is no move, so its entry means nothing.
  const unnoticed: string[] = [];
  for (const { row, state } of flips.filter((flip) => flip.row !== flip.state)) {
    if (guardProblems(await load(flipGuard(source, row, state))).length === 0) unnoticed.push(`guard ${row}, ${state}: turned round, and the test passes`);
  }
  const onSandbox = await Promise.all(triedOnSandbox.map(async (operation) => {
    const { exitCode } = await runProcess(process.execPath, ["--import", "./scripts/flip-guard.ts", "--test", "--test-isolation=none", `--test-name-pattern=: ${operation} is allowed`, "src/host/sandbox/guards.test.ts"], { cwd: root, env: { ...process.env, FLIP: `${operation}:running` }, timeoutMs: testTimeoutMs, okExitCodes: [0, 1] });
    return exitCode === 0 ? [`guard ${operation}: turned round, and the sandbox's test passes`] : [];
  }));
  console.log(`${flips.length - states.length} guards turned round in the table, ${triedOnSandbox.length} on a sandbox`);
  return [...unnoticed, ...onSandbox.flat()];
}

/** A module from its source in memory; its imports are those of the file. */
async function load(source: string): Promise<Guards> {
  const errors = pathToFileURL(join(root, "src/shared/base/errors.ts")).href;
  const plain = stripTypeScriptTypes(source).replace("../../shared/base/errors.ts", errors);
  return await import(`data:text/javascript;base64,${Buffer.from(plain).toString("base64")}`) as Guards; // container-state.ts but for one entry
}

await main();
