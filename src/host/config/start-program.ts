// The entry of a program of ours that people wait for: dist/NAME.cjs runs the bundle dist/NAME.program.js with what V8
// compiled for earlier runs. Node's own compile cache keeps what V8 has compiled before a file runs, which is hardly any
// function of it: a quarter of the code that a start needs.
import { accessSync, constants, mkdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import { pathToFileURL } from "node:url";
import { Script } from "node:vm";
import { writeFileAtomic } from "../../shared/linux/atomic-file.ts";

/** Hash of the bundle: scripts/build.ts puts it here. V8 compares no more than the source's length. */
declare const programHash: string;

/** Node's own exit code for a program that waits for something that cannot come. */
const unsettledExitCode = 13;
/** A program that has run for longer, in seconds, looks whether it compiled much that is not kept yet. */
const longRunSeconds = 1;
/** How much more is worth a file. */
const worthwhileGrowth = 1.1;

const programPath = (process.argv[1] ?? "").replace(/\.cjs$/, ".program.js");
const codeFolder = `${dirname(programPath)}/.compile-cache`;
const codePath = `${codeFolder}/${[programHash, process.version, process.arch, ...process.execArgv].join("_").replaceAll(/[^\w.=-]/g, "")}`;

const kept = readCode();
const script = new Script(readFileSync(programPath, "latin1"), { filename: programPath, cachedData: kept });
const keptBytes = script.cachedDataRejected === false ? kept?.length ?? 0 : 0;
process.once("exit", () => {
  if (keptBytes === 0 || process.uptime() > longRunSeconds) keepCode();
});

let settled = false;
process.once("beforeExit", () => {
  if (settled) return;
  console.error(`${programPath}: ended while it waited for something that cannot come any more`);
  process.exitCode = unsettledExitCode;
});
const run = script.runInThisContext() as (url: string) => Promise<void>; // so wraps scripts/build.ts every bundle
void run(pathToFileURL(programPath).href).then(() => { settled = true; });

function readCode(): Buffer | undefined {
  try {
    return readFileSync(codePath);
  } catch {
    return undefined; // the first run, or one that may not
  }
}

/** The file is whole or not there, after a power cut too: V8 does not see what is damaged. */
function keepCode(): void {
  try {
    mkdirSync(codeFolder, { recursive: true, mode: 0o755 });
    accessSync(codeFolder, constants.W_OK); // before anything is done: few may write here
    const code = script.createCachedData();
    if (code.length >= keptBytes * worthwhileGrowth) writeFileAtomic(codePath, code, 0o644, { durable: "content" });
  } catch {
    // The next run compiles again.
  }
}
