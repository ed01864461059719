// The `casemate` command. Each command's module is loaded only when it is called for, so that short
// commands stay short.
import { CommanderError } from "commander";
import { buildProgram } from "./program.ts";
import { exitCodes, exitWith, reportError } from "./exit.ts";

// Whoever read our output may have gone (`... | head`): a write that matters tells its caller.
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);
try {
  const program = await buildProgram(process.argv.slice(2));
  await program.parseAsync(process.argv);
} catch (error) {
  if (error instanceof CommanderError) {
    // Help and version end with 0; bad options with docker's 125.
    await exitWith(error.exitCode === 0 ? 0 : exitCodes.casemateFailed);
  }
  reportError(error, process.argv.includes("--debug") || process.argv.includes("-D"));
  await exitWith(exitCodes.casemateFailed);
}
